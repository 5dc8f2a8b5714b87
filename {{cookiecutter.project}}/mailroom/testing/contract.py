"""What an application asks of a state storage, as tests for a storage of your own.

Subclass the class that fits and give it the fixtures that it names:

    class TestRedisStorage(StorageContract):
        @pytest.fixture
        def storage(self):
            return RedisStorage("redis://localhost/15")  # empty

`StorageContract` holds for every storage, Salmon's `MemoryStorage` included; `SharedStorageContract` for one that
locks a sender while a mail is handled, so that several processes can use it.
"""

from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
from salmon.routing import ROUTE_FIRST_STATE
from salmon.server import SMTPError

KEY = "app.handlers.tickets:42"
ALICE = "alice@people.example"
BOB = "bob@people.example"


@contextmanager
def refused(code):
    """Fail unless the block refuses the mail with `code`: 451 for now, 554 for good."""
    with pytest.raises(SMTPError) as refusal:
        yield
    assert refusal.value.code == code
    assert refusal.value.message.isascii() and refusal.value.message.isprintable()


def locked_get(storage, sender):
    """Return the state of `sender`, read in a conversation."""
    with storage.conversation(sender):
        return storage.get(KEY, sender)


def in_thread(work, *arguments):
    """Return `work(*arguments)`, called in a thread of its own."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(work, *arguments).result()


class StorageContract:
    """`get`, `set` and `clear`. Needs a fixture `storage`, empty; `rows` must return what is in it."""

    STRINGS = ["a@b.example", "A@b.example", "a@b.example ", "'", '"', "\\", "%s", "?", " ", "a" * 254, "; DROP x;"]

    def rows(self, storage):
        """Return all `(key, sender, state)` rows."""
        return list(storage)

    def test_a_new_sender_is_at_start_and_has_no_row(self, storage):
        assert storage.get(KEY, ALICE) == ROUTE_FIRST_STATE
        assert self.rows(storage) == []

    def test_get_returns_what_was_set_last(self, storage):
        storage.set(KEY, ALICE, "CONFIRMING")
        storage.set(KEY, ALICE, "SUBSCRIBED")
        assert storage.get(KEY, ALICE) == "SUBSCRIBED"

    def test_start_deletes_the_row(self, storage):
        storage.set(KEY, BOB, ROUTE_FIRST_STATE)
        storage.set(KEY, ALICE, "SUBSCRIBED")
        storage.set(KEY, ALICE, ROUTE_FIRST_STATE)
        assert storage.get(KEY, ALICE) == ROUTE_FIRST_STATE
        assert self.rows(storage) == []

    def test_key_and_sender_are_not_run_together(self, storage):
        storage.set("a", "bc", "ONE")
        storage.set("ab", "c", "TWO")
        storage.set("bc", "a", "THREE")
        assert [storage.get("a", "bc"), storage.get("ab", "c"), storage.get("bc", "a")] == ["ONE", "TWO", "THREE"]
        assert storage.get("c", "ab") == ROUTE_FIRST_STATE

    def test_clear_deletes_everything(self, storage):
        for sender in self.STRINGS:
            storage.set(KEY, sender, "SUBSCRIBED")
        storage.clear()
        assert {storage.get(KEY, sender) for sender in self.STRINGS} == {ROUTE_FIRST_STATE}

    def test_senders_are_kept_exactly_as_they_are_one_row_each(self, storage):
        for number, sender in enumerate(self.STRINGS):
            storage.set(KEY, sender, "CONFIRMING")
            storage.set(KEY, sender, f"STATE_{number}")
        for number, sender in enumerate(self.STRINGS):
            assert storage.get(KEY, sender) == f"STATE_{number}", sender
        expected = [(KEY, sender, f"STATE_{number}") for number, sender in enumerate(self.STRINGS)]
        assert sorted(self.rows(storage), key=repr) == sorted(expected, key=repr)

    def test_many_threads_can_use_it(self, storage):
        def sets_and_gets(thread):
            for number in range(20):
                storage.set(KEY, f"{thread}-{number}@b.example", f"STATE_{number}")
                assert storage.get(KEY, f"{thread}-{number}@b.example") == f"STATE_{number}"

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(sets_and_gets, range(4)))
        assert len(self.rows(storage)) == 80


class SharedStorageContract(StorageContract):
    """`conversation`. Needs a fixture `other`: one more storage on the same states, which waits briefly for a lock."""

    def test_a_sender_has_one_conversation_at_a_time(self, storage, other):
        with storage.conversation(ALICE):
            storage.set(KEY, ALICE, "CONFIRMING")
            with refused(451):
                in_thread(locked_get, other, ALICE)
        assert in_thread(locked_get, other, ALICE) == "CONFIRMING"

    def test_senders_do_not_wait_for_each_other(self, storage, other):
        with storage.conversation(ALICE):
            assert in_thread(locked_get, other, BOB) == "START"

    def test_the_next_conversation_reads_what_the_last_one_set(self, storage):
        with ThreadPoolExecutor(1) as pool:
            with storage.conversation(ALICE):
                waiting = pool.submit(locked_get, storage, ALICE)
                storage.set(KEY, ALICE, "CONFIRMING")
            assert waiting.result() == "CONFIRMING"
