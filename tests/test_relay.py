"""A running application and its relay: a lost answer, TLS and logins."""

import ssl
from contextlib import contextmanager

import pytest
import trustme
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult

from tests.ports import free_port
from tests.raw import Raw
from tests.script import HELLO, ONE_MAIL, Script
from tests.waiting import wait_until

ALICE = "alice@people.example"
MAIL = b"From: alice@people.example\r\nMessage-ID: <1@people.example>\r\n\r\nHello."


def test_reply_whose_answer_got_lost_comes_again_with_the_same_message_id(application):
    """The relay took the reply, and we did not hear of it."""
    app = application()
    with Script([HELLO, *ONE_MAIL[:-1], (".", None)], [HELLO, *ONE_MAIL]) as script:
        app.settings.update(RELAY_HOST=script.host, RELAY_PORT=script.port)
        app.start()
        with Raw(app.port, "lmtp") as raw:
            assert raw.mail(ALICE, "news-subscribe@example.com", MAIL).startswith("250")
        wait_until(lambda: len(script.contents) == 2)
        assert app.terminate() == 0

    lost, copy = ([line for line in mail.split(b"\r\n") if line.startswith(b"Message-ID:")] for mail in script.contents)
    assert lost == copy and len(lost) == 1


def test_server_that_stops_says_quit_to_its_relay(application):
    app = application()
    with Script([HELLO, *ONE_MAIL, ("QUIT", "221 bye")]) as script:
        app.settings.update(RELAY_HOST=script.host, RELAY_PORT=script.port)
        app.start()
        assert app.send(ALICE, "news-subscribe")[0] == 250
        assert app.terminate() == 0

    assert script.heard[0][-1] == "QUIT"


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
        "RELAY_TLS": "yes",
        "SSL_CERT_FILE": authority,
        **others,
    }


def test_replies_are_sent_over_tls_with_a_login(application, tmp_path):
    app = application()
    with secured(tmp_path) as (relay, authority):
        app.settings.update(settings_of(relay, authority))
        app.start()
        assert app.send(ALICE, "news-subscribe")[0] == 250
        assert app.send(ALICE, "news")[0] == 250

        wait_until(lambda: len(relay.handler.taken) == 2)
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
def test_reply_waits_while_the_settings_of_the_relay_are_wrong_and_no_secret_is_sent(application, tmp_path, wrong):
    app = application()
    with secured(tmp_path) as (relay, authority):
        app.settings.update(settings_of(relay, authority, **wrong))
        app.start()

        assert app.send(ALICE, "news-subscribe")[0] == 250
        app.wait_for_log("outgoing mail waits")
        assert relay.handler.taken == []
        assert app.process.poll() is None
        assert "s3cret" not in app.logged() and "guessed" not in app.logged()


def test_relay_without_tls_gets_no_password(application, tmp_path):
    app = application()
    with Script([("ehlo", "250-script\r\n250 AUTH PLAIN")]) as script:
        app.settings.update(RELAY_PORT=script.port, RELAY_TLS="yes", RELAY_USERNAME="n", RELAY_PASSWORD="s3cret")
        app.start()

        assert app.send(ALICE, "news-subscribe")[0] == 250
        app.wait_for_log("outgoing mail waits")
        assert app.terminate() == 0
    assert script.heard[0] in (["ehlo"], ["ehlo", "QUIT"])
