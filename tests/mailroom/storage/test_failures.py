"""When the database fails, the sending server is asked to keep the mail and to try again: 451."""

import os
import shutil
import sqlite3
import threading
import time
from contextlib import contextmanager

import pytest

from mailroom.storage import sqlite
from mailroom.storage.sqlite import SQLiteStorage
from mailroom.testing.contract import ALICE, BOB, KEY, refused


@contextmanager
def locked(path, exclusive=False):
    """Hold the write lock of the file, or all of it, as another program would."""
    other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    if exclusive:
        other.execute("PRAGMA locking_mode = EXCLUSIVE")
    other.execute("BEGIN EXCLUSIVE")
    if exclusive:
        other.execute("CREATE TABLE other (x)")
    try:
        yield other
    finally:
        if other.in_transaction:
            other.execute("ROLLBACK")
        other.close()


def test_a_write_waits_while_another_program_writes(open_storage, path):
    storage = open_storage(write_timeout=30)
    with locked(path) as other, other:
        writer = threading.Thread(target=storage.set, args=(KEY, ALICE, "SUBSCRIBED"))
        writer.start()
        writer.join(0.2)
        assert writer.is_alive()
        other.execute("ROLLBACK")
        writer.join(30)
    assert storage.get(KEY, ALICE) == "SUBSCRIBED"


def test_a_write_does_not_wait_for_ever(open_storage, path):
    storage = open_storage(write_timeout=0.2)
    with locked(path):
        with refused(451):
            storage.set(KEY, ALICE, "SUBSCRIBED")
        with refused(451):
            storage.set_all([(KEY, ALICE, "SUBSCRIBED"), (KEY, BOB, "SUBSCRIBED")])
        with refused(451):
            storage.clear()
        assert storage.get(KEY, ALICE) == "START", "who reads does not wait for who writes"
    storage.set(KEY, ALICE, "SUBSCRIBED")
    assert storage.get(KEY, ALICE) == "SUBSCRIBED"


def test_a_read_and_an_open_do_not_wait_for_ever(open_storage, path):
    open_storage().close()
    with locked(path, exclusive=True):
        with refused(451):
            open_storage(write_timeout=0.2)
    storage = open_storage(write_timeout=0.2)
    storage.close()
    with locked(path, exclusive=True):
        with refused(451):
            storage.get(KEY, ALICE)
        with refused(451):
            list(storage)
    assert storage.get(KEY, ALICE) == "START"


def test_a_thread_that_waits_to_write_keeps_no_reader_waiting(open_storage, path):
    """One thread waits for a write; another, with the same storage, reads in the meantime."""
    storage = open_storage(write_timeout=30)
    with locked(path) as other:
        writer = threading.Thread(target=storage.set, args=(KEY, ALICE, "SUBSCRIBED"))
        writer.start()
        for _ in range(50):
            assert storage.get(KEY, ALICE) == "START"
        assert writer.is_alive()
        other.execute("ROLLBACK")
        writer.join(30)


def test_a_full_disk_loses_nothing_and_is_recovered_from(run_all):
    assert run_all(("full_disk",)) == ["451\n"]


@pytest.mark.parametrize("is_open", [True, False])
@pytest.mark.parametrize("use", ["get", "set", "set_all", "clear", "iterate"])
def test_a_file_that_has_gone_is_not_an_empty_storage(storage, path, monkeypatch, is_open, use):
    uses = {
        "get": lambda: storage.get(KEY, ALICE),
        "set": lambda: storage.set(KEY, ALICE, "SUBSCRIBED"),
        "set_all": lambda: storage.set_all([(KEY, ALICE, "SUBSCRIBED"), (KEY, BOB, "SUBSCRIBED")]),
        "clear": storage.clear,
        "iterate": lambda: list(storage),
    }
    monkeypatch.setattr(sqlite, "CHECK_INTERVAL", 0)
    storage.set(KEY, ALICE, "CONFIRMING")
    if not is_open:
        storage.close()
    away = path.parent.with_name("away")
    os.rename(path.parent, away)
    for _ in range(2):
        with refused(451):
            uses[use]()
    assert not path.parent.exists()

    os.rename(away, path.parent)
    assert list(storage) == [(KEY, ALICE, "CONFIRMING")]


@pytest.mark.parametrize("many", [False, True])
def test_a_write_does_not_trust_what_was_seen_before(storage, path, monkeypatch, many):
    monkeypatch.setattr(sqlite, "CHECK_INTERVAL", 3600)
    os.rename(path, path.with_name("away"))
    with refused(451):
        if many:
            storage.set_all([(KEY, ALICE, "SUBSCRIBED"), (KEY, BOB, "SUBSCRIBED")])
        else:
            storage.set(KEY, ALICE, "SUBSCRIBED")


@pytest.mark.parametrize("offset, garbage", [(0, b"this is no database"), (4096, b"\xff" * 4096)])
def test_a_damaged_file_is_not_an_empty_storage(storage, path, offset, garbage):
    for number in range(200):
        storage.set(KEY, f"{number}@b.example", "SUBSCRIBED")
    storage.close()
    shutil.copy(path, path.with_name("intact"))
    with open(path, "r+b") as file:
        file.seek(offset)
        file.write(garbage)
    with refused(451):
        storage.get(KEY, "0@b.example")
    with refused(451):
        storage.set(KEY, "0@b.example", "CONFIRMING")
    with refused(451):
        list(storage)

    shutil.copy(path.with_name("intact"), path)
    assert storage.get(KEY, "0@b.example") == "SUBSCRIBED"


def test_a_path_that_cannot_be_opened_is_refused_at_once(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("this is no database, and long enough to look like none" * 100)
    for path in (tmp_path / "folder", tmp_path / "file", tmp_path / "file" / "states"):
        before = time.monotonic()
        with refused(451):
            SQLiteStorage(path, write_timeout=600).open()
        assert time.monotonic() - before < 300, "there was nothing to wait for"


def test_a_lock_file_that_cannot_be_created_is_answered_451(storage, path):
    shutil.rmtree(path.parent)
    with refused(451), storage.transaction(ALICE):
        pass


def test_locks_whose_file_was_deleted_are_those_of_the_new_one(start, open_storage, path):
    storage = open_storage(lock_timeout=0.1)
    with storage.transaction(ALICE):
        pass
    path.with_name(f"{path.name}-locks").unlink()
    holder = start("hold", ALICE)
    assert holder.stdout.readline() == "held\n"

    storage._locks.timeout = 0.1
    with refused(451), storage.transaction(ALICE):
        pass
    with storage.transaction(BOB):
        pass
