"""An exchange tells what came of a mail: who handled it, how states moved, what was sent, why it was refused."""

import pytest
from salmon.routing import Router
from salmon.server import SMTPError

from mailroom.testing import exchange, make_mail, receive, state_at
from tests.mailroom import trial_list

ALICE = "alice@people.example"
MODULE = "tests.mailroom.trial_list"


def write(sender, recipient, headers=()):
    return exchange(sender, f"{recipient}@example.com", make_mail(sender, recipient, headers))


def test_exchange_of_a_handled_mail_has_handler_states_and_reply():
    result = write("Alice@People.Example", "news-subscribe")

    assert result.handlers == [trial_list.START]
    assert result.after == "CONFIRMING"
    assert result.moves == [(MODULE, "START", "CONFIRMING")]
    ((to, reply),) = result.sent
    assert to == ""
    assert reply["Subject"] == "Please confirm your subscription to news"
    assert result.refusal is None and result.note is None


def test_exchange_of_a_forwarded_mail_has_its_recipient():
    result = write("", "postmaster")

    assert result.handlers == [trial_list.FORWARD]
    assert (result.after, result.moves) == (None, [])
    assert [to for to, _ in result.sent] == [trial_list.POSTMASTER]


def test_automated_mail_is_noted():
    result = write(ALICE, "news-subscribe", [("Auto-Submitted", "auto-replied")])

    assert (result.handlers, result.sent, result.note) == ([], [], "automated mail")
    assert result.after == "START"


def test_reply_limit_is_noted(room):
    room.reply_limit.count(ALICE, room.reply_limit.replies_per_hour)

    assert write(ALICE, "news").note == "replies_per_hour is reached"


def test_exchange_of_a_refused_address_has_the_refusal():
    result = write(ALICE, "nobody")

    assert result.refusal.startswith("550 5.1.1 ")
    assert (result.after, result.sent) == (None, [])


def test_mail_that_cannot_be_read_is_refused():
    result = exchange(
        ALICE, "news@example.com", b"Content-Type: multipart/mixed; boundary=a" + b";a=b" * 10_000 + b"\n\n"
    )

    assert result.refusal.startswith("554 5.6.0 ")


def test_handler_that_fails_changes_nothing_and_is_named(room, monkeypatch):
    monkeypatch.setattr(room.relay, "deliver", None)

    result = write(ALICE, "news-subscribe")

    assert result.refusal == "451 4.3.0 The mail could not be handled now; try again later"
    assert result.note.startswith("TypeError: 'NoneType' object is not callable (tests/mailroom/trial_list.py:")
    assert (result.after, result.moves, result.sent) == ("START", [], [])


def test_exchange_with_a_failing_storage_has_its_refusal(monkeypatch):
    def fail(*arguments):
        raise SMTPError(451, "4.3.0 The state storage is not available")

    monkeypatch.setattr(Router.STATE_STORE, "get", fail)

    result = write(ALICE, "news-subscribe")

    assert result.refusal == "451 4.3.0 The state storage is not available"
    assert result.after is None


def test_state_key_that_fails_is_a_refusal(monkeypatch):
    monkeypatch.setitem(Router.HANDLERS, MODULE, lambda module, message: 1 / 0)

    result = write(ALICE, "news-subscribe")

    assert result.refusal.startswith("451 ")
    assert result.note.startswith("ZeroDivisionError")


def test_state_at_returns_the_state_that_mail_to_an_address_finds():
    receive(ALICE, "news-subscribe")

    assert state_at("news@example.com", ALICE) == "CONFIRMING"
    assert state_at("postmaster@example.com", ALICE) is None


def test_headers_replace_the_usual_ones():
    octets = make_mail("", "news@example.com", [("subject", "Lunch"), ("X-A", "1"), ("X-A", "2")], "Who joins?\n")

    assert b"subject: Lunch\n" in octets
    assert b"Subject: hello" not in octets
    assert octets.count(b"X-A: ") == 2
    assert b"From: MAILER-DAEMON\n" in octets
    assert octets.endswith(b"\nWho joins?\n")


@pytest.mark.parametrize("header", [("To", "(c):"), ("Subject", "a\nb")])
def test_header_that_cannot_be_written_is_named(header):
    with pytest.raises(ValueError, match=f"^{header[0]}: .* cannot be written in a mail"):
        make_mail(ALICE, "news@example.com", [header])


def test_null_sender_is_written_as_two_brackets():
    octets = make_mail("<>", "news@example.com")
    assert b"From: MAILER-DAEMON\n" in octets
    assert exchange("<>", "news@example.com", octets).sender == ""
