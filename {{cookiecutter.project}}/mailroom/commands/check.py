"""`operate.py check`: is all well? For a health check, and for the minute before a start."""

import json
import os
import smtplib
import socket
import stat
import sys
import time
from importlib import metadata
from pathlib import Path

import click
from salmon.routing import ROUTE_FIRST_STATE, Router, salmon_setting
from salmon.server import SMTPError

from app.model.renamed_states import changes, states_by_module
from config import settings
from operations.attach import attached
from operations.machine import read_machine

HOME = Path(__file__).parent.parent
TIMEOUT = 10  # seconds, for each answer of the relay or the server
SLOW = 1  # second
PROBE = "check@localhost"


class Trouble(Exception):
    """What is wrong, in one line that says what to do about it."""


@click.command()
@click.option("--running", is_flag=True, help="Whether the server takes mail, instead of all stored states.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object, for a machine.")
def check(running, as_json):
    """Check whether all is well; exit with 1 when it is not.

    What is looked at: user, versions, settings, routes, storage, permissions, relay, name of the host, and
    all stored states. A state is written and taken back, the relay is connected to; no mail is sent.

    \b
    python operate.py check && salmon start
    python operate.py check --running --json
    """
    os.chdir(HOME)
    results = []
    last = {"server": server} if running else {"stored states": stored_states}
    for title, look in {**CHECKS, **last}.items():
        try:
            results.append({"name": title, "ok": True, "text": look()})
        except Trouble as trouble:
            results.append({"name": title, "ok": False, "text": str(trouble)})
            if look in (user, together):  # the rest needs them
                break
    well = all(result["ok"] for result in results)
    if as_json:
        click.echo(json.dumps({"ok": well, "checks": results}))
    else:
        for result in results:
            mark = click.style("ok   ", fg="green") if result["ok"] else click.style("wrong", fg="red", bold=True)
            click.echo(f"{mark}  {result['name']:<12} {result['text']}")
    sys.exit(not well)


def user():
    """Look whose files these are: what another user makes, the server could not use."""
    folder = Path("run") if Path("run").exists() else HOME
    owner = folder.stat().st_uid
    if owner != os.geteuid():
        raise Trouble(f"{folder} belongs to user {owner}, and this is {os.geteuid()}; check as the user of the server")
    return f"{owner}, the owner of {folder.name}"


def versions():
    """Look for the versions that the application was made for."""
    salmon = metadata.version("salmon-mail")
    if not salmon.startswith("3.3."):
        raise Trouble(f"salmon-mail is {salmon}; install salmon-mail>=3.3.0,<3.4, for which app/mail is made")
    if not (3, 10) <= sys.version_info < (3, 14):
        raise Trouble(f"Python is {sys.version.split()[0]}; use 3.10 to 3.13, for which Salmon is tested")
    return f"salmon-mail {salmon}, Python {sys.version.split()[0]}"


def together():
    """Put the application together as `salmon start` does."""
    try:
        attached()
    except SystemExit as refusal:
        raise Trouble(str(refusal).removeprefix("ERROR: ")) from refusal
    except Exception as error:
        raise Trouble(f"the application cannot start: {type(error).__name__}: {error}") from error
    return f"mail_domain {settings.mail_domain}, lists {', '.join(settings.lists)}"


def routes():
    """Look for what the handlers return, and for handlers that hide each other."""
    machine = read_machine()
    wrong = machine.wrong + hidden_starts()
    if wrong:
        raise Trouble("; ".join(wrong))
    unread = f"; cannot be read: {'; '.join(machine.unread)}" if machine.unread else ""
    return f"{len(machine.states)} handlers in {len(machine.modules())} modules{unread}"


