"""Files that are moved, copied or deleted under a running storage: 451 and one line, and no state is lost."""

import os
import shutil
import sqlite3
import subprocess
import sys

import pytest

from mailroom.storage.sqlite import SQLiteStorage
from mailroom.storage.watch import FilesMoved
from mailroom.testing.contract import ALICE, BOB, KEY, refused
from tests.mailroom.storage import ENVIRONMENT


@pytest.fixture
def backup(path):
    """A function: save the database as SQLite's own backup does, and return the path of the copy."""

    def backup():
        copy = path.with_name("backup")
        with sqlite3.connect(path) as source, sqlite3.connect(copy) as target:
            source.backup(target)
        return copy

    return backup


def fill(storage, number=300):
    """Change the file enough for a checkpoint."""
    for _ in range(4):
        storage.set_all([(KEY, f"{n}@b.example", f"{'S' * 200}{os.urandom(2).hex()}") for n in range(number)])
        storage.set_all([(KEY, f"{n}@b.example", "START") for n in range(number)])
        for n in range(200):
            storage.set(KEY, f"{n}@c.example", f"S{n}")
            storage.set(KEY, f"{n}@c.example", "START")


def refuses(storage, reason):
    """Fail unless every use is answered 451, with a reason in one line."""
    storage._next_check = 0  # a read trusts the files for a millisecond
    for use in (
        lambda: storage.set(KEY, BOB, "SUBSCRIBED"),
        lambda: list(storage),
    ):
        with refused(451) as refusal:
            use()
        assert isinstance(refusal.value.__cause__, FilesMoved)
        assert reason in str(refusal.value.__cause__)
        assert "\n" not in str(refusal.value.__cause__)


def test_backup_moved_over_the_file_is_noticed_until_all_have_stopped(storage, open_storage, path, backup):
    storage.set(KEY, ALICE, "CONFIRMING")
    copy = backup()
    storage.set(KEY, ALICE, "SUBSCRIBED")
    os.replace(copy, path)

    refuses(storage, "was replaced while it is in use")
    refuses(SQLiteStorage(path), "was replaced while it is in use")

    storage.close()
    refuses(SQLiteStorage(path), f"{path}-wal belongs to another file")
    for suffix in ("-wal", "-shm"):
        os.unlink(f"{path}{suffix}")
    assert open_storage().get(KEY, ALICE) == "CONFIRMING"


def test_backup_copied_over_the_same_file_is_noticed(storage, path, backup):
    storage.set(KEY, ALICE, "CONFIRMING")
    copy = backup()
    fill(storage)
    storage.set(KEY, ALICE, "SUBSCRIBED")
    current = path.read_bytes()
    shutil.copyfile(copy, path)

    refuses(storage, "was overwritten while it is in use")

    path.write_bytes(current)
    assert storage.get(KEY, ALICE) == "SUBSCRIBED"
    storage.set(KEY, BOB, "SUBSCRIBED")


def test_backup_since_the_last_checkpoint_is_no_other_file(storage, path, backup):
    """Every page that has changed since then is in the -wal, so nothing is lost."""
    storage.set(KEY, ALICE, "CONFIRMING")
    copy = backup()
    storage.set(KEY, ALICE, "SUBSCRIBED")
    shutil.copyfile(copy, path)

    storage.set(KEY, BOB, "SUBSCRIBED")
    assert list(storage) == [(KEY, ALICE, "SUBSCRIBED"), (KEY, BOB, "SUBSCRIBED")]


@pytest.mark.parametrize("suffix", ["-wal", "-shm"])
def test_deleted_wal_or_shm_loses_nothing_once_all_have_stopped(storage, open_storage, path, suffix):
    storage.set(KEY, ALICE, "SUBSCRIBED")
    os.unlink(f"{path}{suffix}")

    refuses(storage, "was deleted while in use")
    refuses(SQLiteStorage(path), "was deleted while in use")

    storage.close()
    assert open_storage().get(KEY, ALICE) == "SUBSCRIBED"


def test_file_that_comes_back_needs_no_restart(storage, path):
    storage.set(KEY, ALICE, "SUBSCRIBED")
    os.rename(path, f"{path}.away")
    refuses(storage, "has gone")

    os.rename(f"{path}.away", path)
    assert storage.get(KEY, ALICE) == "SUBSCRIBED"


CRASH = """
import os, sys
from mailroom.storage.sqlite import SQLiteStorage
storage = SQLiteStorage(sys.argv[1])
for state in sys.argv[2:]:
    storage.set("app.handlers.tickets:42", "alice@people.example", state)
os.kill(os.getpid(), 9)
"""


def crash(path, *states):
    """Set states in a process that is killed, so that its -wal stays."""
    subprocess.run([sys.executable, "-c", CRASH, str(path), *states], env=ENVIRONMENT, check=False, timeout=60)
    assert os.path.getsize(f"{path}-wal")


@pytest.mark.parametrize("other", ["of the same time", "of another time"])
def test_wal_left_by_a_crash_is_not_played_into_another_file(path, open_storage, backup, other):
    storage = open_storage()
    storage.set(KEY, ALICE, "CONFIRMING")
    if other == "of another time":
        copy = backup()
        fill(storage)
        storage.close()
    else:
        storage.close()
        copy = shutil.copy(path, path.with_name("backup"))
    crash(path, "ONE", "TWO")
    os.rename(path, f"{path}.crashed")
    os.replace(copy, path)

    with refused(451) as refusal:
        SQLiteStorage(path).open()
    assert "belongs to another file" in str(refusal.value.__cause__)

    os.replace(f"{path}.crashed", path)
    assert open_storage().get(KEY, ALICE) == "TWO"


def test_folder_that_is_copied_after_a_crash_is_whole(path, tmp_path):
    SQLiteStorage(path).close()
    crash(path, "ONE")
    shutil.copytree(path.parent, tmp_path / "elsewhere")

    assert SQLiteStorage(tmp_path / "elsewhere" / path.name).get(KEY, ALICE) == "ONE"


def test_database_that_vanished_is_not_created_anew(path, open_storage):
    open_storage().close()
    path.unlink()

    with refused(451) as refusal:
        SQLiteStorage(path).open()
    assert f"{path} has gone; move it back, or delete {path}-locks" in str(refusal.value.__cause__)
    assert not path.exists()
