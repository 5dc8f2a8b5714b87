"""One mail, all or nothing: what it changes is kept together when it ended well, or not at all."""

import threading
from contextlib import contextmanager, nullcontext

from salmon.routing import StateStorage


class MailStates(StateStorage):
    """Stands between the Router and the storage that remembers.

    Inside `with conversation(sender):` the states that are read are remembered, and those that
    are set are held back until the block ends. Outside of it every call goes straight through.
    """

    def __init__(self, storage):
        self.storage = storage
        self._here = threading.local()
        self._one_mail = threading.RLock()

    def __repr__(self):
        return f"<{type(self).__name__} in {self.storage!r}>"

    @contextmanager
    def conversation(self, sender, stateless=False):
        """Wait for the turn of `sender`, run the block, and keep what it changed; on an exception, nothing.

        With `stateless` the sender is in no state at all, so that only stateless handlers match.
        Raises `salmon.server.SMTPError`: 451 when the turn does not come or the storage fails, 554 when the
        storage cannot hold the sender. A thread is in one conversation at a time: `RuntimeError` otherwise.
        """
        if self._mail() is not None:
            raise RuntimeError("a conversation within a conversation: the outer one would keep changes that failed")
        if hasattr(self.storage, "renew"):
            self.storage.renew()
        # No state is read, so no turn is needed; all bounces would queue behind the one null sender otherwise.
        with nullcontext() if stateless else self._turn(sender):
            mail = self._here.mail = _Mail(sender if stateless else _nobody)
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
        """Remember many `(key, sender, state)` rows: all of them or none, where the storage can do that."""
        if hasattr(self.storage, "set_all"):
            self.storage.set_all(rows)
        else:
            for row in rows:
                self.storage.set(*row)

    def open(self):
        """Open the storage, so that it fails now or never."""
        if hasattr(self.storage, "open"):
            self.storage.open()

    def clear(self):
        self.storage.clear()

    def __iter__(self):
        return iter(self.storage)

    def _mail(self):
        return getattr(self._here, "mail", None)

    def _turn(self, sender):
        # Salmon's own storages know no turns; they serve one process, which takes a mail at a time.
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


_nobody = object()
