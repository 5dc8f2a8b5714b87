"""States in one SQLite file, for any number of processes of one machine."""

import os
import random
import sqlite3
import sys
import threading
import time
import weakref
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from salmon.routing import ROUTE_FIRST_STATE
from salmon.server import SMTPError

from mailroom.storage.base import UNAVAILABLE, Storage, answering, file_identity
from mailroom.storage.locks import SenderLocks

# How long, in seconds, a read trusts that the file is still there; to ask costs as much as half a read.
STAT_INTERVAL = 1e-3

CREATE = """
    CREATE TABLE IF NOT EXISTS states (
        key TEXT NOT NULL, sender TEXT NOT NULL, state TEXT NOT NULL, PRIMARY KEY (key, sender)
    ) WITHOUT ROWID"""
SELECT = "SELECT state FROM states WHERE key = ? AND sender = ?"
UPSERT = """
    INSERT INTO states VALUES (?, ?, ?)
    ON CONFLICT (key, sender) DO UPDATE SET state = excluded.state"""
DELETE = "DELETE FROM states WHERE key = ? AND sender = ?"
FIRST_PAGE = "SELECT * FROM states ORDER BY key, sender LIMIT 1000"
NEXT_PAGE = "SELECT * FROM states WHERE (key, sender) > (?, ?) ORDER BY key, sender LIMIT 1000"


# One thread at a time is in SQLite, whatever storage it uses, and a fork waits for it: neither a
# connection nor a lock that another thread holds must cross a fork. Before it every storage is
# closed, and either side opens its own at the next call.
_one_thread = threading.RLock()
_storages = weakref.WeakSet()


class SQLiteStorage(Storage):
    """States in one SQLite file, on disk at the moment `set` returns.

    `path` is the file; it and its folder are created when it is first opened, for their owner only. A busy
    database is waited for, `timeout` seconds at most, and the lock of a sender `lock_timeout` seconds.
    """

    _cursor = None
    _was_open = False

    def __init__(self, path, protected=False, timeout=5.0, lock_timeout=2.0):
        self.path = os.path.abspath(path)
        self.protected = protected
        self.timeout = timeout
        self._shown = os.fspath(path)
        self._locks = SenderLocks(self.path + "-locks", lock_timeout)

    def open(self):
        self._run("SELECT 1")

    def get(self, key, sender):
        rows = self._run(SELECT, (_cell(key), _cell(sender)))
        return _value(rows[0][0]) if rows else ROUTE_FIRST_STATE

    def set(self, key, sender, state):
        self._run(*_change(key, sender, state), writes=True)

    def set_all(self, rows):
        # BEGIN waits for other writers; what follows does not. They wait from the first row to the last.
        self._run("BEGIN IMMEDIATE", writes=True, then=lambda: self._write_all(rows))

    def _clear(self):
        self._run("DELETE FROM states", writes=True)

    def __iter__(self):
        rows = self._run(FIRST_PAGE)
        while rows:
            for row in rows:
                yield tuple(map(_value, row))
            rows = self._run(NEXT_PAGE, rows[-1][:2])

    @contextmanager
    def conversation(self, sender):
        if not self._was_open:
            self.open()  # which creates the folder
        with ExitStack() as lock:
            with answering(OSError):
                lock.enter_context(self._locks.lock(sender))
            yield

    def close(self):
        with _one_thread:
            if self._cursor is not None:
                self._cursor.connection.close()
            self._cursor = None

    def __del__(self):
        self.close()

    def _run(self, sql, parameters=(), writes=False, then=None):
        """Return the rows of a statement; call `then` after it, before any other thread comes in.

        It is tried again while another process is in the way. SQLite's own busy handler waits
        in steps that grow, and one process starved for seconds; short random ones share better.
        """
        deadline = None
        while True:
            with _one_thread:
                try:
                    if self._cursor is None:
                        self._connect()
                    if writes or time.monotonic() > self._next_check:
                        self._check_file()
                    rows = self._cursor.execute(sql, parameters).fetchall()
                    if then:
                        then()
                    return rows
                except (sqlite3.Error, OSError) as error:
                    deadline = deadline or time.monotonic() + self.timeout
                    busy = isinstance(error, sqlite3.OperationalError) and "lock" in str(error)
                    if not busy:
                        self.close()
                    if not busy or time.monotonic() > deadline:
                        raise SMTPError(451, UNAVAILABLE) from error
            time.sleep(random.uniform(0.0005, 0.005))

    def _connect(self):
        _storages.add(self)
        if not self._was_open:
            _create_file(self.path)
        # mode=rw: a file that has gone is an error, not an empty storage.
        file = f"{Path(self.path).as_uri()}?mode=rw"
        connection = sqlite3.connect(file, uri=True, timeout=0, isolation_level=None, check_same_thread=False)
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            # With NORMAL, a power cut takes everything since the last checkpoint.
            connection.execute("PRAGMA synchronous = FULL")
            # Who is forgotten is not to be found in the file either.
            connection.execute("PRAGMA secure_delete = ON")
            if sys.platform == "darwin":  # whose fsync leaves data in the drive's cache
                connection.execute("PRAGMA fullfsync = ON")
                connection.execute("PRAGMA checkpoint_fullfsync = ON")
            if not self._was_open:
                connection.execute(CREATE)
            self._file = None
            self._check_file()
        except BaseException:
            connection.close()
            raise
        self._cursor = connection.cursor()
        self._was_open = True

    def _check_file(self):
        """Refuse to go on when the open file is not the one at our path: writes would be lost."""
        identity = file_identity(self.path)
        if self._file not in (None, identity):
            raise OSError(f"{self.path} was replaced while it was open")
        self._file = identity
        self._next_check = time.monotonic() + STAT_INTERVAL

    def _write_all(self, rows):
        cursor = self._cursor
        try:
            for row in rows:
                cursor.execute(*_change(*row))
            cursor.execute("COMMIT")
        except BaseException as error:
            cursor.connection.rollback()
            if isinstance(error, sqlite3.OperationalError):  # never tried again: the stream is used up
                raise sqlite3.DatabaseError(str(error)) from error
            raise


def _create_file(path):
    """Create the file before SQLite does, for its owner only; SQLite's -wal and -shm take its mode.

    Only ever a new file: to close one that SQLite has open gives back the locks of the whole
    process (https://sqlite.org/howtocorrupt.html, section 2.2).
    """
    Path(path).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL, 0o600))


def _change(key, sender, state):
    if state == ROUTE_FIRST_STATE:
        return DELETE, (_cell(key), _cell(sender))
    return UPSERT, (_cell(key), _cell(sender), _cell(state))


def _cell(value):
    """Return what stands for `value` in the file: itself, or bytes where a text would not do.

    A lone surrogate has no UTF-8. None would be NULL, of which a key may have many.
    """
    if value is None:
        return b""
    if value.isascii():
        return value
    try:
        value.encode()
    except UnicodeEncodeError:
        return value.encode("utf-8", "surrogatepass")
    return value


def _value(cell):
    if isinstance(cell, bytes):
        return cell.decode("utf-8", "surrogatepass") if cell else None
    return cell


def _before_fork():
    _one_thread.acquire()
    for storage in list(_storages):
        storage.close()


os.register_at_fork(before=_before_fork, after_in_parent=_one_thread.release, after_in_child=_one_thread.release)
