"""The pool of threads that handle mail, with work that waits until a test lets it go on."""

import threading
from contextlib import contextmanager

import pytest

from mailroom.pool import MAX_OF_ONE_SENDER, MAX_WAITING, Pool
from tests.waiting import wait_until

ALICE, BOB, CAROL = "alice@people.example", "bob@people.example", "carol@people.example"


@contextmanager
def held(pool, sender):
    """A block in which a thread is busy with a mail of the sender."""
    began, go = threading.Event(), threading.Event()

    def work():
        began.set()
        return go.wait(30)

    future = pool.submit(sender, work)
    try:
        yield future, began
    finally:
        go.set()
        future.result(30)


def test_mails_of_a_sender_come_one_after_the_other_and_those_that_wait_hold_no_thread():
    pool, done = Pool(2), []
    with held(pool, ALICE) as (_, began):
        assert began.wait(30)
        waiting = [pool.submit(ALICE, lambda number=number: done.append(number)) for number in range(20)]
        pool.submit(BOB, lambda: done.append("bob")).result(30)
        assert done == ["bob"]
        assert pool.has(ALICE)
    waiting[-1].result(30)
    assert done == ["bob", *range(20)]
    assert not pool.has(ALICE)


def test_at_most_as_many_threads_as_were_asked_for():
    pool = Pool(2)
    with held(pool, ALICE) as (_, first), held(pool, BOB) as (_, second):
        assert first.wait(30) and second.wait(30)
        later = pool.submit(CAROL, lambda: "carol")
        assert sum(thread.name.startswith("handler-") and thread.is_alive() for thread in threading.enumerate()) >= 2
        assert not later.done()
        assert pool._threads == 2
    assert later.result(30) == "carol"


def test_mail_that_was_cancelled_is_not_handled_and_holds_up_nothing():
    pool, done = Pool(1), []
    with held(pool, ALICE) as (running, began):
        assert began.wait(30)
        cancelled, later = pool.submit(ALICE, lambda: done.append("cancelled")), pool.submit(ALICE, lambda: "later")
        assert cancelled.cancel()
        assert not running.cancel()
    assert later.result(30) == "later"
    assert done == []


@pytest.mark.parametrize("senders, limit", [([ALICE], MAX_OF_ONE_SENDER), (range(MAX_WAITING), MAX_WAITING)])
def test_mail_beyond_the_limit_is_not_taken(senders, limit):
    pool = Pool(1)
    with held(pool, BOB):
        taken = 0
        while pool.submit(senders[taken % len(senders)], lambda: None):
            taken += 1
        assert limit - 1 <= taken <= limit
        assert not pool.has(CAROL)
    wait_until(lambda: not pool.has(senders[0]))
    assert pool.submit(senders[0], lambda: "again").result(30) == "again"
