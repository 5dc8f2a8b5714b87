"""The table of states in `app/handlers/subscription.py`, row by row."""

import re

import pytest
from salmon.routing import Router

from app.handlers.subscription import CONFIRMING, START, SUBSCRIBED
from config import settings
from mailroom.testing import assert_in_state, put_in_state, receive

ALICE = "alice@people.example"
BOB = "bob@people.example"


def confirm(sender=ALICE, list_name="news", now=None):
    return f"news-confirm-{settings.room.tokens.make(list_name, sender, now)}"


def name(value):
    """Return the part of a test's name for a state, an address or a subject; a token is left out, since it changes."""
    return re.sub("(?<=confirm-).+", "TOKEN", value) if isinstance(value, str) else value.__name__


@pytest.mark.parametrize(
    "before, to, after, subject",
    [
        (START, "news-subscribe", CONFIRMING, "Please confirm your subscription to news"),
        (START, "news", START, "You are not subscribed to news"),
        (START, "news-unsubscribe", START, "You are not subscribed to news"),
        (START, confirm(), START, "You are not subscribed to news"),
        (CONFIRMING, confirm(), SUBSCRIBED, "Welcome to news"),
        (CONFIRMING, confirm()[:-1] + "x", CONFIRMING, "Please confirm your subscription to news"),
        (CONFIRMING, confirm(BOB), CONFIRMING, "Please confirm your subscription to news"),
        (CONFIRMING, confirm(list_name="other"), CONFIRMING, "Please confirm your subscription to news"),
        (CONFIRMING, confirm(now=0), CONFIRMING, "Please confirm your subscription to news"),
        (CONFIRMING, "news-confirm-nonsense", CONFIRMING, "Please confirm your subscription to news"),
        (CONFIRMING, "news-subscribe", CONFIRMING, "Please confirm your subscription to news"),
        (CONFIRMING, "news", CONFIRMING, "Your subscription to news is not confirmed yet"),
        (CONFIRMING, "news-unsubscribe", CONFIRMING, "Your subscription to news is not confirmed yet"),
        (SUBSCRIBED, "news", SUBSCRIBED, "Your mail to news has arrived"),
        (SUBSCRIBED, "news-unsubscribe", START, "Goodbye from news"),
        (SUBSCRIBED, "news-subscribe", SUBSCRIBED, "You are subscribed to news already"),
        (SUBSCRIBED, confirm(), SUBSCRIBED, "You are subscribed to news already"),
    ],
    ids=name,
)
def test_mail_changes_the_state_and_gets_a_reply(before, to, after, subject):
    put_in_state(before, ALICE, "news")

    replies = receive(ALICE, to)

    assert_in_state(after, ALICE, "news")
    assert [reply["Subject"] for reply in replies] == [subject]
    assert [reply["To"] for reply in replies] == [ALICE]


def test_capitals_in_an_address_do_not_matter():
    (confirmation,) = receive("Alice@People.Example", "news-subscribe".title())
    receive(ALICE, confirmation["Reply-To"].upper())

    assert_in_state(SUBSCRIBED, ALICE, "news")


def test_reply_goes_to_the_address_as_its_sender_writes_it():
    """Capitals may matter to the sender's server (RFC 5321, section 2.4)."""
    (reply,) = receive("Alice.B@People.Example", "news-subscribe")

    assert reply["To"] == "Alice.B@People.Example"
    assert settings.relay.sent[-1].recipients == ("Alice.B@People.Example",)
    assert_in_state(CONFIRMING, "alice.b@people.example", "news")


def test_senders_do_not_share_a_state():
    receive(ALICE, "news-subscribe")

    assert_in_state(CONFIRMING, ALICE, "news")
    assert_in_state(START, BOB, "news")


def test_state_key_has_the_name_of_the_list():
    receive(ALICE, "news-subscribe")

    assert Router.STATE_STORE.get("app.handlers.subscription:news", ALICE) == "CONFIRMING"


def test_longest_confirmation_address_fits_a_local_part():
    longest = confirm().replace("news", "x" * 16)

    assert len(longest) <= 64  # RFC 5321, section 4.5.3.1.1


def test_confirmation_address_is_in_the_mail_domain():
    (confirmation,) = receive(ALICE, "news-subscribe")

    assert confirmation["From"] == f"news@{settings.mail_domain}"
    assert confirmation["Reply-To"].endswith(f"@{settings.mail_domain}")
