"""`operate.py states`: show, change and move the stored states."""

import json
import re
import time
from collections import Counter
from collections.abc import Collection, Iterator
from datetime import datetime, timezone
from email.utils import parseaddr
from fnmatch import fnmatchcase
from functools import partial
from typing import Any

import click
from salmon.routing import ROUTE_FIRST_STATE

from mailroom import outbox
from mailroom.commands.booted import key_at, modules_at, no_such_address, with_states
from mailroom.commands.transfer import export, import_, shown, to_line
from mailroom.handlers import has_handler, states_by_module
from mailroom.message import person
from mailroom.room import current
from mailroom.storage import Storage, StoredRow


@click.group(commands=[export, import_])
def states() -> None:
    """Show, change and move the stored states. A sender without a row is in START.

    The server may run, except for an import, and except with a shelf, which only one process can use.
    """


def ago(value: str) -> float:
    """Return when a time such as `30d` began that ends now, in seconds since the epoch."""
    found = re.fullmatch(r"([0-9]{1,9})([dhm])", value)
    if not found:
        raise click.BadParameter(f"{value!r} must be a number of days (d), hours (h) or minutes (m); for example 30d")
    return time.time() - int(found[1]) * {"d": 86400, "h": 3600, "m": 60}[found[2]]


as_json = click.option("--json", "as_json", is_flag=True, help="Print a JSON object a line.")
at_address = click.option("--to", metavar="ADDRESS", help="Only the state for mail to this address, for example news.")
older_than = partial(click.option, "--older-than", type=ago, help="Only states this long unchanged, for example 30d.")


@states.command("list")
@click.option("--state", metavar="STATE", help="Only senders in this state, for example CONFIRMING.")
@click.option("--sender", metavar="GLOB", default="*", help="Only matching senders, for example '*@gmail.com'.")
@older_than()
@at_address
@as_json
@with_states
def list_(storage: Storage, as_json: bool, sender: str, **selection: Any) -> None:
    """List the rows: state, time of the last change (UTC, if the storage knows it), key and sender.

    \b
    python operate.py states list --state CONFIRMING --older-than 30d --to news
    python operate.py states list --sender '*@people.example' --json
    """
    for row in rows_in(storage, **selection):
        if fnmatchcase((row[1] or "").lower(), sender.lower()):
            show_row(row, as_json)


@states.command()
@as_json
@with_states
def count(storage: Storage, as_json: bool) -> None:
    """Count the senders in each state, by key.

    A key is the module of the handlers, or what its @state_key_generator returns. Mail from senders in a state
    without a handler is answered 451.
    """
    counter = Counter((key, state) for key, _, state in storage)
    for (key, state), number in sorted(counter.items(), key=repr):
        row = {"key": key, "state": state, "count": number, "handler": has_handler(key, state)}
        click.echo(json.dumps(row) if as_json else f"{number:>9}  {styled(key, state)}  {shown(key)}")
    if not as_json:
        click.echo(f"{counter.total():>9}  in all")


@states.command()
@click.argument("sender")
@as_json
@with_states
def show(storage: Storage, sender: str, as_json: bool) -> None:
    """Show all rows of SENDER.

    \b
    python operate.py states show alice@people.example
    """
    found = rows_of(storage, sender)
    for row in found:
        show_row(row, as_json)
    if not found and not as_json:
        click.echo(f"{shown(as_salmon_writes(sender))} is in START")


@states.command("set")
@click.argument("sender")
@click.argument("state")
@at_address
@with_states
def set_(storage: Storage, sender: str, state: str, to: str | None) -> None:
    """Put SENDER into STATE, between two of their mails.

    \b
    python operate.py states set alice@people.example SUBSCRIBED --to news
    """
    sender = as_salmon_writes(sender)
    if "@" not in sender:
        raise click.ClickException(f"SENDER {sender!r} must be an address; for example alice@people.example")
    modules, known = modules_at(to), states_by_module()
    fitting = [module for module in modules if state in known[module]]
    if not fitting:
        there = "; ".join(f"{', '.join(known[module])} in {module}" for module in modules)
        raise click.ClickException(f"STATE {state!r} must be a state that a handler has: {there}; for example START")
    if to is None and len(fitting) > 1:
        raise no_such_address(to, fitting)
    key = key_at(fitting[0], sender, to)
    with storage.transaction(sender):
        before = storage.get(key, sender)
        storage.set(key, sender, state)
    click.echo(f"{before} -> {state}  {key}  {shown(sender)}")


@states.command()
@click.argument("senders", metavar="SENDER...", nargs=-1, required=True)
@at_address
@with_states
def reset(storage: Storage, senders: tuple[str, ...], to: str | None) -> None:
    """Put each SENDER back to START, for mail to one address or to all.

    \b
    python operate.py states reset alice@people.example bob@people.example --to news
    """
    for sender in senders:
        put_to_start(storage, sender, to)


