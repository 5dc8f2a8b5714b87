"""One mail is one transaction on `SQLiteStorage` and `JoinedStorage`, whatever its handler does to the connection."""

import re
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest
from salmon.routing import MemoryStorage

from mailroom.storage import sqlite
from mailroom.storage.joined import JoinedStorage
from mailroom.storage.locks import FairLock
from mailroom.testing.contract import ALICE, BOB, KEY, in_thread, refused
from tests.mailroom.storage import ENVIRONMENT, PROGRAMS
from tests.waiting import wait_until

DIGEST = b"0123456789abcdef"
WEEK = 7 * 24 * 3600


def with_block(connection):
    with connection:
        connection.execute("INSERT INTO posts VALUES ('in a block')")


def end_by_isolation_level(connection):
    connection.isolation_level = None


def roll_back_and_begin(connection):
    with suppress(sqlite3.IntegrityError):
        connection.execute("INSERT OR ROLLBACK INTO once VALUES (1)")
    connection.execute("BEGIN IMMEDIATE")


ENDS = {
    "commit": lambda connection: connection.commit(),
    "rollback": lambda connection: connection.rollback(),
    "executescript": lambda connection: connection.executescript("INSERT INTO posts VALUES ('in a script');"),
    "executescript with BEGIN and COMMIT": lambda connection: connection.executescript("COMMIT; BEGIN;"),
    "with connection": with_block,
    "BEGIN": lambda connection: connection.execute("BEGIN"),
    "COMMIT": lambda connection: connection.execute("COMMIT"),
    "END of a cursor": lambda connection: connection.cursor().execute("end transaction"),
    "ROLLBACK": lambda connection: connection.execute("ROLLBACK"),
    "isolation_level": end_by_isolation_level,
    "INSERT OR ROLLBACK": lambda connection: connection.execute("INSERT OR ROLLBACK INTO once VALUES (1)"),
    "INSERT OR ROLLBACK, BEGIN IMMEDIATE": roll_back_and_begin,
    "close": lambda connection: connection.close(),
}


def tables(connection):
    connection.execute("CREATE TABLE IF NOT EXISTS posts (text TEXT)")
    connection.execute("CREATE TABLE IF NOT EXISTS once (number INTEGER PRIMARY KEY)")
    connection.execute("INSERT OR IGNORE INTO once VALUES (1)")


def write(transaction, text="hello"):
    transaction.connection.execute("INSERT INTO posts VALUES (?)", (text,))


def posts(storage):
    with storage.transaction() as transaction:
        return [text for (text,) in transaction.connection.execute("SELECT text FROM posts ORDER BY rowid")]


@pytest.fixture
def storage(open_storage):
    storage = open_storage()
    storage.create_tables(tables)
    return storage


@pytest.fixture(params=["SQLiteStorage", "JoinedStorage"])
def either(request):
    if request.param == "SQLiteStorage":
        return request.getfixturevalue("storage")
    storage = JoinedStorage(MemoryStorage())
    storage.create_tables(tables)
    return storage


@pytest.mark.parametrize("then", ["fails", "goes on"])
@pytest.mark.parametrize("end", ENDS)
def test_handler_that_ends_the_transaction_itself_keeps_no_half_of_a_mail(either, end, then):
    with suppress(ZeroDivisionError, sqlite3.Error, sqlite.StorageError), either.transaction(ALICE) as transaction:
        either.set(KEY, ALICE, "SUBSCRIBED")
        write(transaction, "first")
        with suppress(sqlite3.Error):
            ENDS[end](transaction.connection)
        with suppress(sqlite3.Error, sqlite.StorageError):
            write(transaction, "last")
        if then == "fails":
            raise ZeroDivisionError

    kept = posts(either)
    if then == "goes on" and kept:
        assert (kept[0], kept[-1]) == ("first", "last")
        assert either.get(KEY, ALICE) == "SUBSCRIBED"
    else:
        assert kept == []
        assert either.get(KEY, ALICE) == "START"
    with either.transaction(ALICE) as transaction:
        write(transaction, "the next mail")
        either.set(KEY, ALICE, "CONFIRMING")
    assert posts(either) == [*kept, "the next mail"]
    assert either.get(KEY, ALICE) == "CONFIRMING"


def test_error_at_which_sqlite_rolls_back_is_451_though_the_handler_hides_it(either):
    with refused(451), either.transaction(ALICE) as transaction:
        write(transaction, "first")
        either.set(KEY, ALICE, "SUBSCRIBED")
        with suppress(sqlite3.IntegrityError):
            ENDS["INSERT OR ROLLBACK"](transaction.connection)
    assert posts(either) == []
    assert either.get(KEY, ALICE) == "START"


