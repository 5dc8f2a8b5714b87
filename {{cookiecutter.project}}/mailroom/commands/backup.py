"""`operate.py backup` and `restore`: save and restore the database of an SQLite storage."""

import logging
import sqlite3

import click

from mailroom.commands.booted import boot, one_line
from mailroom.storage.sqlite import SQLiteStorage

OTHER_TOOLS = (
    "use the tools of its database, for example pg_dump and pg_restore, or `states export` and `states import`"
)


@click.command()
@click.argument("file", type=click.Path(resolve_path=True))
def backup(file: str) -> None:
    """Save states, own tables and the outbox in the new FILE, an SQLite database.

    The server may run. This checks FILE for damage; only its owner can read it.

    \b
    python operate.py backup run/states.backup
    """
    storage = sqlite_storage()
    with one_line(f"{storage!r} was not saved in {file}", OSError, sqlite3.Error):
        storage.backup(file)
    click.echo(f"{storage!r} is saved in {file}")


@click.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, resolve_path=True))
@click.option("--yes", is_flag=True, help="Do not ask.")
def restore(file: str, yes: bool) -> None:
    """Restore what `backup` has saved in FILE. All later changes are lost.

    The server may run: it uses the restored database from the next mail on. Stop it first when the database is
    damaged, or when its files were moved or deleted.

    \b
    python operate.py restore run/states.backup
    """
    storage = sqlite_storage()
    if not yes:
        click.confirm(f"Replace all that is in {storage!r}?", abort=True)
    with one_line(f"nothing has changed: {file} was not restored into {storage!r}", OSError, sqlite3.Error):
        storage.restore(file)
    click.echo(f"{storage!r} is restored from {file}")


def sqlite_storage() -> SQLiteStorage:
    """Return the storage of the application; end the command unless it is an `SQLiteStorage`."""
    storage = boot(disabled=logging.ERROR).room.storage
    if not isinstance(storage, SQLiteStorage):
        raise click.ClickException(f"{storage!r} is no SQLiteStorage; {OTHER_TOOLS}")
    return storage
