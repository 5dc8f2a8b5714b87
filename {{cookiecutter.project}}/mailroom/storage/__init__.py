"""Store states, and commit all changes of one mail together, or none.

    with storage.transaction("alice@people.example") as transaction:
        storage.set(key, "alice@people.example", "SUBSCRIBED")
        transaction.connection.execute("INSERT INTO posts …")

`mailroom/README.md` says which storages there are, and how to write another one.
"""

import logging
import re
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from typing import Any

from salmon.routing import ROUTE_FIRST_STATE, Router, StateStorage
from salmon.server import SMTPError

from mailroom import outbox
from mailroom.envelope import Envelope, make_envelope

LOG = logging.getLogger(__name__)

SLOW_TRANSACTION = 1.0  # seconds

CANNOT_HOLD = "5.3.0 The state storage cannot hold this sender, or the key or state that a handler gave"
# In characters; key and sender must fit an index together: 2704 octets in PostgreSQL, 3072 in MariaDB.
MAX_KEY, MAX_SENDER, MAX_STATE = 255, 400, 255
NONE = "\ufdd0"  # stands for None in databases whose keys are texts: a noncharacter, which no text may contain
# NUL ends a text of PostgreSQL, and a lone surrogate has no UTF-8.
IMPOSSIBLE = re.compile(f"[\0\ud800-\udfff{NONE}]")

Row = tuple[str | None, str | None, str]  # key, sender, state
StoredRow = tuple[str | None, str | None, str, float | None]  # and when it changed
Tables = Callable[[Any], object]  # creates own tables
Failures = type[BaseException] | tuple[type[BaseException], ...]

_UNREAD = object()
_open: ContextVar["Transaction | None"] = ContextVar("transaction", default=None)


class StorageError(SMTPError):
    """The storage fails: 451, so that the sending server keeps the mail and tries again; 554 for a text it cannot hold.

    It is an `SMTPError`, so that a storage is safe under Salmon's own receivers as well.
    """

    def __init__(self, text: str = "4.3.0 The state storage is not available", code: int = 451) -> None:
        super().__init__(code, text)


class Transaction:
    """The changes of one mail, until its storage commits them.

    `message.transaction` is that of a mail; `mailroom.storage.current()` that of this thread.
    """

    def __init__(
        self,
        storage: "Storage",
        sender: str | None,
        stateless: bool,
        sending: "outbox.Sending | None" = None,
        durable: bool = True,
        waits: bool = True,
    ) -> None:
        self.storage = storage
        self.sender = sender
        self.stateless = stateless
        self.locked = None if stateless else sender  # the sender whose other mail waits
        self.sending = sending
        self.durable = durable
        self.waits = waits
        self.states: dict[tuple[str | None, str | None], str] = {}
        self.mail: list[Envelope] = []
        self.parcels: list[outbox.Parcel] = []  # what of it this worker sends at once
        self.note: bytes | None = None
        self.has_ended = False
        self._read: dict[tuple[str | None, str | None], str] = {}
        # For the storage: its connection once the transaction of the database has begun, whether more than states was
        # written, as far as it knows by itself, and what to log of that.
        self.connected: Any = None
        self.savepoint: Any = None
        self.has_written = False
        self.begun_at = 0.0
        self.handler = ""
        self.changes_before = 0

    @property
    def connection(self) -> Any:
        """The connection to the database. What is written here is committed with the states, or not at all.

        Its first use begins the transaction of the database; with SQLite nobody else can write until it ends. A
        handler that calls a slow service does that first. A commit of your own is refused.
        """
        if self.has_ended:
            raise RuntimeError("this mail has been handled; nothing would commit what is written now")
        return self.storage.connection(self)

    @property
    def outgoing(self) -> list[Envelope]:
        """The mail that the commit puts into the outbox."""
        return self.mail if self.sending is None or self.sending.uses_outbox(self.storage) else []

    def send(self, mail: Any, to: str | Iterable[str] | None = None, sender: str | None = None) -> None:
        """Put a mail into the outbox, with the commit; arguments and errors are those of `make_envelope`."""
        if self.has_ended:
            raise RuntimeError("this mail has been handled; nothing would send what is added now")
        self.mail.append(make_envelope(mail, to, sender))

    def handled(self, digest: bytes) -> bool:
        """Return whether the mail with this digest was handled before; if not, note with the commit that it is."""
        self.note = digest
        return self.storage.is_handled(digest)

    def get(self, key: str | None, sender: str | None) -> str | None:
        """Return the state that this transaction has set, or else the one that is stored; None for a stateless sender."""
        if self.stateless and sender == self.sender:
            return None
        cell = key, sender
        if cell not in self._read:
            self._read[cell] = self.storage.read(key, sender)
        return self.states.get(cell, self._read[cell])

    def changes(self) -> list[Row]:
        """Return the `(key, sender, state)` rows that this transaction changes."""
        return [(*cell, state) for cell, state in self.states.items() if state != self._read.get(cell, _UNREAD)]


