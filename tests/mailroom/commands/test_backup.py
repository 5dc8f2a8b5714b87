"""`operate.py backup` saves an SQLite database whole or not at all; `restore` brings it back, whatever has become of it."""

import os
import shutil
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing

import pytest
from salmon.routing import Router

from mailroom.storage import StorageError, watch
from mailroom.storage.sqlite import SQLiteStorage
from tests.mailroom.storage import ENVIRONMENT

KEY = "tests.mailroom.trial_list:news"
ALICE, BOB = "alice@people.example", "bob@people.example"
POSTS = "CREATE TABLE IF NOT EXISTS posts (text TEXT NOT NULL)"
FIRST_VERSION = """
    CREATE TABLE states (key TEXT NOT NULL, sender TEXT NOT NULL, state TEXT NOT NULL, PRIMARY KEY (key, sender))
    WITHOUT ROWID"""
WORKER = """
import sys
from mailroom.storage.sqlite import SQLiteStorage
storage = SQLiteStorage(sys.argv[1])
for line in sys.stdin:
    if line.strip():
        storage.set(*line.split())
    print(*sorted(f"{sender} {state}" for _, sender, state in storage), sep=", ", flush=True)
"""


@pytest.fixture
def storage(room, tmp_path):
    """The SQLite storage of the application, with an own table `posts`; Alice is SUBSCRIBED and has written a post."""
    (tmp_path / "run").mkdir(mode=0o700)
    room.tables = lambda connection: connection.execute(POSTS)
    storage = Router.STATE_STORE = SQLiteStorage(tmp_path / "run" / "states", protected=True)
    with room.storage.transaction() as transaction:
        storage.set(KEY, ALICE, "SUBSCRIBED")
        transaction.connection.execute("INSERT INTO posts VALUES ('saved')")
    yield storage
    storage.close()


@pytest.fixture
def file(tmp_path):
    """Where a backup is written."""
    return tmp_path / "run" / "states.backup"


@pytest.fixture
def backup(run, storage, file):
    """A function: run `operate.py backup`, and return the path of the backup."""

    def backup():
        result = run("backup", str(file))
        assert result.exit_code == 0, result.output
        return file

    return backup


@pytest.fixture
def restore(run, storage, file):
    """A function: run `operate.py restore --yes`, and return what it printed."""

    def restore(path=file, exit_code=0):
        result = run("restore", "--yes", str(path))
        assert result.exit_code == exit_code, result.output
        assert result.output.count("\n") == 1
        return result.output

    return restore


@pytest.fixture
def worker(storage):
    """A function: another process that has the database open sets `key sender state`, if given, and returns the rows."""
    program = [sys.executable, "-c", WORKER, storage.path]
    with subprocess.Popen(
        program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=ENVIRONMENT, text=True
    ) as process:

        def ask(row=""):
            process.stdin.write(f"{row}\n")
            process.stdin.flush()
            return process.stdout.readline().strip()

        ask.kill = lambda: (process.kill(), process.wait())
        yield ask
        process.stdin.close()


def posts(storage):
    with storage.transaction() as transaction:
        return [text for (text,) in transaction.connection.execute("SELECT text FROM posts")]


def change(storage):
    """Let Alice and Bob write after the backup."""
    with storage.transaction() as transaction:
        storage.set(KEY, ALICE, "START")
        storage.set(KEY, BOB, "CONFIRMING")
        transaction.connection.execute("INSERT INTO posts VALUES ('later')")


def assert_restored(storage):
    assert list(storage) == [(KEY, ALICE, "SUBSCRIBED")]
    assert posts(storage) == ["saved"]


def listed(file):
    return sorted(path.name for path in file.parent.iterdir() if not path.name.startswith("states-"))


def test_backup_is_one_file_that_only_its_owner_can_read(backup, storage):
    file = backup()

    assert file.stat().st_mode & 0o777 == 0o600
    assert listed(file) == ["states", "states.backup"]
    with watch.opened(file) as saved:
        assert saved.execute("SELECT sender, state FROM states").fetchall() == [(ALICE, "SUBSCRIBED")]
        assert saved.execute("SELECT text FROM posts").fetchall() == [("saved",)]
    assert listed(file) == ["states", "states.backup"]


def test_backup_contains_the_time_of_each_change_and_the_notes_of_handled_mails(backup, restore, storage):
    with storage.transaction(BOB) as transaction:
        assert not transaction.handled(b"digest")
        storage.set(KEY, BOB, "CONFIRMING")
    before = list(storage.rows())
    backup()
    storage.set(KEY, BOB, "START")

    restore()

    assert list(storage.rows()) == before
    assert storage.is_handled(b"digest")


def test_backup_does_not_overwrite_a_file(run, storage, file):
    file.write_text("precious")

    refused = run("backup", str(file))

    assert refused.exit_code == 1
    assert "was not saved" in refused.output and "it exists already" in refused.output
    assert file.read_text() == "precious"