def hidden_starts():
    """Return a line for each START that never runs, because that of another module takes its mail."""
    lines = []
    routed = [(format, functions) for format, (_, functions) in Router.REGISTERED.items()]
    for name in settings.lists:
        address = f"{name}@{settings.mail_domain}"
        routed.append((address, [handler for functions, _ in Router.match(address) for handler in functions]))
    for where, functions in routed:
        modules = [
            handler.__module__
            for handler in functions
            if handler.__name__ == ROUTE_FIRST_STATE and not salmon_setting(handler, "stateless")
        ]
        for hidden in modules[1:]:
            lines.append(f"{hidden}.START never runs for {where}, since {modules[0]}.START takes that mail")
    return lines


def storage():
    """Write a state, read it, and take it back."""
    states, found, started = Router.STATE_STORE, [], time.monotonic()
    module, names = next(iter(states_by_module().items()), ("check", []))
    # Where an interrupted check leaves it, the server can start all the same.
    wanted = [next((name for name in names if name != ROUTE_FIRST_STATE), ROUTE_FIRST_STATE), ROUTE_FIRST_STATE]
    try:
        for state in wanted:
            with states.conversation(PROBE):
                states.set(module, PROBE, state)
            found.append(states.get(module, PROBE))
    except SMTPError as error:
        raise Trouble(f"{states.storage!r} fails: {error.__cause__ or error}") from error
    if found != wanted:
        raise Trouble(f"{states.storage!r} does not keep what it is told")
    took = (time.monotonic() - started) * 1000
    return f"{states.storage!r} kept a state and gave it back, in {took:.1f} ms"


def permissions():
    """Look who else can read what is kept, or change the code."""
    database = Path(settings.state_database)
    kept = [Path("run"), Path("logs"), *Path().glob(".env")]
    if database.parent.is_dir() and _mode(database.parent) & 0o077:
        kept += database.parent.glob(f"{database.name}*")
    for path in kept:
        if _mode(path) & 0o077:
            raise Trouble(f"{path} is open to other users; chmod go= {path}")
    for name in ("app", "config", "operations", "operate.py", "webapp"):
        for path in [Path(name), *Path(name).rglob("*")]:
            if path.exists() and _mode(path) & 0o002:
                raise Trouble(f"{path} can be changed by any user; chmod o-w {path}")
    return "what is kept is for its owner only, and nobody else can change the code"


def relay():
    """Connect to the relay and log in, as a reply would."""
    where = f"{settings.relay_host}:{settings.relay_port}"
    settings.relay.timeout = TIMEOUT
    try:
        settings.relay.configure_relay(settings.relay_host).quit()
    except (OSError, smtplib.SMTPException) as error:
        raise Trouble(f"{where} does not take mail: {error}; see RELAY_HOST and RELAY_PORT") from error
    return f"{where} takes mail"


def host_name():
    """Look how long the host takes to know its name: Salmon asks at each connection."""
    started = time.monotonic()
    name = socket.getfqdn()
    if time.monotonic() - started > SLOW:
        raise Trouble(f"to learn the name {name} took {time.monotonic() - started:.1f} s; put it into /etc/hosts")
    return name


def stored_states():
    """Look for senders in states that no handler has: with them, the server does not start."""
    try:
        renames = changes(Router.STATE_STORE, settings.renamed_states)
    except (ValueError, SMTPError) as error:
        raise Trouble(str(error)) from error
    return f"a start changes {len(renames)} rows" if renames else "all have a handler"


def server():
    """Look whether the server greets."""
    where = f"{settings.receiver_host}:{settings.receiver_port}"
    client = smtplib.LMTP if settings.receiver_protocol == "lmtp" else smtplib.SMTP
    try:
        with client(settings.receiver_host, settings.receiver_port, "localhost", timeout=TIMEOUT) as connection:
            connection.ehlo_or_helo_if_needed()
    except (OSError, smtplib.SMTPException) as error:
        raise Trouble(f"{where} does not take mail: {error}") from error
    return f"{where} takes mail"


def _mode(path):
    return stat.S_IMODE(path.stat().st_mode)


CHECKS = {
    "user": user,
    "versions": versions,
    "settings": together,
    "routes": routes,
    "storage": storage,
    "permissions": permissions,
    "relay": relay,
    "host name": host_name,
}
