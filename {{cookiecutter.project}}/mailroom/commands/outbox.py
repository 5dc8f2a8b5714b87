"""`operate.py outbox`: list, retry and drop the mail that waits for the relay."""

import json
import time
from collections.abc import Callable
from datetime import timedelta
from fnmatch import fnmatchcase
from typing import Any

import click

from mailroom import outbox as waiting
from mailroom.commands.booted import with_states
from mailroom.outbox import Row
from mailroom.storage import Storage


@click.group(invoke_without_command=True)
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object a line.")
@click.pass_context
def outbox(context: click.Context, as_json: bool) -> None:
    """List the mail that the relay has not taken: ID, age, recipient, tries and the relay's last answer.

    \b
    python operate.py outbox
    python operate.py outbox retry --to '*@people.example'
    """
    if context.invoked_subcommand is None:
        list_(as_json=as_json)


@with_states
def list_(storage: Storage, as_json: bool) -> None:
    now, found = time.time(), rows_of(storage)
    for row in found:
        age, answer = timedelta(seconds=round(now - row.created)), f", {row.answer}" if row.answer else ""
        text = f"{row.mail}  {age}  {row.recipient}  {row.tries} tries  {'waits' if row.due else 'refused'}{answer}"
        click.echo(json.dumps({**row._asdict(), "refused": row.due is None}) if as_json else text)
    if not as_json:
        click.echo(f"{len(found)} in all")


def chosen(command: Callable[..., list[Row]]) -> Any:
    """Make a command of a function of rows, which its arguments select: by ID of the mail and by recipient."""

    @click.argument("ids", metavar="[ID]...", nargs=-1, type=int)
    @click.option("--to", metavar="GLOB", help="Mail to matching recipients, for example '*@people.example'.")
    @with_states
    def run(storage: Storage, ids: tuple[int, ...], to: str | None) -> None:
        if not (ids or to):
            raise click.UsageError("give an ID or --to; for example --to '*@people.example', or '*' for all")
        found = [row for row in rows_of(storage) if not ids or row.mail in ids]
        found = [row for row in found if not to or fnmatchcase(row.recipient.lower(), to.lower())]
        if missing := set(ids) - {row.mail for row in found}:
            raise click.ClickException(f"no such mail is waiting: {min(missing)}; `operate.py outbox` lists them")
        done = command(storage, found)
        for row in done:
            click.echo(f"{command.__name__}  {row.mail}  {row.recipient}")
        click.echo(f"{len(done)} in all{f', {len(found) - len(done)} are due already' if done != found else ''}")

    return outbox.command(command.__name__, help=command.__doc__)(run)


@chosen
def retry(storage: Storage, found: list[Row]) -> list[Row]:
    """Try mail again now that the relay has refused, for now or for good.

    \b
    python operate.py outbox retry --to '*'
    """
    return waiting.retry(storage, found)


@chosen
def drop(storage: Storage, found: list[Row]) -> list[Row]:
    """Delete mail from the outbox: its recipients never get it.

    \b
    python operate.py outbox drop 1795876543210123456
    """
    return waiting.drop(storage, found)


def rows_of(storage: Storage) -> list[Row]:
    if not storage.is_shared:
        raise click.ClickException(f"{storage!r}: its outbox is in the memory of the server; see its log")
    return waiting.rows(storage)
