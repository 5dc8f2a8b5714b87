"""The pool of threads that handle mail, with work that waits until a test lets it go on."""

import threading
from contextlib import contextmanager

import pytest

from mailroom.pool import MAX_OF_ONE_SENDER, MAX_SLOW, Pool
from tests.waiting import wait_until

ALICE, BOB, CAROL = "alice@people.example", "bob@people.example", "carol@people.example"


def raising(error):
    def fail(*arguments):
        raise error

    return fail


@contextmanager
def held(pool, sender, is_slow=True):
    """A block in which a thread is busy with a mail of the sender."""
    began, go = threading.Event(), threading.Event()

    def work():
        began.set()
        return go.wait(30)

    future = pool.submit(sender, work, is_slow)
    try:
        yield future, began
    finally:
        go.set()
        future.result(30)


def test_mails_of_a_sender_come_one_after_the_other_and_those_that_wait_hold_no_thread():
    pool, done = Pool(2), []
    with held(pool, ALICE) as (_, began):
        assert began.wait(30)
        waiting = [pool.submit(ALICE, lambda number=number: done.append(number), number % 2) for number in range(20)]
        pool.submit(BOB, lambda: done.append("bob"), True)
        wait_until(lambda: done)
        assert done == ["bob"]
        assert pool.has(ALICE)
    waiting[-1].result(30)
    assert done == ["bob", *range(20)]
    assert not pool.has(ALICE)


def test_at_most_as_many_slow_mails_at_a_time_as_were_asked_for():
    pool = Pool(2)
    with held(pool, ALICE) as (_, first), held(pool, BOB) as (_, second):
        assert first.wait(30) and second.wait(30)
        later = pool.submit(CAROL, lambda: "carol", True)
        for _ in range(10):
            assert pool.submit("dave", lambda: "dave", False).result(30) == "dave"
        assert not later.running() and not later.done()
    assert later.result(30) == "carol"


def test_mail_that_only_waits_for_a_lock_does_not_wait_for_slow_mail():
    pool = Pool(1)
    with held(pool, ALICE) as (_, first), held(pool, BOB, is_slow=False) as (_, second):
        assert first.wait(30) and second.wait(30)
        slow = pool.submit(CAROL, lambda: "carol", True)
    assert slow.result(30) == "carol"
    assert pool._threads == 2


def test_mail_that_was_cancelled_is_not_handled_and_holds_up_nothing():
    pool, done = Pool(1), []
    with held(pool, ALICE) as (running, began):
        assert began.wait(30)
        cancelled = pool.submit(ALICE, lambda: done.append("cancelled"), True)
        later = pool.submit(ALICE, lambda: "later", False)
        assert cancelled.cancel()
        assert not running.cancel()
    assert later.result(30) == "later"
    assert done == []


def test_mail_that_raises_ends_no_thread_and_holds_up_nothing():
    pool = Pool(1)
    with held(pool, BOB):
        failing, later = pool.submit(ALICE, lambda: 1 / 0, True), pool.submit(ALICE, lambda: "later", True)
    assert isinstance(failing.exception(30), ZeroDivisionError)
    assert later.result(30) == "later"
    assert pool._threads == 2


def test_mail_is_refused_when_there_can_be_no_thread_and_taken_when_there_is_one(monkeypatch):
    pool = Pool(2)
    with monkeypatch.context() as no_more_threads:
        no_more_threads.setattr(threading.Thread, "start", raising(RuntimeError("can't start new thread")))
        assert pool.submit(ALICE, lambda: None, True) is None
        assert not pool.has(ALICE)
    assert pool.submit(ALICE, lambda: "handled", True).result(30) == "handled"


@pytest.mark.parametrize("senders, limit", [([ALICE], MAX_OF_ONE_SENDER), (range(MAX_SLOW), MAX_SLOW)])
def test_mail_beyond_the_limit_is_not_taken(senders, limit):
    pool = Pool(1)
    with held(pool, BOB):
        taken = 0
        while pool.submit(senders[taken % len(senders)], lambda: None, True):
            taken += 1
        assert limit - 1 <= taken <= limit
        assert not pool.has(CAROL)
        assert pool.submit(CAROL, lambda: "quick", False).result(30) == "quick"
    wait_until(lambda: not pool.has(senders[0]))
    assert pool.submit(senders[0], lambda: "again", True).result(30) == "again"
