"""The memory of the state machine: Salmon's own shelve, for trying things out with one process."""

import ast
import dbm
import fcntl
import os
import shelve
from contextlib import contextmanager
from pathlib import Path

from salmon import routing
from salmon.server import SMTPError


class ShelveStorage(routing.ShelveStorage):
    """`salmon.routing.ShelveStorage`, kept from a second process and from half-open shelves.

    `path` is where the shelf is; how many files that makes depends on the dbm of this Python.
    With `protected`, `clear` refuses. Raises `BlockingIOError` when another process has the shelf.

    A shelf is not atomic: a kill while it is written can damage it, one between two mails cannot.
    Its keys are ASCII. `get`, `set` and `clear` raise `salmon.server.SMTPError`, 451 when the
    shelf fails and 554 for a key that it cannot hold.
    """

    def __init__(self, path, protected=False):
        super().__init__(os.path.abspath(path))
        self.protected = protected
        self._shown = os.fspath(path)
        Path(self.database_path).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._owner = self._lock_out_others()
        with self._shelf(create=True):
            shelve.open(self.database_path).close()

    def __repr__(self):
        return f"<{type(self).__name__} {self._shown}>"

    def get(self, key, sender):
        """Return the state of `sender` under `key`, `START` where there is none."""
        with self._shelf():
            return super().get(key, sender)

    def set(self, key, sender, state):
        """Remember `state`; `START` forgets the row."""
        with self._shelf():
            super().set(key, sender, state)

    def set_all(self, rows):
        """Remember many `(key, sender, state)` rows; when one fails, those before it are taken back."""
        rows = list(rows)  # what fails from here on is the shelf
        with self._shelf(), shelve.open(self.database_path) as shelf:
            before = {}
            try:
                for key, sender, state in rows:
                    cell = self.key(key.encode("ascii"), sender)
                    before.setdefault(cell, shelf.get(cell, routing.ROUTE_FIRST_STATE))
                    _put(shelf, cell, state)
            except BaseException:
                for cell, state in before.items():
                    _put(shelf, cell, state)
                raise

    def clear(self):
        """Forget every state; raise `RuntimeError` when the storage is protected."""
        if self.protected:
            raise RuntimeError(f"{self} is protected; tests import config.testing and clear its states")
        with self._shelf():
            super().clear()

    def __iter__(self):
        """Yield `(key, sender, state)` rows."""
        with self._shelf(), shelve.open(self.database_path, flag="r") as shelf:
            rows = list(shelf.items())
        for cell, state in rows:
            key, sender = ast.literal_eval(cell)
            yield key.decode("ascii"), sender, state

    def close(self):
        """Let another process have the shelf."""
        owner, self._owner = self._owner, None
        if owner is not None:
            os.close(owner)

    def _lock_out_others(self):
        file = os.open(self.database_path + ".lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(file)
            raise BlockingIOError(
                "another process has this shelf open, and a shelf is for one process; stop that one first"
            ) from None
        return file

    @contextmanager
    def _shelf(self, create=False):
        # Salmon closes the shelf only after a call that went well; gdbm then refuses the next one.
        with self.lock:
            self.states = {}
            try:
                if not create and not dbm.whichdb(self.database_path):
                    raise FileNotFoundError(f"{self.database_path} has gone, or is no shelf any more")
                yield
            except UnicodeEncodeError as error:
                raise SMTPError(554, "5.3.0 A shelf holds ASCII keys only") from error
            except Exception as error:  # a damaged pickle may raise anything
                raise SMTPError(451, "4.3.0 The state storage is not available") from error
            finally:
                if isinstance(self.states, shelve.Shelf):
                    self.states.close()


def _put(shelf, cell, state):
    if state == routing.ROUTE_FIRST_STATE:
        shelf.pop(cell, None)
    else:
        shelf[cell] = state
