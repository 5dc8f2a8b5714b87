"""The tables of the package in any database, in the SQL of SQLite; `sqlalchemy.py`, `servers.py`: how others say it."""

import time
from collections.abc import Iterable, Iterator, Set
from itertools import groupby, islice
from operator import itemgetter
from typing import Any

from salmon.routing import ROUTE_FIRST_STATE

from mailroom import outbox
from mailroom.storage import MAX_KEY, MAX_SENDER, MAX_STATE, NONE, Row, Storage, StoredRow, Tables, Transaction, checked

HANDLED_KEPT = 7 * 24 * 3600  # seconds; a sending server gives up after five days (RFC 5321, section 4.5.4.1)
SWEEP_INTERVAL = 3600  # seconds

COLUMNS = {  # times in seconds since the epoch
    "states": f"""
        key VARCHAR({MAX_KEY}) NOT NULL, sender VARCHAR({MAX_SENDER}) NOT NULL, state VARCHAR({MAX_STATE}) NOT NULL,
        changed REAL NOT NULL, PRIMARY KEY (key, sender)""",
    "handled": "digest VARCHAR(64) NOT NULL PRIMARY KEY, at REAL NOT NULL",
    "outgoing": f"""
        id INTEGER NOT NULL PRIMARY KEY, sender VARCHAR({MAX_SENDER}) NOT NULL, data BLOB NOT NULL,
        created REAL NOT NULL""",
    "outbox": f"""
        mail INTEGER NOT NULL, recipient VARCHAR({MAX_SENDER}) NOT NULL, due REAL, tries INTEGER NOT NULL, answer TEXT,
        PRIMARY KEY (mail, recipient)""",
}
# To tables of version 0.1. A constant default changes no row, be there a million.
ADD_CHANGED = "ALTER TABLE states ADD COLUMN changed REAL NOT NULL DEFAULT {:.0f}"

SELECT = "SELECT state, changed FROM states WHERE key = ? AND sender = ?"
UPSERT = """
    INSERT INTO states (key, sender, state, changed) VALUES (?, ?, ?, ?)
    ON CONFLICT (key, sender) DO UPDATE SET state = excluded.state, changed = excluded.changed
    WHERE states.state <> excluded.state"""
DELETE = "DELETE FROM states WHERE key = ? AND sender = ?"
FIRST_PAGE = "SELECT key, sender, state, changed FROM states ORDER BY key, sender LIMIT 1000"
NEXT_PAGE = FIRST_PAGE.replace("ORDER", "WHERE (key, sender) > (?, ?) ORDER")


class TableStorage(Storage):
    """A storage in these tables. A subclass says how to `fetch` and `execute`, and begins and ends a transaction."""

    _shown: str
    _tables: list[Tables]
    _is_open = False  # and has all its tables
    _next_sweep = 0.0

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._shown}>"

    def create_tables(self, tables: Tables) -> None:
        self._tables.append(tables)
        self._is_open = False

    def cells(self, *texts: str | None) -> tuple[Any, ...]:
        """Return what stands for these texts in the database; raise `StorageError` for one that it cannot hold."""
        return checked(*texts)[: len(texts)]

    def value(self, cell: Any) -> Any:
        """Return the text for which a cell stands."""
        return None if cell == NONE else cell

    def now(self) -> Any:
        """Return what stands for this moment in the column `changed`."""
        return time.time()

    def seconds(self, cell: Any) -> float:
        """Return the seconds since the epoch for which a cell of this column stands."""
        return float(cell)

    def clear(self) -> None:
        """Forget every state and note; raise `RuntimeError` when the storage is protected."""
        self.refuse_when_protected()
        with self.transaction() as here:
            self.begin(here)
            for table in COLUMNS:
                self.execute(here, f"DELETE FROM {table}", ())

    def read(self, key: str | None, sender: str | None) -> str:
        rows = self.fetch(SELECT, self.cells(key, sender))
        state: str = self.value(rows[0][0]) if rows else ROUTE_FIRST_STATE
        return state

    def rows(self) -> Iterator[StoredRow]:
        page = self.fetch(FIRST_PAGE)
        while page:
            for *cells, changed in page:
                key, sender, state = map(self.value, cells)
                yield key, sender, state, self.seconds(changed)
            page = self.fetch(NEXT_PAGE, page[-1][:2])

    def changed(self, key: str | None, sender: str | None) -> float | None:
        rows = self.fetch(SELECT, self.cells(key, sender))
        return self.seconds(rows[0][1]) if rows else None

    def kinds(self) -> Set[tuple[str | None, str]]:
        kinds = self.fetch("SELECT DISTINCT key, state FROM states")
        return {(self.value(key), self.value(state)) for key, state in kinds}

    def is_handled(self, digest: bytes) -> bool:
        return bool(self.fetch("SELECT 1 FROM handled WHERE digest = ?", (digest.hex(),)))

    def write(self, here: Transaction, rows: Iterable[Row]) -> None:
        changes = (self._change(*row) for row in rows)
        # By the same order everywhere, so that two of these do not wait for each other.
        while page := sorted(islice(changes, 1000), key=lambda change: repr(change[1][:2])):
            for statement, group in groupby(page, key=itemgetter(0)):
                self.execute(here, statement, *map(itemgetter(1), group))

    def _change(self, key: str | None, sender: str | None, state: str) -> tuple[str, tuple[Any, ...]]:
        row = self.cells(key, sender, state)
        return (DELETE, row[:2]) if state == ROUTE_FIRST_STATE else (UPSERT, (*row, self.now()))

    def keep(self, here: Transaction) -> None:
        """Write states, outgoing mail and, if there is anything to keep, the note of a mail, before the commit."""
        self.write(here, here.changes())
        outbox.store(here)
        if here.note and here.has_written:
            now = time.time()
            self.execute(here, "INSERT INTO handled (digest, at) VALUES (?, ?)", (here.note.hex(), now))
            if now > self._next_sweep:
                self._next_sweep = now + SWEEP_INTERVAL
                self.execute(here, "DELETE FROM handled WHERE at < ?", (now - HANDLED_KEPT,))
                # Two workers that delete its last recipients at the same moment leave a mail.
                self.execute(here, outbox.DELETE_SENT.format("created < ?"), (now - SWEEP_INTERVAL,))
