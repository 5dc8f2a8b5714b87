"""The file: for its owner only, on disk when `set` returns, and not written for nothing."""

import os
import sqlite3
import stat
import sys

import pytest

from mailroom.storage.sqlite import SQLiteStorage
from mailroom.testing.contract import ALICE, KEY


@pytest.fixture
def no_umask():
    umask = os.umask(0)
    yield
    os.umask(umask)


def test_files_and_folder_are_for_their_owner_only(no_umask, open_storage, path):
    for _ in range(2):
        storage = open_storage()
        storage.set(KEY, ALICE, "SUBSCRIBED")
        with storage.transaction(ALICE):
            pass
        modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}
        assert modes == dict.fromkeys([path.name + end for end in ("", "-wal", "-shm", "-locks")], 0o600)
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        storage.close()


def test_other_programs_can_read_the_table(storage, path):
    storage.set(KEY, ALICE, "SUBSCRIBED")
    with sqlite3.connect(path) as other:
        assert other.execute("SELECT key, sender, state FROM states").fetchall() == [(KEY, ALICE, "SUBSCRIBED")]
        assert other.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_set_waits_for_the_disk(storage):
    assert storage._connection().execute("PRAGMA synchronous").fetchone() == (2,)  # FULL
    if sys.platform == "darwin":
        assert storage._connection().execute("PRAGMA fullfsync").fetchone() == (1,)


def test_a_state_that_does_not_change_is_not_written(storage, path):
    log = path.with_name(path.name + "-wal")
    storage.set(KEY, ALICE, "SUBSCRIBED")
    before = log.stat().st_size
    assert before > 0

    storage.set(KEY, ALICE, "SUBSCRIBED")
    storage.set_all([(KEY, ALICE, "SUBSCRIBED"), (KEY, "bob@people.example", "START")])
    storage.set(KEY, "carol@people.example", "START")
    assert log.stat().st_size == before

    storage.set(KEY, ALICE, "CONFIRMING")
    assert log.stat().st_size > before


def test_get_of_a_new_sender_writes_nothing(storage, path):
    log = path.with_name(path.name + "-wal")
    before = log.stat().st_size
    for number in range(100):
        storage.get(KEY, f"{number}@b.example")
    assert log.stat().st_size == before
    assert list(storage) == []


def test_ten_thousand_rows_can_be_iterated(storage):
    rows = [(KEY, f"{number:05}@b.example", "SUBSCRIBED") for number in range(10_000)]
    storage.set_all(rows)
    assert list(storage) == rows


@pytest.mark.parametrize("name", ["a b", "100%", "what?", "#1", "caf\xe9", "'", "a%20b", "mode=ro&x", ":memory:"])
def test_a_path_is_taken_literally(tmp_path, name):
    path = tmp_path / name / name
    storage = SQLiteStorage(path)
    storage.set(KEY, ALICE, "SUBSCRIBED")
    storage.close()
    assert path.is_file()
    assert repr(storage) == f"<SQLiteStorage {path}>"


def test_a_relative_path_stays_where_it_was(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    storage = SQLiteStorage("run/states.sqlite3")
    monkeypatch.chdir("/")
    storage.set(KEY, ALICE, "SUBSCRIBED")
    storage.close()
    assert storage.get(KEY, ALICE) == "SUBSCRIBED"
    assert repr(storage) == "<SQLiteStorage run/states.sqlite3>"
    storage.close()
