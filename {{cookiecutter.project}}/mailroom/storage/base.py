"""What the storages share, and one mail, all or nothing: `MailStates`."""

import os
import re
import threading
from contextlib import contextmanager, nullcontext

from salmon.routing import ROUTE_FIRST_STATE, StateStorage
from salmon.server import SMTPError

UNAVAILABLE = "4.3.0 The state storage is not available"
CANNOT_HOLD = "5.3.0 The state storage cannot hold this sender, or the key or state that a handler gave"
# In characters; key and sender must fit an index together: 2704 octets in PostgreSQL, 3072 in MySQL and MariaDB.
MAX_KEY, MAX_SENDER, MAX_STATE = 255, 400, 255
# NUL ends a text of PostgreSQL, and a lone surrogate has no UTF-8.
IMPOSSIBLE = re.compile("[\0\ud800-\udfff]")


class Storage(StateStorage):
    """The base class of the storages in this package.

    `get`, `set` and `clear` do what Salmon's "Writing A State Storage Backend" asks for: thread safe, process
    safe, every key exactly as it was given. A sender at `START` has no row. Beyond that,

    - the constructor opens nothing. `open()` does, as does the first call; `close()` closes until the next one;
    - `set_all(rows)` stores a stream of `(key, sender, state)` rows, all or none; of two for one sender the last counts;
    - iterating yields the rows, and holds no lock between two of them;
    - `with conversation(sender):` locks the sender among all processes that share the storage;
    - with `protected`, `clear` refuses, so that no test deletes what a server has stored.

    Every method raises `salmon.server.SMTPError`: 451 when the storage fails, so that the sending server keeps
    the mail and tries again, and 554 for a text that the storage cannot hold.
    """

    def __repr__(self):
        return f"<{type(self).__name__} {self._shown}>"

    def clear(self):
        if self.protected:
            raise RuntimeError(f"{self} is protected; tests import config.testing and clear its states")
        self._clear()


@contextmanager
def answering(failures, unfit=()):
    """Turn exceptions in the block into the answer to the mail: 451 for `failures`, 554 for `unfit` texts.

    `TimeoutError` means that a lock was not released in time.
    """
    try:
        yield
    except SMTPError:
        raise
    except TimeoutError as error:
        raise SMTPError(451, "4.3.0 Another mail of this sender is being handled") from error
    except unfit as error:
        raise SMTPError(554, CANNOT_HOLD) from error
    except failures as error:
        raise SMTPError(451, UNAVAILABLE) from error


def checked(key, sender, state=ROUTE_FIRST_STATE):
    """Return the three when they are texts that every database can hold."""
    for text, length in ((key, MAX_KEY), (sender, MAX_SENDER), (state, MAX_STATE)):
        if not isinstance(text, str) or len(text) > length or IMPOSSIBLE.search(text):
            raise SMTPError(554, CANNOT_HOLD)
    return key, sender, state


def file_identity(path):
    """Return what tells a file from another one that replaced it."""
    status = os.stat(path)
    return status.st_dev, status.st_ino


class MailStates(StateStorage):
    """Stands between the Router and any storage.

    Inside `with conversation(sender):` the states that are read are remembered, and those that are set are
    held back until the block ends. Outside of it every call goes straight through.
    """

    def __init__(self, storage):
        self.storage = storage
        self._here = threading.local()
        self._one_mail = threading.RLock()

    def __repr__(self):
        return repr(self.storage)

    @contextmanager
    def conversation(self, sender, stateless=False):
        """Lock the sender, run the block, and store what it changed; on an exception, store nothing.

        With `stateless` the sender is in no state at all, so that only stateless handlers match.
        Raises `salmon.server.SMTPError`: 451 when the lock is not released in time or the storage fails, 554
        when it cannot hold the sender. A thread is in one conversation at a time: `RuntimeError` otherwise.
        """
        if self._mail() is not None:
            raise RuntimeError("a conversation within a conversation: the outer one would keep changes that failed")
        if hasattr(self.storage, "renew"):
            self.storage.renew()
        # No state is read, so no lock is needed; all bounces would queue behind the one null sender otherwise.
        with nullcontext() if stateless else self._lock(sender):
            mail = self._here.mail = _Mail(sender if stateless else _NO_SENDER)
            try:
                yield
            finally:
                self._here.mail = None
            changes = mail.changes()
            if len(changes) == 1:
                self.storage.set(*changes[0])
            elif changes:
                self.set_all(changes)

    def get(self, key, sender):
        mail = self._mail()
        if mail is None:
            return self.storage.get(key, sender)
        if sender == mail.in_no_state:
            return None
        if (key, sender) not in mail.read:
            mail.read[key, sender] = self.storage.get(key, sender)
        return mail.set.get((key, sender), mail.read[key, sender])

    def set(self, key, sender, state):
        mail = self._mail()
        if mail is None:
            self.storage.set(key, sender, state)
        else:
            mail.set[key, sender] = state

    def changes(self):
        """Return the `(key, sender, state)` rows that this conversation changes as it ends now."""
        return self._mail().changes()

    def check(self):
        """Raise `salmon.server.SMTPError` when the storage knows by now that it cannot keep what the mail does."""
        if hasattr(self.storage, "check"):
            self.storage.check()

    def set_all(self, rows):
        """Store many `(key, sender, state)` rows: all of them or none, where the storage can do that."""
        if hasattr(self.storage, "set_all"):
            self.storage.set_all(rows)
        else:
            for row in rows:
                self.storage.set(*row)

    def open(self):
        """Open the storage, so that it fails now and not at the first mail."""
        if hasattr(self.storage, "open"):
            self.storage.open()

    def clear(self):
        self.storage.clear()

    def __iter__(self):
        return iter(self.storage if hasattr(self.storage, "__iter__") else ())  # Salmon's own begin empty

    def _mail(self):
        return getattr(self._here, "mail", None)

    def _lock(self, sender):
        # Salmon's own storages have no locks; they serve one process, which takes a mail at a time.
        if hasattr(self.storage, "conversation"):
            return self.storage.conversation(sender)
        return self._one_mail


class _Mail:
    """What one mail has read and set, each by `(key, sender)`."""

    def __init__(self, in_no_state):
        self.in_no_state = in_no_state
        self.read = {}
        self.set = {}

    def changes(self):
        return [(*cell, state) for cell, state in self.set.items() if state != self.read.get(cell)]


_NO_SENDER = object()
