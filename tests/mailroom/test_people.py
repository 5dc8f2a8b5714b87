"""Who a person is: BATV and SRS in envelope senders, and how many replies a domain gets."""

import pytest

from mailroom.loops import DOMAIN, ReplyLimit
from mailroom.message import read
from mailroom.testing import assert_in_state, put_in_state, receive
from tests.mailroom.trial_list import CONFIRMING, START, SUBSCRIBED

ALICE = "alice@people.example"
BATV = [
    "prvs=1234567890=Alice@people.example",
    "prvs=701fd58e1=alice@people.example",
    "btv1==0123==alice@people.example",
]
SRS = "SRS0=63fc=V7=people.example=alice@forwarder.example"


@pytest.mark.parametrize("sender", BATV)
def test_sender_with_a_batv_tag_is_the_person_without_it(sent, sender):
    (confirmation,) = receive(BATV[0], "news-subscribe")
    assert sent[-1].recipients == (BATV[0],)
    assert_in_state(CONFIRMING, ALICE, "news")

    receive(sender, confirmation["Reply-To"])
    assert sent[-1].recipients == (sender,)
    assert_in_state(SUBSCRIBED, ALICE, "news")


@pytest.mark.parametrize(
    "sender", [SRS, "SRS0=x=y=people.example=alice@evil.example", "SRS1=x=a.example==y=z=b.example=a@c.d"]
)
def test_srs_address_of_a_stranger_gets_nothing_of_the_person_that_it_names(sender):
    put_in_state(SUBSCRIBED, ALICE, "news")
    receive(sender, "news-unsubscribe")

    assert_in_state(SUBSCRIBED, ALICE, "news")
    assert_in_state(START, sender, "news")


def test_srs_address_of_a_forwarder_that_is_named_is_the_person(room, sent):
    room.forwarders = frozenset(["forwarder.example"])
    receive(SRS, "news-subscribe")

    assert_in_state(CONFIRMING, ALICE, "news")
    assert sent[-1].recipients == (SRS,)
    receive(SRS.replace("forwarder", "evil"), "news-unsubscribe")
    assert_in_state(CONFIRMING, ALICE, "news")


def test_tag_of_somebody_else_gives_no_right_to_a_token(room):
    def message(sender):
        return read(room, ("127.0.0.1", 0), sender, "news@example.com", b"\n")

    token = message(ALICE).token("news")
    assert message(BATV[0]).has_token(token, "news")
    assert not message("prvs=1234567890=alice@evil.example").has_token(token, "news")
    assert not message("SRS0=x=y=people.example=alice@evil.example").has_token(token, "news")


def test_program_with_a_new_address_in_each_mail_is_answered_no_more_than_its_domain_may():
    now = 0
    limit = ReplyLimit(2, clock=lambda: now)
    for number in range(2 * DOMAIN):
        assert not limit.is_reached(f"bounce-{number}@bulk.example")
        limit.count(f"bounce-{number}@bulk.example", 1)

    assert limit.is_reached("bounce-new@bulk.example")
    assert not limit.is_reached(ALICE)
    now = 3600
    assert not limit.is_reached("bounce-new@bulk.example")
    assert not limit._numbers