def test_backup_does_not_wait_for_a_writer(backup, storage):
    other = SQLiteStorage(storage.path)
    with other.transaction() as transaction:
        transaction.connection.execute("INSERT INTO posts VALUES ('not committed')")
        file = backup()

    with watch.opened(file) as saved:
        assert saved.execute("SELECT text FROM posts").fetchall() == [("saved",)]
    other.close()


@pytest.mark.parametrize("step", ["refuse_damaged", "move"])
def test_backup_that_fails_leaves_nothing(run, storage, file, monkeypatch, step):
    def fail(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(watch, step, fail)

    refused = run("backup", str(file))

    assert refused.exit_code == 1
    assert "No space left on device" in refused.output
    assert listed(file) == ["states"]


def test_backup_into_a_missing_folder_is_refused_in_one_line(run, storage, tmp_path):
    refused = run("backup", str(tmp_path / "nowhere" / "file"))

    assert refused.exit_code == 1
    assert "No such file or directory" in refused.output
    assert refused.output.count("\n") == 1


def test_backup_refuses_a_damaged_database(run, storage, file):
    damage(storage)

    refused = run("backup", str(file))

    assert refused.exit_code == 1
    assert "was not saved" in refused.output
    assert listed(file) == ["states"]


def damage(storage):
    """Overwrite all pages but the first one."""
    storage.set_all([(KEY, f"{number}@people.example", "SUBSCRIBED") for number in range(1000)])
    storage.close()
    with open(storage.path, "r+b") as database:
        pages = os.path.getsize(storage.path) // 4096 - 1
        database.seek(4096)
        database.write(b"\xff" * 4096 * pages)


def test_restore_after_all_workers_have_stopped(backup, restore, storage):
    backup()
    change(storage)
    storage.close()

    assert restore().startswith(f"{storage!r} is restored from ")

    assert_restored(storage)


def test_restore_is_seen_by_the_next_mail_of_a_running_worker(backup, restore, storage, worker):
    backup()
    assert worker(f"{KEY} {BOB} CONFIRMING") == f"{ALICE} SUBSCRIBED, {BOB} CONFIRMING"

    restore()

    assert worker() == f"{ALICE} SUBSCRIBED"
    assert worker(f"{KEY} {ALICE} CONFIRMING") == f"{ALICE} CONFIRMING"
    assert list(storage) == [(KEY, ALICE, "CONFIRMING")]


def test_restored_database_survives_many_checkpoints(backup, restore, storage, worker):
    backup()
    worker(f"{KEY} {BOB} CONFIRMING")
    restore()

    for number in range(5):
        storage.set_all([(KEY, f"{n}@people.example", f"{'S' * 300}{number}") for n in range(4000)])
        assert worker(f"{KEY} {BOB} STATE{number}").startswith("0@people.example")
        assert storage.get(KEY, BOB) == f"STATE{number}"


def test_restored_database_is_whole_after_the_worker_was_killed(backup, restore, storage, worker):
    backup()
    worker(f"{KEY} {BOB} CONFIRMING")
    restore()
    storage.close()
    worker.kill()

    assert_restored(storage)


def test_large_backup_is_restored_while_others_write_without_a_pause(backup, restore, storage):
    storage.set_all([(KEY, f"{number}@people.example", "S" * 200) for number in range(10_000)])
    backup()
    stop, failures = threading.Event(), []

    def write():
        other = SQLiteStorage(storage.path)
        while not stop.is_set():
            try:
                other.set(KEY, BOB, os.urandom(4).hex())
            except StorageError as error:
                failures.append(error.__cause__)
        other.close()

    writing = [threading.Thread(target=write) for _ in range(2)]
    for thread in writing:
        thread.start()
    try:
        for _ in range(5):
            restore()
    finally:
        stop.set()
        for thread in writing:
            thread.join()

    assert failures == []
    assert posts(storage) == ["saved"]


def test_restore_waits_for_a_writer(backup, restore, storage):
    backup()
    change(storage)
    storage.close()
    storage._watch.locks.timeout = 0.2
    other = SQLiteStorage(storage.path)
    with other.transaction() as transaction:
        transaction.connection.execute("INSERT INTO posts VALUES ('more')")
        assert "others have written for 0.2 seconds" in restore(exit_code=1)

    assert posts(storage) == ["saved", "later", "more"]
    other.close()
    restore()
    assert_restored(storage)


def test_backup_copied_over_the_file_of_a_running_worker_is_noticed_and_restored(
    backup, restore, storage, worker, file
):
    worker()
    shutil.copyfile(backup(), storage.path)

    refusal = restore(exit_code=1)
    assert "was overwritten while it is in use; stop all workers, then use `operate.py restore FILE`" in refusal
    worker.kill()
    restore()

    assert_restored(storage)


@pytest.mark.parametrize("suffix", ["", "-wal", "-shm"])
def test_file_deleted_under_a_running_worker_is_restored_after_the_worker_has_stopped(
    backup, restore, storage, worker, suffix
):
    backup()
    worker(f"{KEY} {BOB} CONFIRMING")
    storage.close()
    os.unlink(f"{storage.path}{suffix}")

    assert "nothing has changed: " in restore(exit_code=1)
    worker.kill()
    restore()

    assert_restored(storage)


def test_restore_replaces_a_wal_of_another_database(backup, restore, storage, worker):
    backup()
    change(storage)
    storage.close()
    other = storage.path + "-other"
    shutil.copyfile(storage.path, other)
    worker(f"{KEY} {BOB} SUBSCRIBED")
    worker.kill()
    os.replace(other, storage.path)

    restore()

    assert_restored(storage)


def test_killed_restore_is_not_mixed_with_the_old_wal(backup, restore, storage, worker, monkeypatch):
    backup()
    worker(f"{KEY} {BOB} SUBSCRIBED")
    storage.close()
    worker.kill()

    def stop(path):
        raise InterruptedError

    with monkeypatch.context() as interrupted:
        interrupted.setattr(watch.os, "unlink", stop)
        restore(exit_code=1)
    with pytest.raises(StorageError) as refusal:
        storage.get(KEY, BOB)
    assert f"{storage.path}-wal belongs to another file" in str(refusal.value.__cause__)
    restore()

    assert_restored(storage)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can write what another user owns")
def test_restored_database_belongs_to_the_user_of_the_server(backup, restore, storage):
    backup()
    storage.close()
    os.chown(storage.path, 12345, 12345)

    restore()

    status = os.stat(storage.path)
    assert (status.st_uid, status.st_gid, status.st_mode & 0o777) == (12345, 12345, 0o600)


@pytest.mark.parametrize("make", [damage, lambda storage: os.truncate(storage.path, 0)])
def test_damaged_database_is_restored(backup, restore, storage, make):
    backup()
    change(storage)
    storage.close()
    make(storage)
    storage.close()

    restore()

    assert_restored(storage)


@pytest.mark.parametrize("content", [b"", b"garbage" * 1000])
def test_restore_refuses_a_file_that_is_no_database_of_states(storage, restore, file, content):
    file.write_bytes(content)

    assert restore(exit_code=1).startswith(f"Error: nothing has changed: {file} was not restored into {storage!r}: ")
    assert_restored(storage)
    assert listed(file) == ["states", "states.backup"]


def test_restore_refuses_a_damaged_backup(backup, restore, storage):
    storage.set_all([(KEY, f"{number}@people.example", "SUBSCRIBED") for number in range(1000)])
    before = list(storage)
    with open(backup(), "r+b") as saved:
        saved.seek(3 * 4096)
        saved.write(b"\xff" * 4096)

    assert "nothing has changed" in restore(exit_code=1)
    assert list(storage) == before


def test_restore_refuses_the_database_itself(storage, restore):
    assert "it is the database itself" in restore(storage.path, exit_code=1)
    assert_restored(storage)


def test_restore_asks_first(run, backup, storage):
    file = backup()
    change(storage)

    declined = run("restore", str(file), input="n\n")
    assert declined.exit_code == 1
    assert f"Replace all that is in {storage!r}? [y/N]" in declined.output
    assert len(posts(storage)) == 2

    assert run("restore", str(file), input="y\n").exit_code == 0
    assert_restored(storage)


@pytest.mark.parametrize("is_running", [False, True])
def test_backup_of_version_0_1_is_migrated(restore, storage, worker, file, is_running):
    with closing(sqlite3.connect(file)) as old:
        old.execute("PRAGMA journal_mode = WAL")
        old.execute(FIRST_VERSION)
        old.execute("INSERT INTO states VALUES (?, ?, 'CONFIRMING')", (KEY, BOB))
        old.commit()
    if is_running:
        worker()

    restore()

    assert posts(storage) == []
    assert worker(f"{KEY} {ALICE} SUBSCRIBED") == f"{ALICE} SUBSCRIBED, {BOB} CONFIRMING"


def test_restore_on_a_new_machine(backup, run, room, tmp_path):
    file = backup()
    new = Router.STATE_STORE = SQLiteStorage(tmp_path / "new" / "states")

    assert run("restore", "--yes", str(file)).exit_code == 0

    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "new" / "states").stat().st_mode & 0o777 == 0o600
    assert_restored(new)
    new.close()


def test_failed_restore_changes_nothing(backup, restore, storage, monkeypatch):
    backup()
    change(storage)
    storage.close()
    before = list(storage.rows())
    storage.close()

    def fail(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(watch, "refuse_damaged", fail)

    assert "No space left on device" in restore(exit_code=1)
    assert list(storage.rows()) == before


@pytest.mark.parametrize("command", ["backup", "restore"])
def test_backup_of_another_storage_is_refused_with_the_tools_of_its_database(run, home, command):
    (home / "file").touch()

    refused = run(command, str(home / "file"))

    assert refused.exit_code == 1
    assert refused.output == (
        f"Error: {Router.STATE_STORE!r} is no SQLiteStorage; use the tools of its database, for example pg_dump and"
        " pg_restore, or `states export` and `states import`\n"
    )
