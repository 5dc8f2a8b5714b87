"""The receiver itself, spoken to over loopback as a mail server would."""

import smtplib
import threading

import pytest

from app.mail.receiver import open_receiver
from config import settings
from tests.conversation import assert_in_state
from tests.trial_list import CONFIRMING

pytestmark = pytest.mark.usefixtures("trial_list")
ALICE = "alice@people.example"
MAIL = "From: alice@people.example\r\nSubject: hello\r\n\r\n.a dot\r\n"


@pytest.fixture(params=["lmtp", "smtp"])
def client(request):
    receiver = open_receiver(request.param, "127.0.0.1", 0, max_message_size=10_000)
    thread = threading.Thread(target=receiver.start)
    thread.start()
    try:
        connect = {"lmtp": smtplib.LMTP, "smtp": smtplib.SMTP}[request.param]
        with connect(*receiver.socket.getsockname(), timeout=10) as client:
            yield client
    finally:
        receiver.stop()
        thread.join(10)


def address(local_part):
    return f"{local_part}@{settings.mail_domain}"


def test_mail_that_was_handled_is_answered_250(client):
    client.sendmail(ALICE, [address("news-subscribe")], MAIL)

    assert_in_state(CONFIRMING, ALICE)
    assert len(settings.relay.sent) == 1


@pytest.mark.parametrize("header", ["", "From: bob@people.example\r\n", "From: =?utf-8?b?broken\r\nTo: x\r\n"])
def test_the_envelope_says_who_writes_to_whom(client, header):
    client.sendmail("Alice@People.Example", [address("News-Subscribe")], f"{header}\r\nHello.\r\n")

    assert_in_state(CONFIRMING, ALICE)


def test_an_address_that_nobody_handles_is_refused_at_once(client):
    client.ehlo_or_helo_if_needed()
    client.mail(ALICE)

    assert client.rcpt(address("nobody"))[0] == 550


def test_a_mail_that_is_too_big_is_refused(client):
    client.ehlo_or_helo_if_needed()
    client.mail(ALICE)
    client.rcpt(address("news-subscribe"))

    code, text = client.data(MAIL + "x" * 20_000)
    assert (code, text[:5]) == (552, b"5.3.4")


def test_dots_arrive_as_they_were(client):
    client.sendmail(ALICE, [address("postmaster")], MAIL)

    assert settings.relay.sent[0].data == MAIL.encode()


def test_a_handler_that_fails_is_answered_451(client, monkeypatch):
    monkeypatch.setattr("tests.trial_list.answer", None)
    client.ehlo_or_helo_if_needed()
    client.mail(ALICE)
    client.rcpt(address("news"))

    assert client.data(MAIL)[0] == 451


def test_what_follows_noop_is_ignored(client):
    assert client.docmd("NOOP is anybody there?")[0] == 250
