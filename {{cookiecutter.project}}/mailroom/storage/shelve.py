"""States in Salmon's shelf, for trials with one process."""

import ast
import dbm
import os
import shelve
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from salmon import routing
from salmon.routing import ROUTE_FIRST_STATE

from mailroom.storage import StoredRow, failing
from mailroom.storage.joined import JoinedStorage
from mailroom.storage.locks import FileLocks


class ShelveStorage(JoinedStorage):
    """States in a shelf, as `salmon.routing.ShelveStorage` writes it; the rest in memory, as `JoinedStorage` says.

    `path` is where the shelf is; how many files that makes depends on the dbm of this Python. Opening it fails
    when another process has it, and locks it until `close`. With `protected`, `clear` refuses.

    A shelf is not atomic: a kill while it is written can damage it, one between two mails cannot. Its keys are
    ASCII: 554 for any other.
    """

    _locked_by = 0  # the process that has locked it
    _was_open = False

    def __init__(self, path: str | os.PathLike[str], protected: bool = False) -> None:
        super().__init__(routing.ShelveStorage(os.path.abspath(path)))
        self.path = self.states.database_path
        self.protected = protected
        self._shown = os.fspath(path)
        self._file = FileLocks(f"{self.path}.lock")

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._shown}>"

    def open(self) -> None:
        with self._opened():
            pass

    def close(self) -> None:
        """Release the shelf for another process."""
        if self._locked_by == os.getpid():
            self._file.release(0)
        self._locked_by = 0

    def clear(self) -> None:
        self.refuse_when_protected()
        with self.one_mail, self._opened() as shelf:
            shelf.clear()
            self.database.clear()

    def read(self, key: Any, sender: str | None) -> str:
        with self.one_mail, self._opened() as shelf:
            return str(shelf.get(self.states.key(key.encode("ascii"), sender), ROUTE_FIRST_STATE))

    def rows(self) -> Iterator[StoredRow]:
        """Yield `(key, sender, state, None)` rows: a shelf does not know when a state changed."""
        with self._opened() as shelf:
            rows = list(shelf.items())
        for cell, state in rows:
            key, sender = ast.literal_eval(cell)
            yield key.decode("ascii"), sender, state, None

    def _store(self, rows: Iterable[Any]) -> None:
        with self._opened() as shelf:
            for key, sender, state in rows:
                cell = self.states.key(key.encode("ascii"), sender)
                if state == ROUTE_FIRST_STATE:
                    shelf.pop(cell, None)
                else:
                    shelf[cell] = state

    @contextmanager
    def _opened(self) -> Iterator["shelve.Shelf[str]"]:
        """Open the shelf, locked against other processes; it is closed after each use, also one that failed."""
        with self.states.lock, failing(Exception, unfit=UnicodeEncodeError):  # a damaged pickle may raise anything
            self._lock()
            if not dbm.whichdb(self.path):
                raise FileNotFoundError(f"{self.path} has gone, or is no shelf any more")
            with shelve.open(self.path) as shelf:
                yield shelf

    def _lock(self) -> None:
        if self._locked_by != os.getpid():
            os.makedirs(os.path.dirname(self.path), mode=0o700, exist_ok=True)
            if not self._file.acquire(0):
                rule = "another process has this shelf open, and a shelf is for one process; stop that one first"
                raise BlockingIOError(rule)
            self._locked_by = os.getpid()
        if not self._was_open:
            dbm.open(self.path, "c", 0o600).close()
            self._was_open = True
