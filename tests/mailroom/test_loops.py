"""Whom we do not answer, and for how long."""

from app.mail.manners import HOUR, ReplyLimit
from config import settings
from tests.conversation import receive

ALICE = "alice@people.example"


def test_an_address_that_had_its_replies_is_answered_again_after_an_hour():
    now = 0
    limit = ReplyLimit(clock=lambda: now)
    limit.count(ALICE, settings.replies_per_hour - 1)
    assert not limit.is_reached(ALICE)
    limit.count(ALICE, 1)
    assert limit.is_reached(ALICE)

    now = HOUR - 1
    assert limit.is_reached(ALICE)
    now = HOUR
    assert not limit.is_reached(ALICE)


def test_comments_may_stand_in_comments(trial_list):
    assert len(receive(ALICE, "news", Auto_Submitted="no (really (yes) no)")) == 1
