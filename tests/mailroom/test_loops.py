"""Automated mail is detected, and replies are limited."""

from mailroom.loops import HOUR, ReplyLimit
from mailroom.testing import receive

ALICE = "alice@people.example"


def test_address_at_its_limit_is_answered_again_after_an_hour():
    now = 0
    limit = ReplyLimit(3, clock=lambda: now)
    limit.count(ALICE, 2)
    assert not limit.is_reached(ALICE)
    limit.count(ALICE, 1)
    assert limit.is_reached(ALICE)

    now = HOUR - 1
    assert limit.is_reached(ALICE)
    now = HOUR
    assert not limit.is_reached(ALICE)


def test_comments_in_comments_do_not_hide_that_a_person_writes():
    assert len(receive(ALICE, "news", Auto_Submitted="no (really (yes) no)")) == 1
