"""The way out: what a relay may do to a reply, with real connections, TLS and logins."""

import socket
import ssl
import threading
from contextlib import contextmanager

import pytest
import trustme
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult
from salmon.server import SMTPError

from tests import baking
from tests.ports import free_port
from tests.raw import Raw

ALICE = "alice@people.example"
MAIL = b"From: alice@people.example\r\nMessage-ID: <1@people.example>\r\n\r\nHello."


@pytest.fixture(scope="module")
def relays(baked):
    """The module `app.mail.relay` of an application."""
    return baking.import_baked(baked("sqlite"), "app.mail.relay")


@pytest.fixture
def envelope(relays):
    return relays.Envelope("<>", (ALICE,), b"Subject: hello\r\n\r\n.dot\r\n")


class Script:
    """A relay that follows a script: for each connection a list of `(command, answer)`, None to hang up.

    `heard` has what was said to it, by connection; content of mails is in `contents`.
    """

    def __init__(self, *connections, greeting="220 script"):
        self.greeting = greeting
        self.connections = connections
        self.heard = []
        self.contents = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.host, self.port = self._listener.getsockname()

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *exception):
        self._listener.close()
        self._thread.join(30)

    def _run(self):
        for script in self.connections:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection, connection.makefile("rwb") as stream:
                self.heard.append([])
                stream.write(self.greeting.encode() + b"\r\n")
                stream.flush()
                self._follow(script, stream)

    def _follow(self, script, stream):
        for command, answer in script:
            line = stream.readline() if command != "." else self._content(stream)
            if not line:
                return
            self.heard[-1].append(line.decode().split()[0] if command != "." else ".")
            assert self.heard[-1][-1] == command, (command, line)
            if answer is None:
                return
            stream.write(answer.encode() + b"\r\n")
            stream.flush()
        stream.read()

    def _content(self, stream):
        content = b""
        while not content.endswith(b"\r\n.\r\n"):
            line = stream.readline()
            if not line:
                return b""
            content += line
        self.contents.append(content)
        return content


HELLO = ("ehlo", "250 script")
ONE_MAIL = [("MAIL", "250 OK"), ("RCPT", "250 OK"), ("DATA", "354 go on"), (".", "250 OK")]


def test_one_connection_serves_many_replies(relays, envelope):
    with Script([HELLO, *ONE_MAIL, *ONE_MAIL, *ONE_MAIL]) as script:
        relay = relays.Relay(script.host, script.port)
        for _ in range(3):
            relay.send_now(envelope)
        relay.close()

    assert script.contents == [b"Subject: hello\r\n\r\n..dot\r\n.\r\n"] * 3


@pytest.mark.parametrize(
    "first",
    [
        [*ONE_MAIL, ("MAIL", None)],  # it went when we had begun
        [*ONE_MAIL, ("MAIL", "421 4.7.0 too many mails on this connection")],
        [*ONE_MAIL, ("MAIL", "250 OK"), ("RCPT", None)],
        [*ONE_MAIL, ("MAIL", "250 OK"), ("RCPT", "421 4.3.2 going down")],
        [*ONE_MAIL[:-1], (".", "250 OK\r\n421 4.4.2 idle")],  # it said goodbye between the two mails
    ],
)
def test_a_connection_that_the_relay_has_ended_is_made_anew(relays, envelope, first):
    with Script([HELLO, *first], [HELLO, *ONE_MAIL]) as script:
        relay = relays.Relay(script.host, script.port)
        relay.send_now(envelope)
        relay.send_now(envelope)
        relay.close()

    assert len(script.contents) == 2


def test_what_was_lost_on_the_way_is_not_sent_again_by_ourselves(relays, envelope):
    with Script([HELLO, *ONE_MAIL[:-1], (".", None)], [HELLO, *ONE_MAIL]) as script:
        relay = relays.Relay(script.host, script.port)
        with pytest.raises(SMTPError) as lost:
            relay.send_now(envelope)

        assert (lost.value.code, len(script.contents)) == (451, 1)
        relay.send_now(envelope)
        relay.close()