@states.command()
@click.option("--state", metavar="STATE", required=True, help="The state, for example CONFIRMING.")
@older_than(required=True)
@at_address
@with_states
def expire(storage: Storage, state: str, older_than: float, to: str | None) -> None:
    """Put senders whose state is old back to START, each between two of their mails.

    \b
    python operate.py states expire --state CONFIRMING --older-than 30d
    """
    expired = 0
    # A handler's state without senders is no error: this may run every night.
    for key, sender, *_ in rows_in(storage, state, to, older_than, known=sum(states_by_module().values(), [])):
        with storage.transaction(sender):
            # The sender may have written since the row was read.
            is_due = storage.get(key, sender) == state and (storage.changed(key, sender) or 0) <= older_than
            if is_due:
                storage.set(key, sender, ROUTE_FIRST_STATE)
        if is_due:
            click.echo(f"{state} -> {ROUTE_FIRST_STATE}  {shown(key, sender)}")
            expired += 1
    click.echo(f"{expired} expired")


@states.command()
@click.argument("sender")
@with_states
def forget(storage: Storage, sender: str) -> None:
    """Forget SENDER: delete all their states, and the mail to them that waits in the outbox.

    Delete their rows in your own tables yourself. Senders are also named in backups, in the logs of this server and of
    the mail server, with SQLite in the -wal file until the server stops, and with Django in the admin's log.
    """
    put_to_start(storage, sender)
    waiting = outbox.rows(storage) if storage.is_shared else []
    found = [row for row in waiting if person(row.recipient, current().forwarders) == as_salmon_writes(sender)]
    outbox.drop(storage, found)
    for row in found:
        click.echo(f"dropped  {row.mail}  {row.recipient}")


def show_row(row: StoredRow, as_json: bool) -> None:
    key, sender, state, changed = row
    time = None if changed is None else datetime.fromtimestamp(int(changed), timezone.utc)
    if as_json:
        click.echo(to_line(row[:3], changed=time and time.isoformat(), handler=has_handler(key, state)))
    else:
        click.echo("  ".join([styled(key, state), *([f"{time:%Y-%m-%dT%H:%MZ}"] if time else []), shown(key, sender)]))


def styled(key: str | None, state: str) -> str:
    """Return a state for the terminal; mark one without a handler, in which senders are stuck."""
    if has_handler(key, state):
        return click.style(f"{shown(state):<12}", fg="green")
    return click.style(f"{shown(state)} (no handler)", fg="red")


def as_salmon_writes(sender: str) -> str:
    """Return an address as Salmon passes it to the storage: without a name, in lower case."""
    return parseaddr(sender.lower())[1] or sender.lower()


def rows_of(storage: Storage, sender: str, to: str | None = None) -> list[StoredRow]:
    spellings = sender.lower(), as_salmon_writes(sender)  # older applications kept capitals and names
    return [row for row in rows_in(storage, to=to) if (row[1] or "").lower() in spellings]


def rows_in(
    storage: Storage,
    state: str | None = None,
    to: str | None = None,
    older_than: float | None = None,
    known: Collection[str] = (),
) -> Iterator[StoredRow]:
    """Yield the rows that match `state`, `to` and `older_than` (seconds since the epoch), each unless None.

    Ends the command when no row has the state, unless it is `known`, when no handler takes the address, and when the
    storage does not know the age of a state.
    """
    modules = modules_at(to)
    if state is not None and state not in known:
        there = {state for _, state in storage.kinds()}
        if state not in there:
            states = ", ".join(sorted(map(shown, there))) or "none"
            raise click.ClickException(f"no sender is in the state {shown(state)}; states that there are: {states}")
    for row in storage.rows():
        key, sender, found, changed = row
        if older_than is not None and changed is None:
            raise click.ClickException(f"--older-than: {storage!r} does not know when a state changed")
        if state in (None, found) and (older_than is None or (changed or 0) <= older_than):
            if to is None or key in [key_at(module, sender, to) for module in modules]:
                yield row


def put_to_start(storage: Storage, sender: str, to: str | None = None) -> None:
    """Delete the rows of a sender, each between two of their mails, and print them."""
    removed = 0
    for key, spelling, *_ in rows_of(storage, sender, to):  # a list: it takes long to read the table
        with storage.transaction(as_salmon_writes(sender)):
            state = storage.get(key, spelling)
            storage.set(key, spelling, ROUTE_FIRST_STATE)
        if state != ROUTE_FIRST_STATE:
            click.echo(f"{state} -> {ROUTE_FIRST_STATE}  {shown(key, spelling)}")
            removed += 1
    if not removed:
        click.echo(f"{shown(as_salmon_writes(sender))} is in START already")
