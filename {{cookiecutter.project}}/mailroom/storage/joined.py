"""A storage with Salmon's three methods, and a database in memory for what it cannot hold."""

import ast
import sqlite3
import threading

from salmon.routing import MemoryStorage

from mailroom.storage import Storage, failing
from mailroom.storage.sqlite import Connection, SQLiteStorage


class JoinedStorage(Storage):
    """The states in `states`, which has `get`, `set` and `clear`; the rest in memory, until this process ends.

    It serves one process, one mail at a time. A mail that fails changes no state. When `states` fails in the middle
    of a commit, what was set before is set back.
    """

    def __init__(self, states):
        self.states = states
        self.database = MemoryDatabase()

    def __repr__(self):
        return repr(self.states)

    def create_tables(self, tables):
        self.database.create_tables(tables)

    def clear(self):
        """Forget every state, and everything in memory."""
        with self.database.one_mail:
            self.states.clear()
            self.database.clear()

    def rows(self):
        """Yield the rows of Salmon's `MemoryStorage`; another storage with three methods does not show its own."""
        if not isinstance(self.states, MemoryStorage):
            raise NotImplementedError
        for cell, state in list(self.states.states.items()):
            yield (*ast.literal_eval(cell), state, None)

    def read(self, key, sender):
        with self.database.one_mail, failing(Exception):
            return self.states.get(key, sender)

    def lock(self, here):
        return self.database.one_mail

    def begin(self, here):
        return self.database.begin(here)

    def write(self, here, rows):
        for key, sender, state in rows:
            here.states[key, sender] = state

    def is_handled(self, digest):
        return self.database.is_handled(digest)

    def commit(self, here):
        changes = here.changes()
        before = [(key, sender, self.read(key, sender)) for key, sender, _ in changes]
        try:
            self._store(changes)
            self.database.commit_beside(here, bool(changes))
        except BaseException:
            self._store(before)
            raise

    def _store(self, rows):
        with failing(Exception):
            for row in rows:
                self.states.set(*row)

    def rollback(self, here):
        self.database.rollback(here)


class MemoryDatabase(SQLiteStorage):
    """An `SQLiteStorage` in memory: one connection for all threads, of which one has a mail at a time."""

    def __init__(self):
        super().__init__(":memory:")
        self.one_mail = threading.RLock()
        self._watch = _NoFiles()
        self._memory = None

    def fill(self, storage):
        """Begin with the own tables of an `SQLiteStorage`."""
        storage.copy_to(self._connection())
        self._memory.execute("DELETE FROM handled")
        self._memory.commit()

    def clear(self):
        """Forget everything, own tables as well."""
        self._memory, self._is_ready = None, False

    def close(self):
        """Keep it: nothing else has it."""

    def commit_beside(self, here, has_changed):
        """Commit own tables and the note, beside states that are kept elsewhere."""
        if has_changed or here.connected is not None:
            self.begin(here)
            with self._failing():
                here.connected.unprotect()
                here.changes_before -= has_changed  # a mail that changes a state is noted
                self._commit(here)

    def _fetch(self, *arguments, **options):
        with self.one_mail:
            return super()._fetch(*arguments, **options)

    def _connection(self):
        if self._memory is None:
            self._memory = sqlite3.connect(
                ":memory:", isolation_level=None, check_same_thread=False, factory=Connection
            )
        if not self._is_ready:
            self._prepare(self._memory)
        return self._memory


class _NoFiles:
    """Nobody moves the files of a database in memory."""

    def check(self):
        pass

    def checkpoint(self, connection):
        pass
