"""Rows on their way in: they wait on disk until all of them have been read and looked at."""

import sqlite3

REPEATED = """
    SELECT min(number) FROM (
        SELECT rowid AS number, row_number() OVER (PARTITION BY key, sender ORDER BY rowid) AS nth FROM incoming
    ) WHERE nth = 2"""


class Incoming:
    """All `(key, sender, state)` rows of a stream, in a temporary file without a name."""

    def __init__(self):
        self._table = sqlite3.connect("", isolation_level=None)
        self._table.execute("PRAGMA journal_mode = OFF")
        self._table.execute("CREATE TABLE incoming (key, sender, state)")

    def close(self):
        """Give the room on the disk back."""
        self._table.close()

    def read(self, rows):
        """Take the stream in; raise what it raises, and `ValueError` when two rows have the same key and sender."""
        self._table.execute("BEGIN")
        self._table.executemany("INSERT INTO incoming VALUES (?, ?, ?)", (tuple(map(_cell, row)) for row in rows))
        try:
            self._table.execute("CREATE UNIQUE INDEX cells ON incoming (key, sender)")
        except sqlite3.IntegrityError as error:
            (number,) = self._table.execute(REPEATED).fetchone()
            raise ValueError(f"row {number} has the key and the sender of an earlier row") from error

    def find(self, key, sender):
        """Return the state that comes in for `sender` under `key`, None where nothing comes in."""
        where = "WHERE key = ? AND sender = ?"
        found = self._table.execute(f"SELECT state FROM incoming {where}", (_cell(key), _cell(sender))).fetchone()
        return _value(found[0]) if found else None

    def kinds(self):
        """Yield `(key, state, number)`: how many rows there are of each kind."""
        for *kind, number in self._table.execute("SELECT key, state, count(*) FROM incoming GROUP BY key, state"):
            yield (*map(_value, kind), number)

    def __len__(self):
        return self._table.execute("SELECT count(*) FROM incoming").fetchone()[0]

    def __iter__(self):
        for row in self._table.execute("SELECT key, sender, state FROM incoming ORDER BY key, sender"):
            yield tuple(map(_value, row))


def _cell(text):
    """Return what stands for `text` in the table: octets, since a lone surrogate is no text to SQLite."""
    return 0 if text is None else text.encode("utf-8", "surrogatepass")


def _value(cell):
    return None if cell == 0 else cell.decode("utf-8", "surrogatepass")
