"""What subscribers write is in an own table, committed with the state of the mail or not at all."""

import pytest

from app.handlers.subscription import CONFIRMING, START, SUBSCRIBED
from app.models import posts
from config import settings
from mailroom.testing import assert_in_state, put_in_state, receive

ALICE = "alice@people.example"


def latest():
    with settings.room.transaction() as transaction:
        return posts.latest(transaction.connection, "news")


@pytest.mark.parametrize(
    "state, subject, kept",
    [
        (START, "You are not subscribed to news", []),
        (CONFIRMING, "Your subscription to news is not confirmed yet", []),
        (SUBSCRIBED, "The latest mail to news", [(ALICE, "hello", "Hello.\n")]),
    ],
)
def test_only_subscribers_write_and_read_the_archive(state, subject, kept):
    put_in_state(state, ALICE, "news")

    receive(ALICE, "news")
    (reply,) = receive(ALICE, "news-archive")

    assert reply["Subject"] == subject
    assert latest() == kept
    assert_in_state(state, ALICE, "news")


def test_post_of_a_subscriber_is_stored():
    put_in_state(SUBSCRIBED, ALICE, "news")

    receive(ALICE, "news", "Who joins?\n", Subject="Lunch")

    assert latest() == [(ALICE, "Lunch", "Who joins?\n")]


def test_post_of_a_mail_that_failed_is_not_stored(monkeypatch):
    put_in_state(SUBSCRIBED, ALICE, "news")
    monkeypatch.setattr(settings.relay, "deliver", None)  # the mail fails after its handler has written

    with pytest.raises(TypeError):
        receive(ALICE, "news")

    assert latest() == []


def test_archive_has_the_last_ten_posts_newest_first():
    put_in_state(SUBSCRIBED, ALICE, "news")
    for number in range(12):
        receive(ALICE, "news", Subject=f"post {number}")

    (archive,) = receive(ALICE, "news-archive")

    subjects = [line for line in archive.get_content().splitlines() if line.startswith("Subject:")]
    assert subjects == [f"Subject: post {number}" for number in range(11, 1, -1)]
