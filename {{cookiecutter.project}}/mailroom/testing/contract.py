"""Tests of what an application needs from a state storage, for a storage of your own.

Subclass the classes that fit, and define the fixtures that they name:

    class TestRedisStorage(StorageContract):
        @pytest.fixture
        def storage(self):
            return RedisStorage("redis://localhost/15")  # empty

`StorageContract` is for every storage, Salmon's `MemoryStorage` included. The others are for subclasses of
`mailroom.storage.Storage`: `TransactionContract` for all, `SharedStorageContract` for those that several processes
use, `TablesContract` for those that store own tables, the notes of handled mails and outgoing mail.
"""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from typing import Any

import pytest
from salmon.routing import ROUTE_FIRST_STATE
from salmon.server import SMTPError

from mailroom import outbox
from mailroom.envelope import Envelope
from mailroom.storage import Row, Transaction

KEY = "app.handlers.tickets:42"
ALICE = "alice@people.example"
BOB = "bob@people.example"


@contextmanager
def refused(code: int) -> Iterator[pytest.ExceptionInfo[SMTPError]]:
    """Fail unless the block raises an `SMTPError` with `code`: 451 for now, 554 for good."""
    with pytest.raises(SMTPError) as refusal:
        yield refusal
    assert refusal.value.code == code
    assert refusal.value.message.isascii() and refusal.value.message.isprintable()


def locked_get(storage: Any, sender: str) -> Any:
    with storage.transaction(sender):
        return storage.get(KEY, sender)


def in_thread(work: Callable[..., Any], *arguments: Any) -> Any:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(work, *arguments).result()


class StorageContract:
    """`get`, `set` and `clear`. Needs a fixture `storage`, empty. Override `rows` if it is not iterable."""

    STRINGS = ["a@b.example", "A@b.example", "a@b.example ", "'", '"', "\\", "%s", "?", " ", "a" * 254, "; DROP x;"]
    SENDERS = [*STRINGS, "", None]  # None is no sender; it is not the null sender, which is empty

    def rows(self, storage: Any) -> list[Row]:
        return list(storage)

    def test_new_sender_and_one_who_is_set_to_start_have_no_row(self, storage: Any) -> None:
        assert storage.get(KEY, ALICE) == ROUTE_FIRST_STATE
        assert self.rows(storage) == []
        storage.set(KEY, BOB, ROUTE_FIRST_STATE)
        storage.set(KEY, ALICE, "SUBSCRIBED")
        storage.set(KEY, ALICE, ROUTE_FIRST_STATE)
        assert storage.get(KEY, ALICE) == ROUTE_FIRST_STATE
        assert self.rows(storage) == []

    def test_clear_deletes_everything(self, storage: Any) -> None:
        for sender in self.SENDERS:
            storage.set(KEY, sender, "SUBSCRIBED")
        storage.clear()
        assert {storage.get(KEY, sender) for sender in self.SENDERS} == {ROUTE_FIRST_STATE}

    def test_get_returns_what_was_set_last_for_exactly_this_key_and_sender(self, storage: Any) -> None:
        cells = [(KEY, sender) for sender in self.SENDERS] + [("a", "bc"), ("ab", "c"), ("bc", "a")]
        rows = [(*cell, f"STATE_{number}") for number, cell in enumerate(cells)]
        for key, sender, state in rows:
            storage.set(key, sender, "CONFIRMING")
            storage.set(key, sender, state)
        for key, sender, state in rows:
            assert storage.get(key, sender) == state, (key, sender)
        assert storage.get("c", "ab") == ROUTE_FIRST_STATE
        assert sorted(self.rows(storage), key=repr) == sorted(rows, key=repr)

    def test_threads_can_use_a_storage_at_the_same_time(self, storage: Any) -> None:
        def sets_and_gets(thread: int) -> None:
            for number in range(20):
                storage.set(KEY, f"{thread}-{number}@b.example", f"STATE_{number}")
                assert storage.get(KEY, f"{thread}-{number}@b.example") == f"STATE_{number}"

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(sets_and_gets, range(4)))
        assert len(self.rows(storage)) == 80


