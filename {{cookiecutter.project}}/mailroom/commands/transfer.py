"""`operate.py states export` and `import`: every row as a line of text, from any storage to any other."""

import sys
from contextlib import closing

import click
from click.core import ParameterSource
from salmon.server import SMTPError

from app.model.renamed_states import has_handler
from operations import rows, shelves
from operations.attach import with_states
from operations.incoming import Incoming
from operations.rows import shown


@click.command()
@with_states
def export(storage):
    """Write all rows to the standard output, a JSON object a line.

    Rows that change meanwhile are written as they are when their turn comes. To change the storage
    stop the server, export, switch, import, start.

    \b
    python operate.py states export > run/states.jsonl
    """
    length = sum(1 for _ in storage) if bars_are_seen() else None
    for row in progress(storage, "Exporting", length):
        sys.stdout.write(rows.to_line(row) + "\n")


@click.command("import")
@click.argument("file", type=click.File("rb"), default="-")
@click.option("--shelve", metavar="PATH", type=click.Path(resolve_path=True), help="Read a shelf of an older Salmon.")
@click.option("--replace", is_flag=True, help="Overwrite the states that are there.")
@click.option("--dry-run", is_flag=True, help="Only say what would be overwritten.")
@with_states
def import_(storage, file, shelve, replace, dry_run):
    """Read rows as `export` writes them from FILE, or the standard input: all of them or none.

    All rows are read and checked before the first is kept. A row that would overwrite another
    state is refused, unless --replace is given. Stop the server meanwhile: a state that a mail sets
    between the check and the import is overwritten.

    \b
    python operate.py states import < run/states.jsonl
    python operate.py states import --shelve ../old-application/run/states
    """
    if shelve and click.get_current_context().get_parameter_source("file") is not ParameterSource.DEFAULT:
        raise click.UsageError("FILE and --shelve do not go together; for example import --shelve run/states")
    source = shelves.rows(shelve) if shelve else rows.from_lines(file)
    incoming = click.get_current_context().with_resource(closing(Incoming()))
    try:
        incoming.read(progress(source, "Reading"))
    except ValueError as error:
        raise click.ClickException(f"nothing was imported: {error}") from error
    same = other = 0
    for key, sender, state in progress(storage, "Comparing"):
        new = incoming.find(key, sender)
        if new == state:
            same += 1
        elif new is not None:
            other += 1
            example = f"{shown(state)} -> {line_of(key, sender, new)}"
            if dry_run:
                click.echo(example)
    length = len(incoming)
    if other and not replace and not dry_run:
        raise click.ClickException(
            f"nothing was imported: --replace is needed to overwrite {other} of {length} rows; for example {example}"
        )
    if not dry_run:
        keep_all(storage, progress(incoming, "Importing", length))
    click.echo(f"{length} rows: {length - same - other} new, {other} overwritten, {same} there already")
    for key, state, number in incoming.kinds():
        if not has_handler(key, state):
            click.echo(f"No handler has the state {shown(state)} of {shown(key)}: {number} rows", err=True)


def keep_all(storage, incoming):
    """Set all rows or none; a row that the storage cannot hold is refused by what it says."""
    last = None

    def reading():
        nonlocal last
        for row in incoming:
            last = row
            yield row

    try:
        storage.set_all(reading())
    except SMTPError as error:
        if error.code < 500 or error.__cause__:  # what the database refuses may be any of many rows
            raise
        # A storage looks at a row when it reads it.
        raise click.ClickException(f"nothing was imported: {storage!r} cannot hold {line_of(*last)}") from error


def line_of(key, sender, state):
    return f"{shown(state)}  {shown(key)}  {shown(sender)}"


def bars_are_seen():
    return sys.stderr.isatty() and not sys.stdout.isatty()


def progress(items, label, length=None):
    """Yield the items, with a bar on stderr where somebody sees it."""
    if not bars_are_seen():
        yield from items
        return
    with click.progressbar(
        items, label=label, length=length, show_pos=True, file=sys.stderr, update_min_steps=1000
    ) as bar:
        yield from bar
