"""Copy an SQLite database into a file that is whole: for `SQLiteStorage.backup` and `restore`."""

import os
import secrets
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from urllib.parse import quote


@contextmanager
def opened(path: str | os.PathLike[str]) -> Iterator[sqlite3.Connection]:
    """Open the database `path` to be read; raise `sqlite3.DatabaseError` when it is none.

    Without a -wal, nothing is created beside it: its folder may be read-only.
    """
    options = "mode=ro" if os.path.exists(f"{path}-wal") else "mode=ro&immutable=1"
    with closing(sqlite3.connect(f"file:{quote(os.fspath(path))}?{options}", uri=True)) as connection:
        yield connection


@contextmanager
def copied(
    source: sqlite3.Connection, path: str, prepare: Callable[[sqlite3.Connection], object] | None = None
) -> Iterator[str]:
    """Copy the database of the connection `source` into a new file beside `path`, for its owner only.

    Yields the file's name when it is on disk, and deletes what is still there in the end. `prepare(connection)` may
    change the copy. Raises `sqlite3.DatabaseError` when it is damaged, or has no table of states.
    """
    part = f"{path}.{secrets.token_hex(4)}"
    file = os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with closing(sqlite3.connect(part, isolation_level=None)) as copy:
            copy.execute("PRAGMA journal_mode = OFF")
            source.backup(copy)
            refuse_damaged(copy)
            copy.execute("SELECT key, sender, state FROM states LIMIT 1").fetchall()
            copy.execute("PRAGMA journal_mode = DELETE")  # no -wal belongs to it, also when it is read
            if prepare:
                prepare(copy)
            # Not the mark of the original: who copies this over that is noticed.
            copy.execute(f"PRAGMA application_id = {new_mark()}")
        os.fsync(file)
        yield part
    finally:
        os.close(file)
        with suppress(FileNotFoundError):
            os.unlink(part)


def move(part: str, path: str) -> None:
    """Give a file another name in its folder, and wait until that is on disk."""
    os.rename(part, path)
    folder = os.open(os.path.dirname(path), os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def new_mark() -> int:
    """Return a random `application_id`; see `watch.py`."""
    return secrets.randbelow(2**31 - 1) + 1


def refuse_damaged(connection: sqlite3.Connection) -> None:
    """Raise `sqlite3.DatabaseError` when SQLite finds damage; a million rows take it a third of a second."""
    ((found,),) = connection.execute("PRAGMA quick_check(1)").fetchall()
    if found != "ok":
        raise sqlite3.DatabaseError(f"the database is damaged: {found.splitlines()[-1]}")