class TransactionContract(StorageContract):
    """`transaction`: all changes of one mail, or none. Needs a fixture `storage`, an empty `mailroom.storage.Storage`."""

    def test_other_threads_do_not_see_half_a_mail(self, storage: Any) -> None:
        with ThreadPoolExecutor(1) as elsewhere:
            with storage.transaction(ALICE):
                storage.set(KEY, ALICE, "SUBSCRIBED")
                assert storage.get(KEY, ALICE) == "SUBSCRIBED"
                reading = elsewhere.submit(storage.get, KEY, ALICE)
                wait([reading], 0.1)  # a storage may make the reader wait for this mail
                assert not reading.done() or reading.result() == ROUTE_FIRST_STATE
            assert elsewhere.submit(storage.get, KEY, ALICE).result() == "SUBSCRIBED"

    @pytest.mark.parametrize("sender", [ALICE, None])
    def test_commit_keeps_all_states_of_a_mail_or_a_script(self, storage: Any, sender: str | None) -> None:
        storage.set(KEY, ALICE, "SUBSCRIBED")
        with storage.transaction(sender):
            storage.set(KEY, ALICE, ROUTE_FIRST_STATE)
            storage.set(KEY, BOB, "CONFIRMING")
            storage.set(KEY, BOB, "SUBSCRIBED")
            assert [storage.get(KEY, ALICE), storage.get(KEY, BOB)] == [ROUTE_FIRST_STATE, "SUBSCRIBED"]
        assert self.rows(storage) == [(KEY, BOB, "SUBSCRIBED")]

    @pytest.mark.parametrize("failure", [ZeroDivisionError, KeyboardInterrupt])
    def test_mail_that_fails_leaves_nothing_to_the_next(self, storage: Any, failure: Any) -> None:
        with pytest.raises(failure), storage.transaction(ALICE):
            storage.set(KEY, ALICE, "SUBSCRIBED")
            raise failure
        assert storage.get(KEY, ALICE) == ROUTE_FIRST_STATE
        with storage.transaction(ALICE):
            assert storage.get(KEY, ALICE) == ROUTE_FIRST_STATE
            storage.set(KEY, BOB, "CONFIRMING")
        assert [storage.get(KEY, ALICE), storage.get(KEY, BOB)] == [ROUTE_FIRST_STATE, "CONFIRMING"]

    def test_sender_without_states_meets_stateless_handlers_only(self, storage: Any) -> None:
        storage.set(KEY, ALICE, "SUBSCRIBED")
        storage.set(KEY, BOB, "SUBSCRIBED")
        with storage.transaction(ALICE, stateless=True):
            assert storage.get(KEY, ALICE) is None
            assert storage.get(KEY, BOB) == "SUBSCRIBED"
        assert storage.get(KEY, ALICE) == "SUBSCRIBED"

    def test_mail_that_comes_first_was_not_handled_before(self, storage: Any) -> None:
        with storage.transaction(ALICE) as transaction:
            assert not transaction.handled(b"0123456789abcdef")

    def test_transaction_within_a_transaction_joins_it(self, storage: Any) -> None:
        with pytest.raises(ZeroDivisionError), storage.transaction(ALICE) as outer:
            with storage.transaction(BOB) as inner:
                storage.set(KEY, BOB, "SUBSCRIBED")
            assert inner is outer
            raise ZeroDivisionError
        assert storage.get(KEY, BOB) == ROUTE_FIRST_STATE

    def test_mails_of_one_sender_at_the_same_time_are_handled_one_after_the_other(self, storage: Any) -> None:
        """Each mail goes one step on; of two that were handled at the same time, one would not count."""

        def step(_: int) -> None:
            with storage.transaction(ALICE):
                number = int(storage.get(KEY, ALICE).removeprefix(ROUTE_FIRST_STATE) or 0)
                both_are_here.wait(0.001)
                storage.set(KEY, ALICE, str(number + 1))

        both_are_here = threading.Event()
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(step, range(20)))
        assert storage.get(KEY, ALICE) == "20"


