"""`operate.py states`: where every conversation stands, to be seen, mended and moved."""

import json
from collections import Counter
from email.utils import parseaddr
from fnmatch import fnmatchcase

import click
from salmon.routing import ROUTE_FIRST_STATE

from app.model.renamed_states import has_handler, states_by_module
from config import settings
from operations import transfer
from operations.attach import with_states
from operations.keys import split_key, state_key
from operations.rows import shown, to_line


@click.group()
def states():
    """Where every conversation stands: look, mend, move to another storage.

    All of it but an import works while the server runs, unless the storage is a shelf, which is for one process.
    A sender who has no row is at the START.
    """


states.add_command(transfer.export)
states.add_command(transfer.import_)

as_json = click.option("--json", "as_json", is_flag=True, help="A JSON object a line, for a machine.")
in_list = click.option("--list", "list_name", metavar="NAME", help="In this list, for example news.")


@states.command("list")
@click.option("--state", metavar="STATE", help="Those in this state, for example CONFIRMING.")
@click.option("--sender", metavar="GLOB", default="*", help="Those whose address fits, for example '*@gmail.com'.")
@in_list
@as_json
@with_states
def list_(storage, state, sender, list_name, as_json):
    """List the rows: state, key and sender.

    \b
    python operate.py states list --state CONFIRMING --list news
    python operate.py states list --sender '*@people.example' --json
    """
    for row in storage:
        if (
            state in (None, row[2])
            and fnmatchcase((row[1] or "").lower(), sender.lower())
            and list_name in (None, split_key(row[0])[1])
        ):
            show_row(row, as_json)


@states.command()
@as_json
@with_states
def count(storage, as_json):
    """Count the senders in each state, by key.

    A key is the module of the handlers and, after a colon, the list. A state in red has no handler:
    the next mail of its senders is refused for now, with 451, until there is one.
    """
    counter = Counter((key, state) for key, _, state in storage)
    for (key, state), number in sorted(counter.items(), key=repr):
        if as_json:
            click.echo(json.dumps({"key": key, "state": state, "count": number}))
        else:
            click.echo(f"{number:>9}  {styled(key, state)}  {shown(key)}")
    if not as_json:
        click.echo(f"{counter.total():>9}  in all")


@states.command()
@click.argument("sender")
@as_json
@with_states
def show(storage, sender, as_json):
    """Show all rows of SENDER.

    \b
    python operate.py states show alice@people.example
    """
    found = rows_of(storage, sender)
    for row in found:
        show_row(row, as_json)
    if not found and not as_json:
        click.echo(f"{shown(as_salmon_writes(sender))} is at the START")


@states.command("set")
@click.argument("sender")
@click.argument("state")
@click.option("--list", "list_name", metavar="NAME", help="The list; may be left out where there is only one.")
@click.option("--handler", metavar="MODULE", help="The module, where several have a handler of this name.")
@with_states
def set_(storage, sender, state, list_name, handler):
    """Put SENDER into STATE, between two of their mails.

    \b
    python operate.py states set alice@people.example SUBSCRIBED --list news
    """
    sender = as_salmon_writes(sender)
    if "@" not in sender:
        raise click.ClickException(f"SENDER {sender!r} must be an address; for example alice@people.example")
    module = module_with(state, handler)
    key = state_key(module, known_list(list_name), sender)
    with storage.conversation(sender):
        before = storage.get(key, sender)
        storage.set(key, sender, state)
    click.echo(f"{before} -> {state}  {key}  {shown(sender)}")


@states.command()
@click.argument("senders", metavar="SENDER...", nargs=-1, required=True)
@in_list
@with_states
def reset(storage, senders, list_name):
    """Put each SENDER back to the START, in one list or everywhere.

    \b
    python operate.py states reset alice@people.example bob@people.example --list news
    """
    for sender in senders:
        put_to_start(storage, sender, list_name)


@states.command()
@click.argument("old")
@click.argument("new")
@click.option("--handler", metavar="MODULE", help="The module, where several have a handler called NEW.")
@with_states
def rename(storage, old, new, handler):
    """Put all senders who are in the state OLD into NEW, each between two of their mails.

    The setting renamed_states does the same when the server starts, all at once.

    \b
    python operate.py states rename CONFIRMING ASKED
    """
    module, number = module_with(new, handler), 0
    for key, sender, _ in [row for row in storage if row[2] == old and split_key(row[0])[0] == module]:
        with storage.conversation(sender):
            if storage.get(key, sender) == old:
                storage.set(key, sender, new)
                number += 1
    click.echo(f"rows changed: {number}  {old} -> {new}  {module}")


@states.command()
@click.argument("sender")
@with_states
def forget(storage, sender):
    """Forget SENDER: remove all that the storage keeps of them.

    The logs name senders too, here and at the mail server, and so do backups; with SQLite its -wal file
    until the server stops, and in Django the admin's own log of what was put back to START.
    """
    put_to_start(storage, sender)


def show_row(row, as_json):
    key, sender, state = row
    click.echo(to_line(row) if as_json else f"{styled(key, state)}  {shown(key)}  {shown(sender)}")


def styled(key, state):
    """Return a state for a table, in red when no handler has it: its sender is stuck."""
    return click.style(f"{shown(state):<12}", fg="green" if has_handler(key, state) else "red")


def as_salmon_writes(sender):
    """Return an address as Salmon hands it to the storage: bare and in lower case."""
    return parseaddr(sender.lower())[1] or sender.lower()


def rows_of(storage, sender):
    """Return the rows of a sender, who may have been written otherwise by an older application."""
    spellings = {sender.lower(), as_salmon_writes(sender)}
    return [row for row in storage if row[1] is not None and row[1].lower() in spellings]


def put_to_start(storage, sender, list_name=None):
    """Remove the rows of a sender, in one list or all, between two of their mails; say which they were."""
    with storage.conversation(as_salmon_writes(sender)):
        removed = [row for row in rows_of(storage, sender) if list_name in (None, split_key(row[0])[1])]
        for key, spelling, _ in removed:
            storage.set(key, spelling, ROUTE_FIRST_STATE)
    for key, spelling, state in removed:
        click.echo(f"{state} -> {ROUTE_FIRST_STATE}  {shown(key)}  {shown(spelling)}")
    if not removed:
        click.echo(f"{shown(as_salmon_writes(sender))} is at the START already")


def known_list(name):
    """Return the list called `name`, or the only one there is."""
    if name is None and len(settings.lists) == 1:
        return settings.lists[0]
    if name not in settings.lists:
        given = "must be given" if name is None else f"{name!r} is none of our lists"
        raise click.ClickException(
            f"--list {given}: {', '.join(settings.lists)}; for example --list {settings.lists[0]}"
        )
    return name


def module_with(state, wanted=None):
    """Return the module of handlers, the `wanted` one if that is given, that has `state`."""
    known = states_by_module()
    if wanted is not None and wanted not in known:
        raise click.ClickException(
            f"--handler {wanted!r} is no module with states: {', '.join(known)}; for example --handler {min(known)}"
        )
    modules = [module for module in known if state in known[module] and wanted in (None, module)]
    if not modules:
        there = "; ".join(f"{', '.join(names)} in {module}" for module, names in known.items())
        raise click.ClickException(f"STATE {state!r} must be a state that a handler has: {there}; for example START")
    if len(modules) > 1:
        raise click.ClickException(
            f"--handler must say whose {state}: {', '.join(modules)}; for example --handler {modules[0]}"
        )
    return modules[0]
