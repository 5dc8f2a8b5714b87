"""A file of version 0.1 is migrated at the first start, also when several workers start."""

import sqlite3
import time

import pytest

from mailroom.testing.contract import ALICE, KEY

STATES_OF_0_1 = """
    CREATE TABLE IF NOT EXISTS states (
        key TEXT NOT NULL, sender TEXT NOT NULL, state TEXT NOT NULL, PRIMARY KEY (key, sender)
    ) WITHOUT ROWID"""


@pytest.fixture
def old_file(path):
    """A function: a file of 0.1 with this number of rows, whose worker was killed: the last row is in the -wal."""

    def old_file(number):
        path.parent.mkdir(mode=0o700)
        path.with_name(f"{path.name}-locks").touch()
        made = path.with_name("made")
        connection = sqlite3.connect(made, isolation_level=None)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute(STATES_OF_0_1)
        rows = ((KEY, f"{number}@b.example", "SUBSCRIBED") for number in range(number))
        connection.execute("BEGIN")
        connection.executemany("INSERT INTO states VALUES (?, ?, ?)", rows)
        connection.execute("COMMIT")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        connection.execute("INSERT INTO states VALUES (?, ?, ?)", (KEY, ALICE, "CONFIRMING"))
        for suffix in ("", "-wal"):
            path.with_name(f"{path.name}{suffix}").write_bytes(made.with_name(f"made{suffix}").read_bytes())
        connection.close()

    return old_file


def test_file_of_0_1_keeps_its_states_and_knows_when_they_change(old_file, open_storage):
    old_file(100_000)
    before = time.time()
    storage = open_storage()
    assert time.time() - before < 6  # a million rows within a minute
    rows = list(storage.rows())
    assert len(rows) == 100_001
    assert {state for _, _, state, _ in rows} == {"SUBSCRIBED", "CONFIRMING"}
    assert all(abs(changed - before) < 60 for *_, changed in rows)
    assert storage.get(KEY, ALICE) == "CONFIRMING"

    with storage.transaction(ALICE) as transaction:
        assert not transaction.handled(b"0123456789abcdef")
        storage.set(KEY, ALICE, "SUBSCRIBED")
        storage.set(KEY, "0@b.example", "START")
    storage.close()
    storage = open_storage()
    assert storage.get(KEY, ALICE) == "SUBSCRIBED"
    assert storage.is_handled(b"0123456789abcdef")
    assert len(list(storage)) == 100_000


def test_six_workers_start_at_once_on_a_file_of_0_1(old_file, run_all, open_storage):
    old_file(100_000)
    senders = [output.strip() for output in run_all(*[("migrate",)] * 6, at_once=True)]
    storage = open_storage()
    assert len(list(storage)) == 100_001 + 6
    with storage.transaction() as transaction:
        posts = [text for (text,) in transaction.connection.execute("SELECT text FROM posts")]
    assert posts[0] == "the first one"
    assert sorted(posts[1:]) == sorted(senders)


def test_migrated_row_knows_when_its_state_changes(old_file, open_storage):
    old_file(1)
    storage = open_storage()
    with sqlite3.connect(storage.path) as connection:
        connection.execute("UPDATE states SET changed = 1")
    connection.close()
    storage.set(KEY, ALICE, "CONFIRMING")
    storage.set(KEY, "0@b.example", "BOUNCED")
    changed = {sender: changed for _, sender, _, changed in storage.rows()}
    assert changed[ALICE] == 1
    assert changed["0@b.example"] == pytest.approx(time.time(), abs=60)
