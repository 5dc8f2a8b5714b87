"""The relay is a real server on loopback, with and without PIPELINING (RFC 2920)."""

import itertools
import os
import resource
import smtplib
import socket
import ssl
import threading
import time
from contextlib import ExitStack, suppress
from email.message import EmailMessage

import pytest
import trustme
from salmon.server import SMTPError

from mailroom.envelope import Envelope
from mailroom.relay import Relay, Unreachable

MAIL = Envelope("<>", ("alice@people.example",), b"Subject: hello\r\n\r\n.a dot\r\n..two\r\n")


class Server:
    """Takes mail, and answers what `answers` has for a command; a None closes the connection instead."""

    def __init__(self, *extensions, tls=None, dripping="nothing"):
        self.extensions = extensions
        self.dripping = dripping  # answers that begin so come octet by octet, and never end
        self.answers = {}
        self.recipients = 0  # a mail may have; 0 for any number
        self.heard = []
        self.connections = 0
        self.mails = []
        self.listener = socket.create_server(("127.0.0.1", 0))
        if tls:
            self.listener = tls.wrap_socket(self.listener, server_side=True)
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            self.connections += 1
            with connection, suppress(ConnectionError), connection.makefile("rwb") as wire:
                self._serve(wire)

    def _serve(self, wire):
        self._say(wire, "220 hello")
        for line in wire:
            command = line[:4].upper().strip().decode()
            answer = self.answers.get(command, "354 go on" if command == "DATA" else "250 ok")
            if command == "MAIL":
                offered = 0
            if command == "RCPT":
                offered += 1
                if self.recipients and offered > self.recipients:
                    answer = "452 4.5.3 too many recipients"
                else:
                    self.heard.append(line.decode().strip().partition(":")[2])
            if answer is None:
                return
            if command == "EHLO":
                answer = "\r\n".join([*(f"250-{extension}" for extension in self.extensions), "250 HELP"])
            self._say(wire, answer)
            if answer.startswith("354"):
                content = b""
                while (line := wire.readline()) != b".\r\n":
                    if not line:
                        return
                    content += line.removeprefix(b".")
                self.mails.append(content)
                self._say(wire, self.answers.get("content", "250 taken"))

    def _say(self, wire, answer):
        for octet in itertools.cycle(b"250-more\r\n") if answer.startswith(self.dripping) else ():
            wire.write(bytes([octet]))
            wire.flush()
            time.sleep(0.02)
        wire.write(answer.encode() + b"\r\n")
        wire.flush()


@pytest.fixture(params=[(), ("PIPELINING", "SIZE 1000000", "8BITMIME")], ids=["bare", "pipelining"])
def server(request):
    server = Server(*request.param)
    yield server
    server.listener.close()


@pytest.fixture
def relay(server):
    relay = Relay(*server.listener.getsockname(), timeout=10)
    yield relay
    relay.close()


def test_mails_arrive_octet_by_octet_over_one_connection(server, relay):
    relay.send_now(MAIL)
    relay.send_now(MAIL)

    assert server.mails == [MAIL.data, MAIL.data]
    assert server.connections == 1


@pytest.mark.parametrize(("command", "answer", "code"), [("MAIL", "451 no", 451), ("RCPT", "550 no", 550)])
def test_refusal_of_the_relay_is_raised_and_nothing_is_sent(server, relay, command, answer, code):
    server.answers[command] = answer
    with pytest.raises(SMTPError) as refused:
        relay.send_now(MAIL)

    server.answers.clear()
    relay.send_now(MAIL)
    assert refused.value.code == code
    assert server.mails == [MAIL.data]


def test_mail_goes_to_all_recipients_and_hides_bcc(room, server, relay):
    mail = EmailMessage()
    mail["To"], mail["Cc"], mail["Bcc"] = "a@x.example, b@x.example", "c@x.example", "d@x.example"
    with room.transaction() as transaction:
        relay.deliver(mail, From="<>")

        assert server.mails == []
        (envelope,) = transaction.mail
    relay.send_now(envelope)

    assert envelope.recipients == tuple(f"{name}@x.example" for name in "abcd")
    assert b"d@x.example" not in server.mails[0]
    assert mail["Bcc"] == "d@x.example"