def test_a_relay_that_says_nothing_is_given_up(relays, envelope):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        relay = relays.Relay(*silent.getsockname(), timeout=0.2)
        with pytest.raises(SMTPError) as silence:
            relay.send_now(envelope)

    assert silence.value.code == 451


@pytest.mark.parametrize(
    "script, greeting, code",
    [
        ([], "554 5.7.1 not you", 451),  # our settings are wrong, the mail is not
        ([("ehlo", "550 5.7.1 no"), ("helo", "550 5.7.1 no")], "220 script", 451),
        ([HELLO, ("MAIL", "530 5.7.0 log in first")], "220 script", 451),
        ([HELLO, ("MAIL", "452 4.3.1 no room")], "220 script", 451),
        ([HELLO, ("MAIL", "552 5.3.4 too big")], "220 script", 550),
        ([HELLO, ("MAIL", "250 OK"), ("RCPT", "550 5.1.1 nobody")], "220 script", 550),
        ([HELLO, *ONE_MAIL[:2], ("DATA", "451 4.3.0 later")], "220 script", 451),
        ([HELLO, *ONE_MAIL[:3], (".", "554 5.7.1 spam")], "220 script", 550),
        ([HELLO, *ONE_MAIL[:3], (".", "nonsense")], "220 script", 451),
        ([("ehlo", None)], "220 script", 451),
        ([HELLO, *ONE_MAIL[:3], (".", "354 go on")], "220 script", 451),  # not taken
    ],
)
def test_what_the_relay_says_becomes_temporary_or_permanent(relays, envelope, script, greeting, code):
    with Script(script, greeting=greeting) as relay:
        with pytest.raises(SMTPError) as refused:
            relays.Relay(relay.host, relay.port).send_now(envelope)

    assert refused.value.code == code


def test_content_that_was_not_asked_for_is_not_sent(relays, envelope):
    """The relay would read it as commands."""
    with Script([HELLO, *ONE_MAIL[:2], ("DATA", "250 OK"), ("Subject:", "250 OK")]) as script:
        with pytest.raises(SMTPError) as refused:
            relays.Relay(script.host, script.port).send_now(envelope)

    assert refused.value.code == 451
    assert script.heard == [["ehlo", "MAIL", "RCPT", "DATA"]]


def test_a_mail_that_cannot_be_sent_keeps_those_before_it(relays):
    with Script() as script:
        relay = relays.Relay(script.host, script.port)
        with pytest.raises(ValueError), relay.held():
            relay.deliver(b"\r\n", To=ALICE, From="<>")
            relay.deliver(b"\r\n", To="j\xf6rg@b.example", From="<>")

    assert script.heard == []


def test_a_recipient_that_is_refused_keeps_the_mail_from_all(relays):
    envelope = relays.Envelope("<>", (ALICE, "bob@people.example"), b"\r\nHello.\r\n")
    with Script([("ehlo", "250-script\r\n250 PIPELINING"), *ONE_MAIL[:2], ("RCPT", "550 no"), *ONE_MAIL[2:]]) as script:
        with pytest.raises(SMTPError):
            relays.Relay(script.host, script.port).send_now(envelope)

    assert script.contents == []


@pytest.mark.parametrize(
    "address", ["a@b.example>\r\nRCPT TO:<eve@evil.example", "a@b.example\nDATA", "j\xf6rg@b.example"]
)
def test_an_address_cannot_say_anything_else(relays, address):
    with Script([HELLO]) as script:
        with pytest.raises(ValueError):
            relays.Relay(script.host, script.port).send_now(relays.Envelope("<>", (address,), b"\r\n"))

    assert script.heard == [["ehlo"]]


