"""`SQLiteStorage` keeps the contract, and what its own documentation says."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from mailroom.storage import StorageError, is_locked
from mailroom.storage.sqlite import SQLiteStorage
from mailroom.testing.contract import ALICE, KEY, refused
from tests.mailroom.storage.contracts import AnyStringContract, OurSharedStorageContract, OurTablesContract
from tests.waiting import wait_until


def is_refused_at_once(storage):
    """Tell whether a mail is refused before it writes."""
    try:
        with storage.transaction("bob@people.example", waits=False):
            return False
    except StorageError as error:
        return is_locked(error)


class TestSQLiteStorage(AnyStringContract, OurSharedStorageContract, OurTablesContract):
    @pytest.fixture
    def storage(self, tmp_path):
        return SQLiteStorage(tmp_path / "run" / "states.sqlite3")

    @pytest.fixture
    def reopen(self):
        return lambda storage: SQLiteStorage(storage.path)

    @pytest.fixture
    def other(self, storage):
        return SQLiteStorage(storage.path, write_timeout=0.05, lock_timeout=0.05)

    def test_the_constructor_opens_nothing(self, storage, tmp_path):
        assert list(tmp_path.iterdir()) == []
        with storage.transaction(ALICE):
            assert storage.get(KEY, ALICE) == "START"
        assert list(tmp_path.iterdir()) == [tmp_path / "run"]

    def test_set_all_reads_its_stream_once_and_only_when_the_database_is_free(self, storage, other):
        taken = []

        def stream():
            for number in range(3):
                taken.append(number)
                yield KEY, f"{number}@b.example", "SUBSCRIBED"

        with refused(451):
            storage.set_all((other.set_all(stream()), row) for row in stream())
        assert taken == [0]
        assert list(storage) == []
        other.set_all(stream())
        assert len(list(storage)) == 3

    def test_mail_that_must_not_wait_is_refused_at_once_while_another_one_waits_to_write(self, storage, other):
        storage.open()
        with other.transaction() as here, ThreadPoolExecutor(1) as pool:
            other.begin(here)
            waiting = pool.submit(storage.set, KEY, ALICE, "SUBSCRIBED")
            wait_until(lambda: is_refused_at_once(storage), 5)
            other.rollback(here)
            waiting.result(30)
        assert storage.get(KEY, ALICE) == "SUBSCRIBED"

    def test_a_sender_who_was_deleted_is_not_in_the_file(self, storage):
        storage.set(KEY, ALICE, "SUBSCRIBED")
        storage.set(KEY, ALICE, "START")
        storage.close()
        with open(storage.path, "rb") as file:
            assert b"alice" not in file.read()