@contextmanager
def failing(failures: Failures, unfit: Failures = ()) -> Iterator[None]:
    """Turn exceptions in the block into a `StorageError`: 451 for `failures`, 554 for texts that are `unfit`.

    `TimeoutError` means that a lock was not released in time.
    """
    try:
        yield
    except SMTPError:
        raise
    except TimeoutError as error:
        raise StorageError("4.3.0 Another mail of this sender is being handled") from error
    except unfit as error:
        raise StorageError(CANNOT_HOLD, 554) from error
    except failures as error:
        raise StorageError from error


def is_locked(error: BaseException | None) -> bool:
    """Return whether a lock was not released in time, that of a sender or one in a database server."""
    if error is None:
        return False
    is_timeout = isinstance(error, StorageError) and isinstance(error.__cause__, TimeoutError)
    is_refusal = type(error).__name__ == "LockNotAvailable" or error.args[:1] == (1205,)  # of psycopg, of MariaDB
    return is_timeout or is_refusal or is_locked(error.__cause__)


def checked(key: Any, sender: Any, state: Any = ROUTE_FIRST_STATE) -> tuple[str, str, str]:
    """Return the three when they are texts that every database can hold; `NONE` for a key or sender that is None."""
    for text, length in ((key, MAX_KEY), (sender, MAX_SENDER), (state, MAX_STATE)):
        if text is None and text is not state:
            continue
        if not isinstance(text, str) or len(text) > length or not text.isprintable() and IMPOSSIBLE.search(text):
            raise StorageError(CANNOT_HOLD, 554)
    return NONE if key is None else key, NONE if sender is None else sender, state


def current() -> Transaction | None:
    """Return the `Transaction` that this thread is in, or None."""
    return _open.get()


