"""Move what is stored: rows from any storage to any other, by lines of JSON; an SQLite database to a file and back."""

import ast
import dbm
import io
import json
import pickle
import sqlite3
import sys
from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO

import click
from salmon.routing import ROUTE_FIRST_STATE
from salmon.server import SMTPError

from mailroom.commands.booted import one_line, with_states
from mailroom.storage import Row, Storage
from mailroom.storage.sqlite import SQLiteStorage

FIELDS = "key", "sender", "state"
KINDS: Any = (str, type(None)), (str, type(None)), str
EXAMPLE = "app.handlers.subscription:news", "alice@people.example", "SUBSCRIBED"


@click.command()
@with_states
def export(storage: Storage) -> None:
    """Write all rows to the standard output, a JSON object a line.

    A row that a mail changes meanwhile is written as it was before or as it is after. To change the storage: stop the
    server, export, edit config/boot.py, import, and start.

    \b
    python operate.py states export > run/states.jsonl
    """
    for row in storage:
        sys.stdout.write(to_line(row) + "\n")


@click.command("import")
@click.argument("file", type=click.File("rb"), required=False)
@click.option("--shelve", metavar="PATH", type=click.Path(resolve_path=True), help="Read a shelf of an older Salmon.")
@click.option("--replace", is_flag=True, help="Overwrite other states of the same senders.")
@with_states
def import_(storage: Storage, file: BinaryIO | None, shelve: str | None, replace: bool) -> None:
    """Import the rows in FILE, or in the standard input, which `export` has written: all of them or none.

    This reads and checks all rows before it stores the first. It refuses a row that would overwrite another state,
    unless --replace is given. Stop the server first: a state that a mail sets after the check is overwritten.

    \b
    python operate.py states import < run/states.jsonl
    python operate.py states import --shelve ../old-application/run/states
    """
    if shelve and file:
        raise click.UsageError("FILE and --shelve do not go together; for example import --shelve run/states")
    states: dict[tuple[str | None, str | None], str] = {}
    try:
        for number, (key, sender, state) in enumerate(shelf(shelve) if shelve else rows(file or sys.stdin.buffer), 1):
            cell = key and sys.intern(key), sender  # many rows have the same key and state: keep one copy of each
            if cell in states:
                raise ValueError(f"row {number} has the key and the sender of an earlier row")
            states[cell] = sys.intern(state)
    except ValueError as error:
        raise click.ClickException(f"nothing was imported: {error}") from error
    same = other = 0
    for key, sender, state in storage:
        new = states.get((key, sender))
        if new == state:
            same += 1
        elif new is not None:
            other += 1
            example = f"{shown(state)} -> {shown(new, key, sender)}"
    length = len(states)
    if other and not replace:
        raise click.ClickException(
            f"nothing was imported: --replace is needed to overwrite {other} of {length} rows; for example {example}"
        )
    last: Any = ()

    def reading() -> Iterator[Row]:
        nonlocal last
        for cell, state in states.items():
            last = state, *cell
            yield *cell, state

    try:
        storage.set_all(reading())
    except SMTPError as error:
        if error.code < 500 or error.__cause__:  # the database refuses many rows at once, and does not say which
            raise
        # The storage checks a row as soon as it has read it.
        refusal = f"nothing was imported: {storage!r} cannot hold {shown(*last)}"
        raise click.ClickException(refusal) from error
    click.echo(f"{length} rows: {length - same - other} new, {other} overwritten, {same} there already")


@click.command()
@click.argument("file", type=click.Path(resolve_path=True))
@with_states
def backup(storage: Storage, file: str) -> None:
    """Save states, own tables and the outbox in the new FILE, an SQLite database.

    The server may run. This checks FILE for damage; only its owner can read it.

    \b
    python operate.py backup run/states.backup
    """
    with one_line(f"{storage!r} was not saved in {file}", OSError, sqlite3.Error):
        sqlite(storage).backup(file)
    click.echo(f"{storage!r} is saved in {file}")


@click.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, resolve_path=True))
@click.option("--yes", is_flag=True, help="Do not ask.")
@with_states
def restore(storage: Storage, file: str, yes: bool) -> None:
    """Restore what `backup` has saved in FILE. All later changes are lost.

    The server may run: it uses the restored database from the next mail on. Stop it first when the database is
    damaged, or when its files were moved or deleted.

    \b
    python operate.py restore run/states.backup
    """
    database = sqlite(storage)
    if not yes:
        click.confirm(f"Replace all that is in {storage!r}?", abort=True)
    with one_line(f"nothing has changed: {file} was not restored into {storage!r}", OSError, sqlite3.Error):
        database.restore(file)
    click.echo(f"{storage!r} is restored from {file}")


def sqlite(storage: Storage) -> SQLiteStorage:
    """Return the storage; end the command unless it is an `SQLiteStorage`."""
    if not isinstance(storage, SQLiteStorage):
        tools = (
            "use the tools of its database, for example pg_dump and pg_restore, or `states export` and `states import`"
        )
        raise click.ClickException(f"{storage!r} is no SQLiteStorage; {tools}")
    return storage


def rows(file: BinaryIO) -> Iterator[Row]:
    """Yield the `(key, sender, state)` rows in the lines of a binary file; raise `ValueError` for any other line."""
    for number, line in enumerate(file, start=1):
        try:
            fields = json.loads(line)
            row = tuple(map(fields.pop, FIELDS))
            if fields or not all(map(isinstance, row, KINDS)):
                raise ValueError
        except (ValueError, AttributeError, LookupError, RecursionError, TypeError) as error:
            raise ValueError(f"line {number} must be a row; for example {to_line(EXAMPLE)}") from error
        yield row


def shelf(path: str) -> Iterator[Row]:
    """Yield the rows of the shelf `path`, named as in `ShelveStorage(path)` of Salmon or Lamson.

    Leaves out rows in START, which old versions stored. Executes nothing: the values are pickles, and only text
    is read from them. Raises `ValueError` for a file that is no shelf of states, or whose dbm this Python lacks.
    """
    try:
        with dbm.open(path, "r") as file:
            cell: Any
            for cell in file.keys():
                try:
                    key, sender = ast.literal_eval(cell.decode())
                    if isinstance(key, bytes):  # since Salmon 3
                        key = key.decode("ascii")
                    row = key, sender, _TextUnpickler(io.BytesIO(file[cell])).load()
                    if not all(map(isinstance, row, KINDS)):
                        raise ValueError
                except Exception as error:  # a forged pickle raises anything
                    raise ValueError(f"{path} holds {cell[:200]!r}, which is no state of Salmon's") from error
                if row[2] != ROUTE_FIRST_STATE:
                    yield row
    except dbm.error as error:
        hint = "give its name without .db, .dat or .dir; Debian's Python reads GDBM with python3-gdbm"
        raise ValueError(f"{path} cannot be read as a shelf: {error}; {hint}") from error


class _TextUnpickler(pickle.Unpickler):
    """An unpickler that finds no class and no function, so that a pickle has nothing to call."""

    def find_class(self, module: str, name: str) -> None:
        raise pickle.UnpicklingError(f"{module}.{name} is no text")


def to_line(row: Iterable[object], **more: Any) -> str:
    """Return a row, and `more` fields, as one JSON object in ASCII, which passes through every pipe."""
    return json.dumps({**dict(zip(FIELDS, row, strict=True)), **more})


def shown(*texts: str | None) -> str:
    """Return texts for the terminal, with control characters escaped: anybody can choose a sender."""
    return "  ".join(text if text and text.isprintable() else ascii(text) for text in texts)
