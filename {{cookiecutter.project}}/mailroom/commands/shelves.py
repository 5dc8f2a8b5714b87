"""Read the shelves of Salmon's and Lamson's ShelveStorage, whichever dbm wrote them."""

import ast
import dbm
import importlib
import io
import os
import pickle
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from salmon.routing import ROUTE_FIRST_STATE

from mailroom.storage import Row


def rows(path: str) -> Iterator[Row]:
    """Yield the `(key, sender, state)` rows of the shelf `path`, as it stood in `ShelveStorage(path)`.

    Rows in START, which old versions stored, are left out. Nothing in the file is executed: its values are
    pickles, and only text is taken out of them. Raises `ValueError` for what is no shelf of states, or of a kind
    that this Python cannot read.
    """
    path = os.fspath(path)  # Python 3.10's dbm takes nothing else
    kind = _kind(path)
    try:
        for cell, value in _cells(kind, path):
            key, sender, state = _row(path, cell, value)
            if state != ROUTE_FIRST_STATE:
                yield key, sender, state
    except (*dbm.error, sqlite3.Error, OSError) as error:
        raise ValueError(f"{path} cannot be read as a {kind} shelf: {error}") from error


def _kind(path: str) -> str:
    try:
        with open(path, "rb") as file:
            if file.read(16) == b"SQLite format 3\0":
                return "dbm.sqlite3"  # as Python 3.13 writes them; any Python with sqlite3 can read them
    except OSError:
        pass
    kind = dbm.whichdb(path)
    if kind is None and os.path.exists(f"{path}.db"):
        return "dbm.ndbm"
    if not kind:
        raise ValueError(f"{path} is no shelf; give it as in ShelveStorage(...), without .db, .dat or .dir")
    return kind


def _cells(kind: str, path: str) -> Iterator[tuple[bytes, bytes]]:
    if kind == "dbm.sqlite3":
        with closing(sqlite3.connect(f"{Path(path).absolute().as_uri()}?mode=ro", uri=True)) as file:
            yield from file.execute("SELECT CAST(key AS BLOB), CAST(value AS BLOB) FROM Dict")
        return
    try:
        module = importlib.import_module(kind)
    except ImportError as error:
        hint = "Debian's Python has it from the package python3-gdbm"
        raise ValueError(f"{path} is a {kind} shelf, and this Python has no {kind}; {hint}") from error
    with module.open(path, "r") as shelf:
        for cell in shelf.keys():
            yield cell, shelf[cell]


def _row(path: str, cell: bytes, value: bytes) -> Row:
    """Return key and sender, which are in `repr([key, sender])`, and the state, which is pickled."""
    try:
        key, sender = ast.literal_eval(cell.decode())
        if isinstance(key, bytes):  # since Salmon 3
            key = key.decode("ascii")
        if not isinstance(key, str) or not isinstance(sender, (str, type(None))):
            raise ValueError
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError) as error:
        raise ValueError(f"{path} holds {cell[:200]!r}, which is no key of Salmon's") from error
    try:
        state = _TextUnpickler(io.BytesIO(value)).load()
        if not isinstance(state, str):
            raise ValueError
    except Exception as error:  # a forged pickle raises anything
        raise ValueError(f"{path} holds no state under {cell[:200]!r}") from error
    return key, sender, state


class _TextUnpickler(pickle.Unpickler):
    """An unpickler without classes and functions, so that a pickle has nothing to call."""

    def find_class(self, module: str, name: str) -> None:
        raise pickle.UnpicklingError(f"{module}.{name} is no text")