class Storage(StateStorage):
    """Base class of storages: it has `get`, `set` and `transaction`, and a subclass defines the rest.

    Every method raises `StorageError` when the storage fails.
    """

    protected = False
    is_shared = True  # another process finds here what this one has stored

    def get(self, key: str | None, sender: str | None) -> str | None:
        """Return the state of `sender` under `key`, `START` where there is none; inside a transaction what it has set."""
        here = self._joined()
        return self.read(key, sender) if here is None else here.get(key, sender)

    def set(self, key: str | None, sender: str | None, state: str) -> None:
        """Store `state`, or delete the row for `START`; inside a transaction, with the commit."""
        with self.transaction() as here:
            here.states[key, sender] = state

    def set_all(self, rows: Iterable[Row]) -> None:
        """Store `(key, sender, state)` rows, a stream of any length: all of them or, if anything fails, none."""
        with self.transaction() as here:
            self.begin(here)
            self.write(here, rows)

    @contextmanager
    def transaction(
        self,
        sender: str | None = None,
        stateless: bool = False,
        sending: "outbox.Sending | None" = None,
        durable: bool = True,
        waits: bool = True,
    ) -> Iterator[Transaction]:
        """Lock `sender`, run the block and commit; roll back on an exception. A block within a block joins it.

        With `stateless` the sender has no state and is not locked, so that only stateless handlers match. `sending`
        sends the mail. What is not `durable` may be lost in a power cut, and spares an fsync. Unless it `waits`, a
        lock that another one holds is a `StorageError` at once, or within `PATIENCE`; see `is_locked`.
        """
        here = self._joined()
        if here is not None:
            yield here
            return
        here = Transaction(self, sender, stateless, sending, durable, waits)
        with self.lock(here):
            token = _open.set(here)
            try:
                yield here
                self.commit(here)
            except BaseException:
                self.rollback(here)
                raise
            finally:
                here.has_ended = True
                _open.reset(token)
            if sending:
                sending.committed(here)

    def refuse_when_protected(self) -> None:
        """Raise `RuntimeError` when no test may delete what is stored."""
        if self.protected:
            raise RuntimeError(f"{self} is protected; tests import config.testing and clear its states")

    def _joined(self) -> Transaction | None:
        here = _open.get()
        return here if here is not None and here.storage is self else None

    def __iter__(self) -> Iterator[Row]:
        """Yield `(key, sender, state)` rows."""
        return (row[:3] for row in self.rows())

    def kinds(self) -> Set[tuple[str | None, str]]:
        """Return the different `(key, state)` pairs that are stored."""
        return {(key, state) for key, _, state in self}

    def open(self) -> None:
        """Open the storage, to raise now what its first use would raise."""

    def close(self) -> None:
        """Close the storage; its next use opens it again."""

    def create_tables(self, tables: Tables) -> None:
        """Call `tables(connection)` when the storage opens, to create own tables where they are missing."""
        raise NotImplementedError

    def in_memory(self) -> "Storage | None":
        """Return an empty storage in memory, whose connection is of the same kind; None where SQLite's will do."""

    def read(self, key: str | None, sender: str | None) -> str:
        """Return the stored state, or `START`."""
        raise NotImplementedError

    def rows(self) -> Iterator[StoredRow]:
        """Yield `(key, sender, state, changed)` rows while nothing is locked; `changed` is seconds since the epoch."""
        raise NotImplementedError

    def changed(self, key: str | None, sender: str | None) -> float | None:
        """Return the `changed` of one of the `rows`; None where there is no such row, or it does not know."""
        return next((changed for *cell, _, changed in self.rows() if cell == [key, sender]), None)

    def refuse_damaged(self) -> None:
        """Raise `StorageError` when what is stored is damaged, where the storage can know."""

    def lock(self, here: Transaction) -> AbstractContextManager[Any]:
        """Return a context that locks the sender of a transaction among threads and processes."""
        raise NotImplementedError

    def begin(self, here: Transaction) -> Any:
        """Begin the transaction of the database, unless that has begun; return its connection."""
        raise NotImplementedError

    def connection(self, here: Transaction) -> Any:
        """Return the connection for a handler, who cannot commit."""
        return self.begin(here)

    def write(self, here: Transaction, rows: Iterable[Row]) -> None:
        """Write `(key, sender, state)` rows within the transaction of the database."""
        raise NotImplementedError

    def fetch(self, sql: str, parameters: Sequence[Any] = ()) -> list[Any]:
        """Return the rows of a statement in the SQL of SQLite, in the transaction of this thread or by itself."""
        raise NotImplementedError

    def execute(self, here: Transaction, sql: str, *rows: Sequence[Any]) -> None:
        """Execute a statement in the SQL of SQLite with each row of values, in a transaction that has begun.

        Sets `has_written` when that changes anything.
        """
        raise NotImplementedError

    def is_handled(self, digest: bytes) -> bool:
        """Return whether a mail with this digest was handled within the last week; False where that is not kept."""
        return False

    def commit(self, here: Transaction) -> None:
        """Commit states, outgoing mail, note and own tables; write nothing when nothing has changed."""
        raise NotImplementedError

    def rollback(self, here: Transaction) -> None:
        """Roll back the transaction of the database, if it has begun; also called after a commit that failed."""
        raise NotImplementedError


def handler_name(error: BaseException | None = None) -> str | None:
    """Return `module.function` of the handler that this thread runs, or that raised `error`; None without one."""
    frames = traceback.walk_tb(error.__traceback__) if error else traceback.walk_stack(sys._getframe())
    for frame, _ in frames:
        if frame.f_code is type(Router).call_safely.__code__:  # the Router's function that calls handlers
            handler = frame.f_locals["func"]
            return f"{handler.__module__}.{handler.__name__}"
    return None
