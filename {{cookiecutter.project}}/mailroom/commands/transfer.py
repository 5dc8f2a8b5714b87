"""`operate.py states export` and `import`: move all rows, a line of JSON each, from any storage to any other."""

import json
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO

import click
from salmon.server import SMTPError

from mailroom.commands import shelves
from mailroom.commands.booted import with_states
from mailroom.handlers import has_handler
from mailroom.storage import Row, Storage

FIELDS: dict[str, Any] = {"key": (str, type(None)), "sender": (str, type(None)), "state": str}
EXAMPLE = "app.handlers.subscription:news", "alice@people.example", "SUBSCRIBED"
MAX_LINE = 1 << 20  # octets


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
    try:
        states = read_all(shelves.rows(shelve) if shelve else rows(file or sys.stdin.buffer))
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
    keep_all(storage, states)
    click.echo(f"{length} rows: {length - same - other} new, {other} overwritten, {same} there already")
    for (key, state), number in Counter((key, state) for (key, _), state in states.items()).items():
        if not has_handler(key, state):
            click.echo(f"No handler has the state {shown(state)} of {shown(key)}: {number} rows", err=True)


def read_all(source: Iterable[Row]) -> dict[tuple[str | None, str | None], str]:
    """Return `{(key, sender): state}` for all rows; raise `ValueError` when two have the same key and sender."""
    states: dict[tuple[str | None, str | None], str] = {}
    for number, (key, sender, state) in enumerate(source, start=1):
        cell = key and sys.intern(key), sender  # many rows have the same key and state: keep one copy of each
        if cell in states:
            raise ValueError(f"row {number} has the key and the sender of an earlier row")
        states[cell] = sys.intern(state)
    return states


def keep_all(storage: Storage, states: dict[tuple[str | None, str | None], str]) -> None:
    """Set all states or none; end the command with the row that the storage cannot hold."""
    last: Row

    def reading() -> Iterator[Row]:
        nonlocal last
        for (key, sender), state in states.items():
            last = key, sender, state
            yield last

    try:
        storage.set_all(reading())
    except SMTPError as error:
        if error.code < 500 or error.__cause__:  # the database refuses many rows at once, and does not say which
            raise
        key, sender, state = last  # the storage checks a row as soon as it has read it
        refusal = f"nothing was imported: {storage!r} cannot hold {shown(state, key, sender)}"
        raise click.ClickException(refusal) from error


def rows(file: BinaryIO) -> Iterator[Row]:
    """Yield the `(key, sender, state)` rows in the lines of a binary file; raise `ValueError` for any other line."""
    lines = iter(lambda: file.readline(MAX_LINE), b"")
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
            if row.keys() != FIELDS.keys() or not all(isinstance(row[name], kind) for name, kind in FIELDS.items()):
                raise ValueError
        except (ValueError, AttributeError, RecursionError) as error:
            raise ValueError(f"line {number} must be a row; for example {to_line(EXAMPLE)}") from error
        yield tuple(row[name] for name in FIELDS)


def to_line(row: Iterable[object], **more: Any) -> str:
    """Return a row, and `more` fields, as one JSON object in ASCII, which passes through every pipe."""
    return json.dumps({**dict(zip(FIELDS, row, strict=True)), **more})


def shown(*texts: str | None) -> str:
    """Return texts for the terminal, with control characters escaped: anybody can choose a sender."""
    return "  ".join(text if text and text.isprintable() else ascii(text) for text in texts)
