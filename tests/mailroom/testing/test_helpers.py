"""Tests of handlers receive mail, look at states and put senders into them."""

import pytest
from salmon.routing import Router
from salmon.server import SMTPError

from mailroom.testing import assert_in_state, put_in_state, receive
from tests.mailroom.trial_list import CONFIRMING, POSTMASTER, START, SUBSCRIBED

ALICE = "alice@people.example"
MODULE = "tests.mailroom.trial_list"


def test_receive_returns_the_replies_to_this_mail():
    (confirmation,) = receive(ALICE, "news-subscribe")
    (welcome,) = receive(ALICE, confirmation["Reply-To"], "Yes.\n", Subject="Re: hello")

    assert confirmation["Subject"] == "Please confirm your subscription to news"
    assert confirmation["To"] == ALICE
    assert welcome["Reply-To"] is None
    assert_in_state(SUBSCRIBED, ALICE, "news")


def test_receive_takes_headers_with_underscores():
    assert receive(ALICE, "news-subscribe", Auto_Submitted="auto-replied") == []
    assert_in_state(START, ALICE, "news")


def test_receive_takes_the_octets_of_a_whole_mail(sent):
    receive("", "postmaster", b"Subject: hello\n\ncaf\xc3\xa9\n")

    assert sent[0].recipients == (POSTMASTER,)
    assert sent[0].data.endswith(b"\r\nSubject: hello\r\n\r\ncaf\xc3\xa9\r\n")


def test_receive_raises_the_refusal():
    with pytest.raises(SMTPError) as refused:
        receive(ALICE, "nobody")

    assert refused.value.code == 550


def test_receive_raises_what_a_handler_raises(room, monkeypatch):
    monkeypatch.setattr(room.relay, "deliver", lambda *arguments, **options: 1 / 0)

    with pytest.raises(ZeroDivisionError):
        receive(ALICE, "news-subscribe")
    assert_in_state(START, ALICE, "news")


@pytest.mark.parametrize("to", ["news", "news@example.com", "news-subscribe"])
def test_put_in_state_and_assert_in_state_take_any_address_of_the_list(to):
    put_in_state(CONFIRMING, "Alice@People.Example", to)

    assert Router.STATE_STORE.get(f"{MODULE}:news", ALICE) == "CONFIRMING"
    assert_in_state(CONFIRMING, "ALICE@people.example", to)


def test_state_needs_no_address_where_it_does_not_depend_on_one(monkeypatch):
    monkeypatch.setitem(Router.HANDLERS, MODULE, lambda module, message: module)

    put_in_state(CONFIRMING, ALICE)

    assert Router.STATE_STORE.get(MODULE, ALICE) == "CONFIRMING"
    assert_in_state(CONFIRMING, ALICE)


def test_assert_in_state_names_the_expected_and_the_actual_state():
    put_in_state(CONFIRMING, ALICE, "news")

    with pytest.raises(AssertionError, match=f"{ALICE} is in CONFIRMING for {MODULE}:news, and not in SUBSCRIBED"):
        assert_in_state(SUBSCRIBED, ALICE, "news")


def test_address_without_a_state_key_is_named(monkeypatch):
    monkeypatch.setitem(Router.HANDLERS, MODULE, lambda module, message: {}[message.To])

    with pytest.raises(ValueError, match="no state key for mail to 'news'"):
        put_in_state(CONFIRMING, ALICE, "news")