class TablesContract(TransactionContract):
    """Own rows, the note that a mail was handled, and outgoing mail are committed with the states of the mail."""

    DIGEST = b"0123456789abcdef"
    MAIL = b"From: news@example.com\r\n\r\n.\x00\xff\r\n"

    def execute(self, connection: Any, sql: str) -> Any:
        """Execute a statement on the connection of a transaction; return its rows. Override it for your driver."""
        return connection.execute(sql)

    @pytest.fixture
    def posts(self, storage: Any) -> Callable[[], list[str]]:
        """Create an own table, `posts`; return a function that returns its rows."""
        create = "CREATE TABLE IF NOT EXISTS posts (text VARCHAR(100))"
        storage.create_tables(lambda connection: self.execute(connection, create))

        def posts() -> list[str]:
            with storage.transaction() as transaction:
                rows = self.execute(transaction.connection, "SELECT text FROM posts ORDER BY text")
                return [text for (text,) in rows]

        return posts

    def write(self, transaction: Transaction, text: str = "hello") -> None:
        self.execute(transaction.connection, f"INSERT INTO posts VALUES ('{text}')")

    @pytest.mark.parametrize("fails", [False, True])
    def test_state_row_note_and_mail_are_committed_together_or_not(self, storage: Any, posts: Any, fails: bool) -> None:
        with suppress(ZeroDivisionError), storage.transaction(ALICE) as transaction:
            assert not transaction.handled(self.DIGEST)
            storage.set(KEY, ALICE, "SUBSCRIBED")
            self.write(transaction)
            transaction.send(self.MAIL, [ALICE, BOB], "news@example.com")
            assert posts() == ["hello"]
            if fails:
                raise ZeroDivisionError
        assert storage.get(KEY, ALICE) == (ROUTE_FIRST_STATE if fails else "SUBSCRIBED")
        assert posts() == ([] if fails else ["hello"])
        assert storage.is_handled(self.DIGEST) != fails
        mail = [outbox.load(storage, parcel) for parcel in outbox.claim_due(storage)]
        assert mail == ([] if fails else [Envelope("news@example.com", (ALICE, BOB), self.MAIL)])

    @pytest.mark.parametrize("end", ["commit", "rollback"])
    def test_handler_that_commits_or_rolls_back_keeps_no_half_of_a_mail(
        self, storage: Any, posts: Any, end: str
    ) -> None:
        with pytest.raises(ZeroDivisionError), storage.transaction(ALICE) as transaction:
            self.write(transaction)
            with suppress(Exception):
                getattr(transaction.connection, end)()
            with suppress(Exception):
                self.write(transaction, "more")
            raise ZeroDivisionError
        assert posts() == []

    @pytest.mark.parametrize("written", ["state", "own row", "outgoing mail"])
    def test_mail_that_wrote_something_is_handled_once_until_clear(
        self, storage: Any, posts: Any, written: str
    ) -> None:
        with storage.transaction(ALICE) as transaction:
            assert not transaction.handled(self.DIGEST)
            if written == "state":
                storage.set(KEY, ALICE, "SUBSCRIBED")
            elif written == "own row":
                self.write(transaction)
            else:
                transaction.send(self.MAIL, ALICE, "<>")
        for sender in (ALICE, BOB):
            with storage.transaction(sender) as transaction:
                assert transaction.handled(self.DIGEST)
                assert not transaction.handled(self.DIGEST[::-1])
        storage.clear()
        assert not storage.is_handled(self.DIGEST)
        assert outbox.rows(storage) == []

    def test_mail_that_wrote_nothing_is_not_noted(self, storage: Any, posts: Any) -> None:
        storage.set(KEY, ALICE, "SUBSCRIBED")
        for _ in range(2):
            with storage.transaction(ALICE) as transaction:
                assert not transaction.handled(self.DIGEST)
                storage.set(KEY, ALICE, "SUBSCRIBED")
                assert storage.get(KEY, ALICE) == "SUBSCRIBED"
                assert posts() == []


class SharedStorageContract(TransactionContract):
    """For several processes. Needs a fixture `other` too: a second storage of the same states, with a short lock timeout."""

    def test_second_transaction_of_a_sender_is_refused_while_the_first_runs(self, storage: Any, other: Any) -> None:
        with storage.transaction(ALICE):
            storage.set(KEY, ALICE, "CONFIRMING")
            with refused(451):
                in_thread(locked_get, other, ALICE)
        assert in_thread(locked_get, other, ALICE) == "CONFIRMING"

    def test_senders_do_not_wait_for_each_other(self, storage: Any, other: Any) -> None:
        with storage.transaction(ALICE):
            assert in_thread(locked_get, other, BOB) == ROUTE_FIRST_STATE

    def test_next_transaction_of_a_sender_reads_what_the_last_one_set(self, storage: Any) -> None:
        with ThreadPoolExecutor(1) as pool:
            with storage.transaction(ALICE):
                waiting = pool.submit(locked_get, storage, ALICE)
                storage.set(KEY, ALICE, "CONFIRMING")
            assert waiting.result() == "CONFIRMING"
