"""A storage with Salmon's three methods, and a database in memory for what it cannot hold."""

import ast
import sqlite3
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

from salmon.routing import MemoryStorage

from mailroom.storage import Row, Storage, StorageError, StoredRow, Transaction, failing
from mailroom.storage.sqlite import Connection, SQLiteStorage


class JoinedStorage(Storage):
    """The states in `states`, which has `get`, `set` and `clear`; the rest in memory, until this process ends.

    `database` has the rest, a storage in memory whose connection is of the kind that the handlers use; by default it
    is an `SQLiteStorage`. It serves one process, one mail at a time. A mail that fails changes no state. When
    `states` fails in the middle of a commit, what was set before is set back.
    """

    is_shared = False

    def __init__(self, states: Any, database: Storage | None = None) -> None:
        self.states = states
        self.database = database or MemoryDatabase()
        self.one_mail = threading.RLock()
        for name in ("begin", "connection", "create_tables", "execute", "fetch", "in_memory", "is_handled", "rollback"):
            setattr(self, name, getattr(self.database, name))

    def __repr__(self) -> str:
        return repr(self.states)

    def clear(self) -> None:
        """Forget every state, and everything in memory."""
        with self.one_mail:
            self.states.clear()
            self.database.clear()

    def rows(self) -> Iterator[StoredRow]:
        """Yield the rows of Salmon's `MemoryStorage`; another storage with three methods does not show its own."""
        if not isinstance(self.states, MemoryStorage):
            raise NotImplementedError(
                "attached in config/boot.py: a storage must yield its rows, as those of mailroom do"
            )
        for cell, state in list(self.states.states.items()):
            yield (*ast.literal_eval(cell), state, None)

    def read(self, key: str | None, sender: str | None) -> str:
        with self.one_mail, failing(Exception):
            state: str = self.states.get(key, sender)
            return state

    def open(self) -> None:
        self.database.open()

    @contextmanager
    def lock(self, here: Transaction) -> Iterator[None]:
        if not self.one_mail.acquire(blocking=here.waits):
            raise StorageError from TimeoutError("another mail is being handled")
        try:
            with self.database.lock(here):
                yield
        finally:
            self.one_mail.release()

    def write(self, here: Transaction, rows: Iterable[Row]) -> None:
        for key, sender, state in rows:
            here.states[key, sender] = state

    def commit(self, here: Transaction) -> None:
        changes = here.changes()
        before = [(key, sender, self.read(key, sender)) for key, sender, _ in changes]
        try:
            self._store(changes)
            here.has_written |= bool(changes)
            here.states.clear()
            self.database.commit(here)
        except BaseException:
            self._store(before)
            raise

    def _store(self, rows: Iterable[Row]) -> None:
        with failing(Exception):
            for row in rows:
                self.states.set(*row)


class MemoryDatabase(SQLiteStorage):
    """An `SQLiteStorage` in memory: one connection for all threads, of which one has a mail at a time."""

    def __init__(self) -> None:
        super().__init__(":memory:")
        # There are no files to watch.
        self._watch: Any = SimpleNamespace(alone_at=0.0, check=lambda: None, checkpoint=lambda connection: None)
        self.clear()

    def fill(self, storage: SQLiteStorage) -> None:
        """Begin with the own tables of an `SQLiteStorage`."""
        storage.open()
        storage._connection().backup(self._connection())
        self._connection().execute("DELETE FROM handled")

    def clear(self) -> None:
        """Forget everything, own tables as well."""
        options: Any = {"isolation_level": None, "check_same_thread": False, "factory": Connection}
        self._memory: Connection = sqlite3.connect(":memory:", **options)
        self._is_open = False

    @contextmanager
    def lock(self, here: Transaction) -> Iterator[None]:
        yield

    def _connection(self) -> Connection:
        with self._opening:
            if not self._is_open:
                self._prepare(self._memory)
            return self._memory
