"""What the relay answers, and what is made of it; the relay is a script on a real socket."""

import socket

import pytest
from salmon.server import SMTPError

from mailroom.envelope import Envelope
from mailroom.relay import Relay
from tests.script import HELLO, ONE_MAIL, Script

ALICE = "alice@people.example"
MAIL = Envelope("<>", (ALICE,), b"Subject: hello\r\n\r\n.dot\r\n")


def test_one_connection_serves_many_mails():
    with Script([HELLO, *ONE_MAIL, *ONE_MAIL, *ONE_MAIL]) as script:
        relay = Relay(script.host, script.port)
        for _ in range(3):
            relay.send_now(MAIL)
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
def test_relay_reconnects_before_the_content_was_sent(first):
    with Script([HELLO, *first], [HELLO, *ONE_MAIL]) as script:
        relay = Relay(script.host, script.port)
        relay.send_now(MAIL)
        relay.send_now(MAIL)
        relay.close()

    assert len(script.contents) == 2


def test_content_whose_answer_got_lost_is_not_sent_again():
    with Script([HELLO, *ONE_MAIL[:-1], (".", None)], [HELLO, *ONE_MAIL]) as script:
        relay = Relay(script.host, script.port)
        with pytest.raises(SMTPError) as lost:
            relay.send_now(MAIL)

        assert (lost.value.code, len(script.contents)) == (451, 1)
        relay.send_now(MAIL)
        relay.close()


def test_silent_relay_times_out():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        relay = Relay(*silent.getsockname(), timeout=0.2)
        with pytest.raises(SMTPError) as silence:
            relay.send_now(MAIL)

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
def test_answer_of_the_relay_becomes_451_or_550(script, greeting, code):
    with Script(script, greeting=greeting) as server:
        relay = Relay(server.host, server.port)
        with pytest.raises(SMTPError) as refused:
            relay.send_now(MAIL)
        relay.close()

    assert refused.value.code == code


def test_content_is_sent_after_354_only():
    """The relay would read it as commands."""
    with Script([HELLO, *ONE_MAIL[:2], ("DATA", "250 OK"), ("Subject:", "250 OK")]) as script:
        with pytest.raises(SMTPError) as refused:
            Relay(script.host, script.port).send_now(MAIL)

    assert refused.value.code == 451
    assert script.heard == [["ehlo", "MAIL", "RCPT", "DATA"]]


def test_bad_address_sends_none_of_the_held_mails(room):
    with Script() as script:
        relay = Relay(script.host, script.port)
        with pytest.raises(ValueError), room.transaction():
            relay.deliver(b"\r\n", To=ALICE, From="<>")
            relay.deliver(b"\r\n", To="j\xf6rg@b.example", From="<>")

    assert script.heard == []


@pytest.mark.parametrize("extension", ["PIPELINING", "HELP"])
@pytest.mark.parametrize(("refusal", "code"), [("550 5.1.1 no", 550), ("450 4.2.1 later", 451)])
def test_refusal_of_one_recipient_affects_no_other(extension, refusal, code):
    envelope = Envelope("<>", (ALICE, "bob@people.example", "carol@people.example"), b"\r\nHello.\r\n")
    script = [("ehlo", f"250-script\r\n250 {extension}"), *ONE_MAIL[:2], ("RCPT", refusal), *ONE_MAIL[1:]]
    with Script(script) as server:
        relay = Relay(server.host, server.port)
        with pytest.raises(SMTPError) as refused:
            relay.send_now(envelope)
        relay.close()

    assert refused.value.code == code
    assert "bob@people.example" in str(refused.value.__cause__)
    assert server.contents == [b"\r\nHello.\r\n.\r\n"]


@pytest.mark.parametrize(
    "address", ["a@b.example>\r\nRCPT TO:<eve@evil.example", "a@b.example\nDATA", "j\xf6rg@b.example"]
)
def test_address_cannot_hold_a_command(address):
    with Script([HELLO]) as script:
        with pytest.raises(ValueError):
            Relay(script.host, script.port).send_now(Envelope("<>", (address,), b"\r\n"))

    assert script.heard == [["ehlo"]]