def test_connection_of_a_mail_that_has_been_handled_is_refused(either):
    with either.transaction(ALICE) as ended:
        write(ended)
    with pytest.raises(RuntimeError, match="has been handled"):
        write(ended)
    with pytest.raises(ZeroDivisionError), either.transaction(ALICE) as ended:
        raise ZeroDivisionError
    with pytest.raises(RuntimeError, match="has been handled"):
        write(ended)
    assert posts(either) == ["hello"]


def test_write_on_a_connection_that_a_handler_kept_keeps_nobody_waiting(storage, open_storage):
    with storage.transaction(ALICE) as transaction:
        write(transaction)
        kept = transaction.connection
    kept.execute("INSERT INTO posts VALUES ('late')")
    other = open_storage(write_timeout=0.2)
    other.set(KEY, ALICE, "SUBSCRIBED")
    with storage.transaction(ALICE) as transaction:
        write(transaction, "next")
    assert posts(storage) == ["hello", "late", "next"]


def test_full_disk_that_a_handler_hides_is_451_and_keeps_nothing(run_all):
    (output,) = run_all(("hide_a_full_disk",))
    assert output == "451\n0\n1\n"


def test_unfinished_cursors_are_closed_and_the_wal_stays_short(storage, open_storage, path):
    with storage.transaction(ALICE) as transaction:
        for number in range(200):
            write(transaction, f"{number}")
    other = open_storage()
    left_open, longest = [], 0
    for number in range(1500):
        for one in (storage, other):
            with one.transaction(ALICE) as transaction:
                cursor = transaction.connection.execute("SELECT text FROM posts")
                cursor.fetchone()
                left_open.append(cursor)
                one.set(KEY, f"{number % 50}@b.example", f"S{number}")
        longest = max(longest, path.with_name(f"{path.name}-wal").stat().st_size)
    assert longest < 8_000_000
    with pytest.raises(sqlite3.ProgrammingError, match="closed cursor"):
        left_open[-1].fetchone()


def test_transaction_that_changes_nothing_writes_nothing(storage, path):
    storage.set(KEY, ALICE, "SUBSCRIBED")
    posts(storage)
    before = path.with_name(f"{path.name}-wal").stat().st_size
    with storage.transaction(ALICE) as transaction:
        assert not transaction.handled(DIGEST)
        assert storage.get(KEY, ALICE) == "SUBSCRIBED"
        storage.set(KEY, ALICE, "SUBSCRIBED")
        storage.set(KEY, BOB, "START")
        transaction.connection.execute("SELECT * FROM posts").fetchall()
        transaction.connection.execute("DELETE FROM posts WHERE text = 'not there'")
    assert path.with_name(f"{path.name}-wal").stat().st_size == before


def test_transaction_that_writes_has_one_begin_and_one_commit(storage):
    posts(storage)
    said = []
    storage._connection().set_trace_callback(said.append)
    with storage.transaction(ALICE) as transaction:
        assert not transaction.handled(DIGEST)
        storage.set(KEY, ALICE, "SUBSCRIBED")
        write(transaction)
        storage.set(KEY, BOB, "CONFIRMING")
        write(transaction)
    storage._connection().set_trace_callback(None)
    ends = [it.split()[0] for it in said if re.match("BEGIN|COMMIT|ROLLBACK|SAVEPOINT|END", it.strip())]
    assert ends == ["BEGIN", "COMMIT"]


def may_trace():
    return shutil.which("strace") and subprocess.run(["strace", "-o", "/dev/null", "true"]).returncode == 0


@pytest.mark.skipif(not may_trace(), reason="there is no strace, or it may not trace")
def test_mail_that_wrote_something_has_one_fsync_and_another_none(path, tmp_path):
    kinds = ["read", "state", "row", "both", "read", "both"]
    calls = tmp_path / "calls"
    strace = ["strace", "-f", "-e", "trace=fsync,fdatasync,write", "-o", calls]
    subprocess.run(
        [*strace, sys.executable, PROGRAMS, "between_marks", path, *kinds], check=True, env=ENVIRONMENT, timeout=60
    )
    found = re.findall(r'write\(1, "(\w+) begins.*?\n(.*?)write\(1, "\w+ ends', calls.read_text(), re.DOTALL)
    assert [kind for kind, _ in found] == kinds
    for kind, between in found:
        assert len(re.findall(r"f(?:data)?sync\(", between)) == (0 if kind == "read" else 1), kind


def test_mail_of_another_worker_waits_for_a_slow_handler_whose_name_is_logged(start, storage):
    slow = start("write_slowly", 2)
    assert slow.stdout.readline() == "written\n"
    before = time.monotonic()
    with storage.transaction(BOB) as transaction:
        storage.set(KEY, BOB, "SUBSCRIBED")
        write(transaction)
    assert time.monotonic() - before > 1
    assert posts(storage) == ["slow", "hello"]
    _, log = slow.communicate(timeout=30)
    assert slow.returncode == 0, log
    assert re.search(r"app\.handlers\.slow\.SLOW kept others from writing for [23]\.\d seconds", log)


