"""One SQLite file for any number of processes of one machine: states, own tables, and which mails were handled."""

import atexit
import errno
import math
import os
import random
import re
import sqlite3
import sys
import threading
import time
import weakref
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from typing import Any
from urllib.parse import quote

from mailroom import outbox
from mailroom.storage import LOG, SLOW_TRANSACTION, StorageError, Tables, Transaction, failing, handler_name, watch
from mailroom.storage.locks import PATIENCE, FairLock, FileLocks, lock_number
from mailroom.storage.tables import ADD_CHANGED, COLUMNS, TableStorage
from mailroom.storage.watch import SENDERS, FilesMoved, FileWatch

CHECK_INTERVAL = 1e-3  # seconds for which a read trusts that the files are still there
FORK_PATIENCE = 1.0  # seconds
BEGIN = "BEGIN IMMEDIATE -- a mail"  # a text of its own: a handler must not find the statement in Python's cache
SURROGATE = re.compile("[\ud800-\udfff]")

# Held for each statement outside of a transaction, so that a fork finds these connections at rest.
_statement = threading.RLock()
_storages: "weakref.WeakSet[SQLiteStorage]" = weakref.WeakSet()
_abandoned: "list[Connection]" = []  # connections that were in a transaction of the parent when this process was forked


class SQLiteStorage(TableStorage):
    """States and own tables in one SQLite file, on disk at the moment a transaction ends.

    `path` is the file; it and its folder are created when missing, for their owner only. With `protected`,
    `clear` refuses. Another mail of the same sender is waited for `lock_timeout` seconds, and others who write
    `write_timeout` seconds.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        protected: bool = False,
        lock_timeout: float = 2.0,
        write_timeout: float = 10.0,
    ) -> None:
        self.path = os.path.realpath(path)
        self.protected = protected
        self.write_timeout = write_timeout
        self._shown = os.fspath(path)
        self._locks = FileLocks(f"{self.path}-locks", lock_timeout)
        self._watch = FileWatch(self.path, FileLocks(f"{self.path}-locks", write_timeout))
        self._tables: list[Tables] = []
        self._next_check = 0.0
        self._reset_connections()
        _storages.add(self)

    def _reset_connections(self) -> None:
        self._connections: dict[int, Connection] = {}  # by thread
        self._opening = threading.RLock()
        self._write_lock = FairLock()
        self._written_since = math.inf  # by a thread of this process

    def open(self) -> None:
        """Open the file; create it where there is none, and add tables and columns that are missing."""
        self.fetch("SELECT 1")

    def close(self) -> None:
        """Close the connections of all threads; the next call opens one again."""
        with _statement, self._opening, self._failing():
            self._close(list(self._connections))

    def __del__(self, suppress: Any = suppress) -> None:
        with suppress(Exception):  # whatever is left of it when the interpreter ends
            self.close()

    def cells(self, *texts: str | None) -> tuple[Any, ...]:
        return tuple(map(_cell, texts))

    def value(self, cell: Any) -> Any:
        if isinstance(cell, bytes):
            return cell.decode("utf-8", "surrogatepass") if cell else None
        return cell

    def execute(self, here: Transaction, sql: str, *rows: Sequence[Any]) -> None:
        try:
            here.has_written |= here.connected.run_many(sql, rows).rowcount > 0
        except sqlite3.Error as error:
            raise self._failure(error) from error

    def refuse_damaged(self) -> None:
        self.open()
        with self._failing():
            watch.refuse_damaged(self._connection())

    def backup(self, path: str | os.PathLike[str]) -> None:
        """Copy the database into the new file `path`, for its owner only, whole or not at all; others may write.

        Raises `OSError` or `sqlite3.Error` when that cannot be done.
        """
        path = os.path.realpath(path)
        if os.path.exists(path):
            raise FileExistsError(errno.EEXIST, "it exists already", path)
        self.open()
        with watch.copied(self._connection(), path) as part:
            watch.move(part, path)

    def restore(self, path: str | os.PathLike[str]) -> None:
        """Bring back what `backup` has saved, all or nothing, also while others use the database.

        What nobody uses may be damaged, or not be there. Raises `OSError` or `sqlite3.Error` when it cannot be done.
        """
        if os.path.exists(self.path) and os.path.samefile(path, self.path):
            raise FileExistsError(errno.EEXIST, "it is the database itself", path)
        self._make_folder()
        with watch.opened(path) as saved, watch.copied(saved, self.path, self._prepare) as part:
            self.close()
            try:
                if not self._watch.replace(part):
                    self.open()
                    self._watch.overwrite(self._connection(), part)
            finally:
                self._is_open = False  # it was `part` that was prepared

    @contextmanager
    def lock(self, here: Transaction) -> Iterator[None]:
        if not self._is_open:
            self.open()  # which creates the folder
        byte = None if here.locked is None else SENDERS + lock_number(here.locked)
        with failing(OSError):
            if not here.waits and time.monotonic() > self._written_since + PATIENCE:
                raise TimeoutError
            if byte is not None:
                self._locks.wait(byte, here.waits)
        try:
            yield
        finally:
            if byte is not None:
                self._locks.release(byte)

    def begin(self, here: Transaction) -> Any:
        if here.connected is None:
            here.connected = self._begin(here)
        elif not here.connected.in_transaction:
            raise StorageError from sqlite3.OperationalError("SQLite has rolled this transaction back")
        return here.connected

    def connection(self, here: Transaction) -> Any:
        """Return the `sqlite3.Connection` of a transaction for a handler."""
        connection = self.begin(here)
        if not here.handler:
            here.handler = handler_name() or "a script"
            connection.protect()
        return connection

    def commit(self, here: Transaction) -> None:
        """Commit states, outgoing mail, note and own tables with one fsync, and none when nothing has changed."""
        if here.connected is None and not (here.changes() or here.has_written or here.outgoing):
            return
        self.begin(here)
        with self._failing():
            here.connected.unprotect()
            here.has_written |= here.connected.total_changes != here.changes_before
            self.keep(here)
            self._watch.check()
            here.connected.commit()
            with suppress(OSError, sqlite3.OperationalError):  # others write: next time
                self._watch.checkpoint(here.connected)
            self._end(here)

    def rollback(self, here: Transaction) -> None:
        if here.connected is not None:
            with suppress(sqlite3.Error):
                here.connected.unprotect()
                here.connected.rollback()
            self._end(here)

    def is_writing(self) -> bool:
        """Return whether another thread is in a transaction of the database."""
        me, connections = threading.get_ident(), list(self._connections.items())
        return any(it.in_transaction or it.is_busy for thread, it in connections if thread != me)

    def _begin(self, here: Transaction) -> "Connection":
        """Wait for those who write, begin the transaction of the database, and return the connection."""
        timeout = self.write_timeout if here.waits else PATIENCE
        deadline = time.monotonic() + timeout
        if not self._write_lock.acquire(timeout):
            raise StorageError from TimeoutError(f"others have written for {timeout} seconds")
        self._written_since = time.monotonic()  # from here on, who must not wait does not, whoever writes
        try:
            with _statement, self._failing():
                self._connection().set_durable(here.durable)
            self.fetch(BEGIN, deadline=deadline)
            connection = self._connection()
            connection.is_busy = True
        except BaseException:
            self._written_since = math.inf
            self._write_lock.release()
            raise
        here.begun_at, here.changes_before = time.monotonic(), connection.total_changes
        return connection

    def _end(self, here: Transaction) -> None:
        here.connected.is_busy = False
        with suppress(sqlite3.ProgrammingError):  # an error has closed it
            if not here.connected.in_transaction:  # else this would commit
                here.connected.isolation_level = None
        here.connected = None
        self._written_since = math.inf
        self._write_lock.release()
        seconds = time.monotonic() - here.begun_at
        if seconds > SLOW_TRANSACTION:
            LOG.warning("%s: %s kept others from writing for %.1f seconds", self, here.handler or "mailroom", seconds)

    def fetch(self, sql: str, parameters: Sequence[Any] = (), deadline: float | None = None) -> list[Any]:
        """Return the rows of a statement, tried again while another process is in the way.

        SQLite's own busy handler waits in steps that grow, and one process starved for seconds; short random
        ones share better.
        """
        while True:
            try:
                with _statement:
                    connection = self._connection()
                    if time.monotonic() > self._next_check:
                        self._watch.check()
                        self._next_check = time.monotonic() + CHECK_INTERVAL
                    return connection.run(sql, parameters).fetchall()
            except (sqlite3.Error, OSError) as error:
                deadline = deadline or time.monotonic() + self.write_timeout
                if not _is_busy(error):
                    raise self._failure(error) from error
                if time.monotonic() > deadline:
                    raise StorageError from TimeoutError(f"others write: {error}")
            time.sleep(random.uniform(0.0005, 0.005))

    def _failure(self, error: Exception) -> StorageError:
        """Return the `StorageError` for what SQLite or the operating system raised, and give up a broken connection."""
        if not isinstance(error, FilesMoved) and not _is_busy(error):
            with _statement:
                self._close(self._connections.keys() & {threading.get_ident()})
        return StorageError()

    @contextmanager
    def _failing(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise self._failure(error) from error

    def _connection(self) -> "Connection":
        connection = self._connections.get(threading.get_ident())
        if connection is None or not self._is_open:
            with self._opening:
                connection = connection or self._open()
                if not self._is_open:
                    self._prepare(connection)
        return connection

    def _open(self) -> "Connection":
        if not self._is_open:
            self._create()
        with nullcontext() if self._connections else self._watch.opening():
            # mode=rw: a file that has gone is an error, not an empty storage.
            connection = sqlite3.connect(
                f"file:{quote(self.path)}?mode=rw",
                uri=True,
                timeout=0,
                isolation_level=None,
                check_same_thread=False,
                factory=Connection,
            )
            try:
                connection.configure()
            except BaseException:
                connection.close()
                raise
        ended = self._connections.keys() - {thread.ident for thread in threading.enumerate()}
        self._connections[threading.get_ident()] = connection
        self._close(ended)
        return connection

    def _create(self) -> None:
        """Create the file before SQLite does, for its owner only; SQLite gives its mode to -wal and -shm.

        Only ever a new file: to close one that SQLite has open releases the locks of the whole process
        (https://sqlite.org/howtocorrupt.html, section 2.2).
        """
        if os.path.exists(f"{self.path}-locks") and not os.path.exists(self.path):
            raise FilesMoved(
                f"{self.path} has gone; move it back, or delete {self.path}-locks to begin with everybody at the START"
            )
        self._make_folder()
        with suppress(FileExistsError):
            os.close(os.open(self.path, os.O_CREAT | os.O_EXCL, 0o600))

    def _make_folder(self) -> None:
        os.makedirs(os.path.dirname(self.path), mode=0o700, exist_ok=True)

    def _prepare(self, connection: sqlite3.Connection) -> None:
        """Add what is missing in a new file, or in one of version 0.1. Other workers may start at the same moment."""
        connection.execute(BEGIN)
        try:
            for name, columns in COLUMNS.items():
                rowid = "" if name == "outgoing" else "WITHOUT ROWID"
                connection.execute(f"CREATE TABLE IF NOT EXISTS {name} ({columns}) {rowid}")
            if "changed" not in [row[1] for row in connection.execute("PRAGMA table_info(states)")]:
                connection.execute(ADD_CHANGED.format(time.time()))
            if self._watch.alone_at:
                connection.execute(outbox.RELEASE_OLDER, (time.time(), time.time(), self._watch.alone_at))
            for tables in self._tables:
                tables(connection)
        finally:
            if connection.in_transaction:  # `executescript` has committed
                connection.commit()
        self._is_open = True

    def _close(self, threads: Iterable[int]) -> None:
        """Close the connections of these threads that are not in a transaction."""
        with self._opening:
            closing = [self._connections.pop(it) for it in threads if not self._connections[it].in_transaction]
            if closing:
                with nullcontext() if self._connections else self._watch.closing():
                    for connection in closing:
                        connection.close()


class Connection(sqlite3.Connection):
    """A connection in which a handler can write, but not commit, and which it cannot close."""

    is_busy = False  # from BEGIN until after the checkpoint that may follow the COMMIT
    is_durable = False
    _cursors: "weakref.WeakSet[sqlite3.Cursor] | None" = None

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.set_authorizer(self._authorize)  # once: each call makes SQLite prepare all statements again

    def configure(self) -> None:
        """Set what makes a commit last, and open the -wal."""
        self.execute("PRAGMA journal_mode = WAL")
        self.execute("PRAGMA wal_autocheckpoint = 0")  # `FileWatch.checkpoint` does it
        self.set_durable(True)
        if sys.platform == "darwin":  # whose fsync leaves data in the drive's cache
            self.execute("PRAGMA fullfsync = ON")
            self.execute("PRAGMA checkpoint_fullfsync = ON")
        self.execute("SELECT count(*) FROM sqlite_master").fetchall()

    def set_durable(self, durable: bool) -> None:
        """Set whether a commit waits until it is on disk."""
        if durable != self.is_durable:
            # With NORMAL, a power cut takes everything since the last checkpoint.
            self.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
            # Who is forgotten is not to be found in the file either. FAST leaves what was on whole pages: to
            # overwrite each large mail that was sent would take as long as to store it.
            self.execute(f"PRAGMA secure_delete = {'ON' if durable else 'FAST'}").fetchall()
            self.is_durable = durable

    # What the storage itself executes: it leaves no cursor open.
    run, run_many = sqlite3.Connection.execute, sqlite3.Connection.executemany

    def cursor(self, *arguments: Any, **options: Any) -> Any:
        cursor = super().cursor(*arguments, **options)
        if self._cursors is not None:
            self._cursors.add(cursor)
        return cursor

    # From Python 3.11 on, those of `sqlite3` do not call `cursor`.
    def execute(self, *arguments: Any) -> Any:
        return self.cursor().execute(*arguments)

    def executemany(self, *arguments: Any) -> Any:
        return self.cursor().executemany(*arguments)

    def close(self) -> None:
        if self._cursors is not None:
            raise sqlite3.ProgrammingError("this connection is not a handler's to close")
        super().close()

    def protect(self) -> None:
        """Refuse BEGIN, COMMIT and ROLLBACK from here on; `executescript` and `with connection:` commit as well."""
        self._cursors = weakref.WeakSet()
        # Where SQLite has rolled back by itself, Python begins a transaction before the next write; that is refused.
        self.isolation_level = "IMMEDIATE"

    def unprotect(self) -> None:
        """Close all cursors, and allow a commit again. A cursor that is left open keeps the -wal from being emptied."""
        if self._cursors is not None:
            for cursor in list(self._cursors):
                cursor.close()
            self._cursors = None

    def _authorize(self, action: int, *arguments: Any) -> int:
        is_refused = action == sqlite3.SQLITE_TRANSACTION and self._cursors is not None
        return sqlite3.SQLITE_DENY if is_refused else sqlite3.SQLITE_OK


def _is_busy(error: Exception) -> bool:
    return isinstance(error, sqlite3.OperationalError) and "lock" in str(error)


def _cell(value: str | None) -> str | bytes:
    """Return what stands for `value` in the file: itself, or bytes where a text would not do.

    A lone surrogate has no UTF-8. None would be NULL, of which a key may have many.
    """
    if value is None:
        return b""
    return value.encode("utf-8", "surrogatepass") if SURROGATE.search(value) else value


def _before_fork() -> None:
    """Close what is at rest. Wait for those who write, unless it is the thread that forks, in its handler."""
    _statement.acquire()
    deadline = time.monotonic() + FORK_PATIENCE
    while any(storage.is_writing() for storage in list(_storages)) and time.monotonic() < deadline:
        time.sleep(0.001)
    _close_all()


def _close_all() -> None:
    for storage in list(_storages):
        with suppress(StorageError):
            storage.close()


def _after_fork_in_child() -> None:
    for storage in list(_storages):
        _abandoned.extend(storage._connections.values())
        storage._reset_connections()
        storage._watch._one_thread = threading.RLock()  # a thread of the parent may have held it
    _statement.release()


os.register_at_fork(before=_before_fork, after_in_parent=_statement.release, after_in_child=_after_fork_in_child)
atexit.register(_close_all)  # while the lock file says that this process uses the database