def test_a_lost_answer_makes_a_copy_that_can_be_known(application):
    """The relay took the reply, and we did not hear of it: the mail is refused, comes again, and so does the reply."""
    app = application()
    with Script([HELLO, *ONE_MAIL[:-1], (".", None)], [HELLO, *ONE_MAIL]) as script:
        app.settings.update(RELAY_HOST=script.host, RELAY_PORT=script.port)
        app.start()
        with Raw(app.port, "lmtp") as raw:
            assert raw.mail(ALICE, "news-subscribe@example.com", MAIL).startswith("451 4.4.0")
            assert raw.mail(ALICE, "news-subscribe@example.com", MAIL).startswith("250")
        assert app.terminate() == 0

    lost, copy = ([line for line in mail.split(b"\r\n") if line.startswith(b"Message-ID:")] for mail in script.contents)
    assert lost == copy and len(lost) == 1


@contextmanager
def secured(tmp_path, host="localhost", **options):
    """Run a relay with TLS that lets in `news` with the password `s3cret`; yield it and the file of its authority."""
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(host).configure_cert(context)
    authority.cert_pem.write_to_path(tmp_path / "authority.pem")

    class Handler:
        taken = []

        async def handle_DATA(self, server, session, envelope):
            self.taken.append((session.ssl is not None, session.authenticated, envelope.content))
            return "250 OK"

    def authenticate(server, session, envelope, mechanism, data):
        return AuthResult(success=(data.login, data.password) == (b"news", b"s3cret"), handled=False)

    options = {"tls_context": context, "authenticator": authenticate, "auth_required": True, **options}
    controller = Controller(Handler(), hostname="127.0.0.1", port=free_port(), **options)
    controller.start()
    try:
        yield controller, tmp_path / "authority.pem"
    finally:
        controller.stop()


def settings_of(relay, authority, **others):
    return {
        "RELAY_HOST": "localhost",
        "RELAY_PORT": relay.port,
        "RELAY_USERNAME": "news",
        "RELAY_PASSWORD": "s3cret",
        "RELAY_STARTTLS": "yes",
        "SSL_CERT_FILE": authority,
        **others,
    }


def test_replies_go_out_encrypted_and_logged_in(application, tmp_path):
    app = application()
    with secured(tmp_path) as (relay, authority):
        app.settings.update(settings_of(relay, authority))
        app.start()
        assert app.send(ALICE, "news-subscribe")[0] == 250
        assert app.send(ALICE, "news")[0] == 250

        assert [(tls, login) for tls, login, _ in relay.handler.taken] == [(True, True)] * 2
        assert "s3cret" not in app.logged()


@pytest.mark.parametrize(
    "wrong",
    [
        {"RELAY_PASSWORD": "guessed"},
        {"SSL_CERT_FILE": "/etc/ssl/certs/ca-certificates.crt"},  # its authority is not known
        {"RELAY_HOST": "127.0.0.1"},  # its certificate is for another name
        {"RELAY_USERNAME": ""},  # it wants a login
    ],
)
def test_wrong_settings_are_temporary_and_nothing_is_said_in_clear(application, tmp_path, wrong):
    app = application()
    with secured(tmp_path) as (relay, authority):
        app.settings.update(settings_of(relay, authority, **wrong))
        app.start()

        assert app.send(ALICE, "news-subscribe")[0] == 451
        assert relay.handler.taken == []
        assert app.process.poll() is None
        assert "s3cret" not in app.logged() and "guessed" not in app.logged()


def test_a_relay_that_offers_no_tls_gets_no_password(application, tmp_path):
    app = application()
    with Script([("ehlo", "250-script\r\n250 AUTH PLAIN")]) as script:
        app.settings.update(RELAY_PORT=script.port, RELAY_STARTTLS="yes", RELAY_USERNAME="n", RELAY_PASSWORD="s3cret")
        app.start()

        assert app.send(ALICE, "news-subscribe")[0] == 451
        assert app.terminate() == 0
    assert script.heard[0] in (["ehlo"], ["ehlo", "QUIT"])