def test_relay_reconnects_when_the_connection_was_closed(server, relay):
    relay.send_now(MAIL)
    server.answers["MAIL"] = None
    with pytest.raises(SMTPError) as refused:
        relay.send_now(MAIL)

    server.answers.clear()
    relay.send_now(MAIL)
    assert refused.value.code == 451
    assert (len(server.mails), server.connections) == (2, 3)


def test_mail_leaves_where_more_than_1024_files_are_open(server, relay):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 2048)), hard))
    with ExitStack() as files:
        for _ in range(1100):
            files.enter_context(open(os.devnull))
        answers = relay.transfer(MAIL, prolong=lambda seconds: None)

    assert [answer.code for answer in answers.values()] == [250]


def test_fault_in_the_middle_of_a_mail_leaves_the_next_one_its_own_answers(server, relay, monkeypatch):
    with monkeypatch.context() as patched, pytest.raises(ValueError):
        patched.setattr("mailroom.relay.one_line", lambda text: int("a fault"))
        relay.transfer(MAIL)

    relay.send_now(MAIL)

    assert server.mails == [MAIL.data]


def test_mail_to_more_recipients_than_a_relay_takes_at_once_goes_in_portions(server, relay):
    crowd = [f"{number}@people.example" for number in range(1500)]
    server.recipients = 100
    relay.deliver(MAIL.data, To=crowd, From="<>")

    assert server.heard == [f"<{address}>" for address in crowd]
    assert server.connections == 1


@pytest.mark.parametrize("step", ["220", "250-HELP", "250 ok", "354", "250 taken"])
def test_relay_whose_octets_drip_holds_a_mail_no_longer_than_its_time(monkeypatch, step):
    monkeypatch.setattr("mailroom.envelope.SECONDS", 0.5)
    monkeypatch.setattr("mailroom.relay.LAST_ANSWER", 0.5)
    server = Server("HELP", dripping=step)
    relay = Relay(*server.listener.getsockname(), timeout=0.5)
    begin = time.monotonic()
    with pytest.raises((OSError, smtplib.SMTPException)) as failure:
        relay.transfer(MAIL, prolong=lambda seconds: None)
    server.listener.close()

    assert time.monotonic() - begin < 3
    assert isinstance(failure.value, Unreachable) == (step in ("220", "250-HELP"))


def test_relay_that_answers_421_to_a_new_connection_takes_no_mail_at_all(server, relay):
    server.answers["MAIL"] = "421 4.3.2 too many connections"
    with pytest.raises(Unreachable):
        relay.transfer(MAIL)


def test_line_end_in_an_address_becomes_no_command(server, relay):
    with pytest.raises(ValueError):
        relay.send_now(Envelope("<>", ('"a\r\nDATA"@people.example',), MAIL.data))

    assert server.mails == []


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost"])
def test_password_may_go_in_clear_to_this_machine(host):
    assert Relay(host, 25, "news", "secret").username == "news"


def test_password_in_clear_to_another_machine_ends_the_start_in_one_line():
    with pytest.raises(SystemExit) as end:
        Relay("relay.example", 25, "news", "secret")

    assert (
        end.value.code
        == "ERROR: RELAY_TLS False sends the password to relay.example in clear; for example RELAY_TLS=yes"
    )
    assert Relay("relay.example", 25, "news", "secret", tls=True).starttls


def test_tls_at_port_465_begins_with_the_connection(monkeypatch):
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    server = Server(tls=context)
    port = server.listener.getsockname()[1]
    monkeypatch.setattr("mailroom.relay.IMPLICIT_TLS", port)
    monkeypatch.setattr(ssl, "create_default_context", lambda: trusting)
    relay = Relay("127.0.0.1", port, tls=True, timeout=10)

    relay.send_now(MAIL)
    relay.close()

    assert server.mails == [MAIL.data]
