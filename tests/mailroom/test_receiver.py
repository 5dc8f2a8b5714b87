"""The receivers, spoken to over loopback as a mail server does."""

import smtplib
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from unittest.mock import Mock

import pytest
from salmon.routing import Router
from salmon.server import SMTPError

from mailroom import LMTPReceiver, Message, SMTPReceiver, failing
from mailroom.storage import StorageError
from mailroom.storage.locks import PATIENCE
from mailroom.storage.sqlite import SQLiteStorage
from mailroom.testing import assert_in_state
from tests.mailroom.trial_list import CONFIRMING, FORWARD

ALICE = "alice@people.example"
MAIL = "From: alice@people.example\r\nSubject: hello\r\n\r\n.a dot\r\n"


@pytest.fixture(params=[LMTPReceiver, SMTPReceiver])
def client(request, room):
    room.max_message_size = 10_000
    receiver = request.param(room, "127.0.0.1", 0)
    receiver.open()
    thread = threading.Thread(target=receiver.run)
    thread.start()
    try:
        connect = {LMTPReceiver: smtplib.LMTP, SMTPReceiver: smtplib.SMTP}[request.param]
        with connect("127.0.0.1", receiver.port, timeout=10) as client:
            yield client
    finally:
        receiver.stop()
        thread.join(10)


@pytest.mark.parametrize("kind", [LMTPReceiver, SMTPReceiver])
def test_receiver_opens_its_port_at_start_only(room, kind):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        receiver = kind(room, *taken.getsockname())

        with pytest.raises(SystemExit, match="ERROR: RECEIVER_HOST, RECEIVER_PORT .* cannot be used: .*in use"):
            receiver.start()


def address(local_part):
    return f"{local_part}@example.com"


def test_handled_mail_is_answered_250(client, sent):
    client.sendmail(ALICE, [address("news-subscribe")], MAIL)

    assert_in_state(CONFIRMING, ALICE, "news")
    assert len(sent) == 1


@pytest.mark.parametrize("header", ["", "From: bob@people.example\r\n", "From: =?utf-8?b?broken\r\nTo: x\r\n"])
def test_sender_and_recipient_are_those_of_the_envelope(client, header):
    client.sendmail("Alice@People.Example", [address("News-Subscribe")], f"{header}\r\nHello.\r\n")

    assert_in_state(CONFIRMING, ALICE, "news")


def test_address_without_handler_is_refused_at_rcpt(client):
    client.ehlo_or_helo_if_needed()
    client.mail(ALICE)

    assert client.rcpt(address("nobody"))[0] == 550


def test_mail_over_max_message_size_is_refused(client):
    client.ehlo_or_helo_if_needed()
    client.mail(ALICE)
    client.rcpt(address("news-subscribe"))

    code, text = client.data(MAIL + "x" * 20_000)
    assert (code, text[:5]) == (552, b"5.3.4")


def test_leading_dots_arrive_unchanged(client, sent):
    client.sendmail(ALICE, [address("postmaster")], MAIL)

    assert sent[0].data.endswith(b"\r\n" + MAIL.encode())


def refuse_oddly(*arguments):
    raise SMTPError(1000, "no reply code")


@pytest.mark.parametrize("answer", [None, refuse_oddly, lambda *arguments: "SUBSCRIBED"])
def test_mail_whose_handler_fails_is_answered_451_and_the_log_names_the_handler(client, monkeypatch, caplog, answer):
    monkeypatch.setattr("tests.mailroom.trial_list.answer", answer)
    client.ehlo_or_helo_if_needed()
    client.mail(ALICE)
    client.rcpt(address("news"))

    assert client.data(MAIL)[0] == 451
    (record,) = [record for record in caplog.records if record.levelname == "ERROR"]
    assert "tests.mailroom.trial_list.START" in record.getMessage() + str(record.exc_info[1])
    assert "mail from 'alice@people.example' to 'news@example.com', Message-ID unknown" in record.getMessage()


def test_words_after_noop_are_ignored(client):
    assert client.docmd("NOOP is anybody there?")[0] == 250


def test_helo_is_answered_without_extensions(client):
    if not isinstance(client, smtplib.LMTP):
        assert client.docmd("HELO", "people.example") == (250, b"example.com")


def test_recipients_over_the_limit_are_refused_for_now(client, monkeypatch):
    monkeypatch.setattr(LMTPReceiver, "max_recipients", 2)
    client.mail(ALICE)

    codes = [client.rcpt(address("news"))[0] for _ in range(4)]
    assert codes == ([250, 250, 452, 452] if isinstance(client, smtplib.LMTP) else [250, 452, 452, 452])


def test_handled_mail_is_answered_250_when_no_more_files_may_be_open(client, monkeypatch):
    monkeypatch.setattr(failing, "FOLDER", Mock(**{"glob.side_effect": OSError(24, "Too many open files")}))
    failing._is_empty.cache_clear()

    assert client.sendmail(ALICE, [address("news-subscribe")], MAIL) == {}


@pytest.mark.parametrize("command", ["EHLO", "HELO"])
def test_smtp_client_at_the_lmtp_port_gets_an_answer_that_says_so(client, command):
    if isinstance(client, smtplib.LMTP):
        code, text = client.docmd(command, "people.example")
        assert (code, text) == (500, b"5.5.1 This port speaks LMTP (RFC 2033), not SMTP: say LHLO")


def test_after_a_lock_that_was_waited_for_the_next_mail_waits_in_a_thread_at_once(client, room, monkeypatch):
    waited = []

    def deliver(*arguments, waits):
        waited.append(waits)
        if not waits:
            time.sleep(2 * PATIENCE)
            raise StorageError from TimeoutError("others write")

    monkeypatch.setattr(room, "deliver", deliver)
    for sender in (ALICE, "bob@people.example"):
        client.sendmail(sender, [address("news")], MAIL)
    assert waited == [False, True, True]


def test_ordinary_mail_is_answered_while_a_slow_handler_runs(client, path, monkeypatch):
    Router.STATE_STORE = SQLiteStorage(path)
    began, go = threading.Event(), threading.Event()
    monkeypatch.setattr(FORWARD, "_salmon_settings", {**FORWARD._salmon_settings, "nolocking": True})
    monkeypatch.setattr(Message, "forward", lambda message, to: began.set() or go.wait(30))
    port = client.sock.getpeername()[1]
    with ThreadPoolExecutor() as pool, type(client)("127.0.0.1", port, timeout=10) as other:
        slow = pool.submit(client.sendmail, "bob@people.example", [address("postmaster")], MAIL)
        assert began.wait(10)
        try:
            other.sock.settimeout(3)
            assert other.noop()[0] == 250
            other.sock.settimeout(10)
            other.sendmail(ALICE, [address("news-subscribe")], MAIL)
            assert not slow.done()
        finally:
            go.set()
        assert slow.result(10) == {}
    assert_in_state(CONFIRMING, ALICE, "news")
