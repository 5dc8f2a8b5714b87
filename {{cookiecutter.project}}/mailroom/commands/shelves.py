"""Read the shelves that the ShelveStorage of Salmon or Lamson has written."""

import ast
import dbm
import io
import os
import pickle
from collections.abc import Iterator
from typing import Any

from salmon.routing import ROUTE_FIRST_STATE

from mailroom.storage import Row


def rows(path: str) -> Iterator[Row]:
    """Yield the `(key, sender, state)` rows of the shelf `path`, named as in `ShelveStorage(path)`.

    Leaves out rows in START, which old versions stored. Executes nothing: the values are pickles, and only text
    is read from them. Raises `ValueError` for a file that is no shelf of states, or whose dbm this Python lacks.
    """
    try:
        with dbm.open(os.fspath(path), "r") as shelf:  # dbm of Python 3.10 takes no Path
            for cell in shelf.keys():
                key, sender, state = _row(path, cell, shelf[cell])
                if state != ROUTE_FIRST_STATE:
                    yield key, sender, state
    except dbm.error as error:
        hint = "give its name without .db, .dat or .dir; Debian's Python reads GDBM with python3-gdbm"
        raise ValueError(f"{path} cannot be read as a shelf: {error}; {hint}") from error


def _row(path: str, cell: Any, value: bytes) -> Row:
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
    """An unpickler that finds no class and no function, so that a pickle has nothing to call."""

    def find_class(self, module: str, name: str) -> None:
        raise pickle.UnpicklingError(f"{module}.{name} is no text")
