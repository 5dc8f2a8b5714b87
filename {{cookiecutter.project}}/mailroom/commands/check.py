"""`operate.py check`: find what is wrong before the server starts, or while it runs."""

import importlib.util
import json
import logging
import os
import smtplib
import sys
import time
from importlib import metadata
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

import click
from salmon import server as salmon_server
from salmon.routing import ROUTE_FIRST_STATE, Router, salmon_setting
from salmon.server import SMTPError
from salmon.utils import import_settings

from mailroom import failing
from mailroom import outbox as waiting
from mailroom.commands.booted import boot, examples
from mailroom.handlers import changes, handlers_at, states_by_module
from mailroom.room import current
from mailroom.testing import with_place

TIMEOUT = 10  # seconds, for each answer of the relay or the server
OLD_MAIL = 600  # seconds in the outbox
OLD_FAILURE = 3600  # seconds of answering 451
PROBE = "check@localhost"  # the sender of a state that is written and deleted


@click.command()
@click.option("--running", is_flag=True, help="Check whether the server takes mail, and not the stored states.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def check(running: bool, as_json: bool) -> None:
    """Check the installation and the stored states; exit with 1 when something is wrong.

    This writes a state and deletes it, and connects to the relay; it sends no mail.

    \b
    python operate.py check && salmon start
    python operate.py check --running --json
    """
    config: Any = importlib.util.find_spec("config")
    os.chdir(Path(config.origin).parent.parent)
    results = []
    for look in (*CHECKS, server if running else stored_states):
        name = look.__name__.replace("_", " ")
        try:
            ok, text = True, look()
        except ValueError as problem:  # it says what is wrong and what to do
            ok, text = False, str(problem)
        except SMTPError as error:
            rule = "if it is damaged, stop the server and use `operate.py restore FILE`"
            ok, text = False, f"{current().storage!r} fails: {error.__cause__ or error}; {rule}"
        results.append({"name": name, "ok": ok, "text": text})
        if not as_json:
            mark = click.style("ok   ", fg="green") if ok else click.style("wrong", fg="red", bold=True)
            click.echo(f"{mark}  {name:<13} {text}")
        if not ok and look in (user, settings):  # the other checks need them
            break
    well = all(result["ok"] for result in results)
    if as_json:
        click.echo(json.dumps({"ok": well, "checks": results}))
    sys.exit(not well)


def user() -> str:
    """Refuse any user but the server's, which could not use the files that this one creates."""
    folder = Path("run") if Path("run").exists() else Path.cwd()
    owner = folder.stat().st_uid
    if owner != os.geteuid():
        raise ValueError(
            f"{folder} belongs to user {owner}, and this is {os.geteuid()}; check as the user of the server"
        )
    return f"{owner}, the owner of {folder.name}"


def versions() -> str:
    """Look for a version of Salmon that `mailroom` is not made for."""
    salmon = metadata.version("salmon-mail")
    if not salmon.startswith("3.3."):
        raise ValueError(f"salmon-mail is {salmon}; install salmon-mail>=3.3.0,<3.4, for which mailroom is made")
    return f"salmon-mail {salmon}, Python {sys.version.split()[0]}"


def packages() -> str:
    """Look for an installed `config`, which `salmon start` imports instead of ours: it searches this folder last."""
    spec: Any = PathFinder.find_spec("config", [*sys.path[1:], os.getcwd()])
    if not Path(spec.origin).samefile("config/__init__.py"):
        raise ValueError(
            f"`salmon start` imports {spec.origin}, not config/; uninstall it, or set PYTHONPATH={Path.cwd()}"
        )
    return "none hides config"


def settings() -> str:
    """Boot the application as `salmon start` does."""
    try:
        room = boot(disabled=logging.ERROR).room
    except SystemExit as refusal:
        raise ValueError(str(refusal).removeprefix("ERROR: ")) from refusal
    except Exception as error:
        raise ValueError(f"the application cannot start: {with_place(error)}") from error
    return f"valid; the domain is {room.domain}"


def routes() -> str:
    """Look for a START that never runs, because another module takes its mail."""
    routed = {route: functions for route, (_, functions) in Router.REGISTERED.items()}
    routed.update((address, handlers_at(address.lower())) for address in map(current().address, examples()))
    hidden = []
    for where, functions in routed.items():
        stateful = [function for function in functions if not salmon_setting(function, "stateless")]
        starts = [function.__module__ for function in stateful if function.__name__ == ROUTE_FIRST_STATE]
        for late in starts[1:]:
            hidden.append(f"{late}.START never runs for {where}, since {starts[0]}.START takes that mail")
    if hidden:
        raise ValueError("; ".join(hidden))
    return f"{len(Router.ORDER)}; none hides another"


def storage() -> str:
    """Write a state, read it, and delete it."""
    states = current().storage
    # The state has a handler, so that the server starts even if this check is interrupted.
    names = [name for name in sum(states_by_module().values(), []) if name != ROUTE_FIRST_STATE]
    for state in (*names[:1], ROUTE_FIRST_STATE):
        with states.transaction(PROBE):
            states.set("check", PROBE, state)
        if states.get("check", PROBE) != state:
            raise ValueError(f"{states!r} does not return the state that was set")
    return f"{states!r} stored and returned a state"


def permissions() -> str:
    """Look for files that other users can read, and for code that they can change."""
    database = Path(getattr(import_settings(False), "state_database", "run/states"))
    kept = [Path(".env"), *Path("run").glob("[!.]*"), *Path("logs").glob("[!.]*")]
    for path in [*kept, *database.parent.glob(f"{database.name}*")]:
        if path.exists() and path.stat().st_mode & 0o077 and path.parent.stat().st_mode & 0o077:
            raise ValueError(f"{path} is open to other users; chmod go= {path}")
    for name in ("app", "config", "mailroom", "operate.py", "webapp.py"):
        for path in [Path(name), *Path(name).rglob("*")]:
            if path.exists() and path.stat().st_mode & 0o002:
                raise ValueError(f"any user can change {path}; chmod o-w {path}")
    return "only the owner can read what is stored and change the code"


def relay() -> str:
    """Connect to the relay and log in, as a reply would."""
    relay = current().relay
    relay.timeout = TIMEOUT
    place = f"{relay.hostname}:{relay.port}"
    try:
        relay.configure_relay(relay.hostname).quit()
    except OSError as error:  # smtplib's are some, too
        raise ValueError(f"{place} does not take mail: {error}; see RELAY_HOST and RELAY_PORT") from error
    return f"{place} takes mail"


def stored_states() -> str:
    """Look for damage, and for stored states without a handler: the server does not start with them."""
    current().storage.refuse_damaged()
    renames = changes(current().storage, current().renamed_states)
    return f"the next start renames {len(renames)}" if renames else "all have a handler"


def outbox() -> str:
    """Look for outgoing mail that has waited for 10 minutes, or that the relay has refused for good."""
    if not current().storage.is_shared:
        return "in the memory of the server"
    rows = waiting.rows(current().storage)
    late = [row for row in rows if row.due is None or row.created < time.time() - OLD_MAIL]
    if late:
        what = f"{'was refused' if late[0].due is None else 'has waited for long'} ({late[0].answer or 'no relay'})"
        raise ValueError(f"mail to {late[0].recipient} {what}, {len(late)} in all; see `operate.py outbox`")
    return f"{len(rows)} waiting" if rows else "empty"


def handlers() -> str:
    """Look for handlers that have answered the same mail 451 for an hour: its sender will get a bounce."""
    old = sorted((first, handler) for first, last, handler in failing.mails() if last - first > OLD_FAILURE)
    if old:
        first, handler = old[0]
        hours = (time.time() - first) / 3600
        raise ValueError(
            f"{handler} has answered a mail 451 for {hours:.0f} hours, mails in all: {len(old)};"
            " the log says why; their senders get a bounce on the fifth day"
        )
    return "none has answered a mail 451 for an hour"


def server() -> str:
    """Connect to the server, which greets and says what it offers."""
    receiver = import_settings(False).receiver
    client = smtplib.SMTP if isinstance(receiver, salmon_server.SMTPReceiver) else smtplib.LMTP
    try:
        with client(receiver.host, receiver.port, "localhost", timeout=TIMEOUT) as connection:
            connection.ehlo_or_helo_if_needed()
    except OSError as error:
        raise ValueError(f"{receiver.host}:{receiver.port} does not take mail: {error}") from error
    return f"{receiver.host}:{receiver.port} takes mail"


CHECKS = user, versions, packages, settings, routes, storage, permissions, relay, outbox, handlers