def test_mail_that_only_reads_states_does_not_wait_for_a_slow_handler(start, storage):
    posts(storage)
    slow = start("write_slowly", 60)
    assert slow.stdout.readline() == "written\n"
    with storage.transaction(BOB) as transaction:
        assert not transaction.handled(DIGEST)
        assert storage.get(KEY, BOB) == "START"
    assert slow.poll() is None


def test_write_that_waits_too_long_is_451_and_the_next_one_is_handled(start, open_storage):
    storage = open_storage(write_timeout=0.2)
    storage.create_tables(tables)
    posts(storage)
    slow = start("write_slowly", 60)
    assert slow.stdout.readline() == "written\n"
    for _ in range(2):
        with refused(451), storage.transaction(BOB) as transaction:
            write(transaction)
        with refused(451):
            storage.set(KEY, BOB, "SUBSCRIBED")
    slow.kill()
    slow.wait()
    with storage.transaction(BOB) as transaction:
        write(transaction)
    assert posts(storage) == ["hello"]


def test_threads_of_a_process_write_in_the_order_in_which_they_came(storage):
    def work(number):
        with storage.transaction(f"{number}@b.example") as transaction:
            write(transaction, str(number))

    with ThreadPoolExecutor(8) as pool:
        with storage.transaction(ALICE) as transaction:
            write(transaction, "first")
            for number in range(8):
                pool.submit(work, number)
                wait_until(lambda: len(storage._write_lock._waiting) == number + 1)  # noqa: B023
    assert posts(storage) == ["first", *map(str, range(8))]


def test_fair_lock_goes_on_after_one_that_gave_up():
    lock = FairLock()
    assert lock.acquire(0)
    assert not in_thread(lock.acquire, 0.01)
    lock.release()
    assert in_thread(lock.acquire, 0)
    assert not lock.acquire(0.01)
    lock.release()
    assert lock.acquire(0)


def note(storage, digest=DIGEST):
    with storage.transaction(ALICE) as transaction:
        assert not transaction.handled(digest)
        storage.set(KEY, ALICE, storage.get(KEY, ALICE) + "+")


def is_noted(storage, digest=DIGEST):
    with storage.transaction(BOB) as transaction:
        return transaction.handled(digest)


def test_note_is_found_by_another_process(storage, run_all):
    note(storage)
    assert run_all(("is_noted", DIGEST.hex()), ("is_noted", DIGEST[::-1].hex())) == ["True\n", "False\n"]


def test_note_is_forgotten_after_a_week(either, monkeypatch):
    now = time.time()
    note(either)
    monkeypatch.setattr(time, "time", lambda: now + WEEK - 60)
    note(either, b"of another mail")
    assert is_noted(either)
    monkeypatch.setattr(time, "time", lambda: now + WEEK + 2 * 3600)
    note(either, b"of a third mail")
    assert not is_noted(either)
    assert is_noted(either, b"of another mail")


def test_duplicate_without_a_sender_lock_is_handled_once(either):
    """Stateless handlers run at the same time for the same sender: one of both is kept."""

    def work(_):
        with either.transaction(ALICE, stateless=True) as transaction:
            if transaction.handled(DIGEST):
                return "handled before"
            with suppress(threading.BrokenBarrierError):
                both_are_here.wait(0.5)  # one mail at a time: the other one does not come
            write(transaction)
        return "handled"

    def answer(number):
        try:
            return work(number)
        except sqlite.StorageError as error:
            return error.code

    both_are_here = threading.Barrier(2)
    with ThreadPoolExecutor(2) as pool:
        answers = list(pool.map(answer, range(2)))
    assert answers.count("handled") == 1
    assert set(answers) <= {"handled", "handled before", 451}
    assert posts(either) == ["hello"]
    assert work(3) == "handled before"


def test_commit_that_fails_in_one_of_both_keeps_nothing_of_them():
    """The states of a `JoinedStorage` are somewhere else than its own tables."""

    class Failing(MemoryStorage):
        def set(self, key, sender, state):
            if sender == BOB and state == "SUBSCRIBED":
                raise OSError
            super().set(key, sender, state)

    storage = JoinedStorage(Failing())
    storage.create_tables(tables)
    with refused(451), storage.transaction(ALICE) as transaction:
        write(transaction)
        storage.set(KEY, ALICE, "SUBSCRIBED")
        storage.set(KEY, BOB, "SUBSCRIBED")
    assert storage.get(KEY, ALICE) == "START"
    assert posts(storage) == []

    with refused(451), storage.transaction(ALICE) as transaction:
        storage.set(KEY, ALICE, "SUBSCRIBED")
        with suppress(sqlite3.IntegrityError):
            ENDS["INSERT OR ROLLBACK"](transaction.connection)
    assert storage.get(KEY, ALICE) == "START"
