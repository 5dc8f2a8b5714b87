"""`operate.py diagram`: draw the conversations for Mermaid."""

import re
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import click
from salmon.routing import ROUTE_FIRST_STATE, Router, salmon_setting

from mailroom.commands.booted import boot
from mailroom.testing.exchange import Move
from mailroom.testing.transcript import Difference, Transcript

CONVERSATIONS = "tests/conversations"
TOKEN = re.compile(r"(?=[a-z]*\d)[a-z0-9]{10,}")


@click.command()
def diagram() -> None:
    """Print the conversations as a state diagram for Mermaid.

    This plays tests/conversations/ in memory, and draws the routes of the handlers and each change of a state. It
    names on stderr the handlers that no mail reaches.

    \b
    python operate.py diagram > states.mmd
    """
    room = boot("config.testing").room
    addresses: dict[Move, dict[str, None]] = defaultdict(dict)
    reached: set[tuple[str, str | None]] = set()
    for path in sorted(Path(CONVERSATIONS).glob("*.txt")):
        Router.clear_states()
        room.reply_limit.clear()
        try:
            for mail, result in Transcript(path.name, path.read_text("utf-8")).play():
                if result.refusal is None:
                    address = mail.line.text.split()[-1].partition("@")[0]
                    for move in result.moves:
                        addresses[move][TOKEN.sub("...", address)] = None
                    reached |= {(handler.__module__, handler.__name__) for handler in result.handlers}
        except Difference as difference:
            raise click.ClickException(str(difference)) from difference
    click.echo(mermaid(addresses))
    reached |= {(module, after) for module, _, after in addresses}
    for module, name in handlers():
        if (module, name) not in reached:
            click.secho(f"No mail in {CONVERSATIONS}/ reaches {module}.{name}", fg="yellow", err=True)


def handlers() -> dict[tuple[str, str], Callable[..., object]]:
    """Return `{(module, name): handler}`, in the order of their routes."""
    found = [handler for route in Router.ORDER for handler in Router.REGISTERED[route][1]]
    return {(handler.__module__, handler.__name__): handler for handler in found}


def mermaid(addresses: dict[Move, dict[str, None]]) -> str:
    """Return a state diagram of all handlers, with the moves `{(module, state, next state): addresses}`."""
    lines, known = ["stateDiagram-v2"], handlers()
    for (module, name), handler in known.items():
        state = _identifier(module, name)
        stateless = salmon_setting(handler, "stateless")
        if stateless or name == ROUTE_FIRST_STATE:
            lines.append(f"[*] --> {state} : {_route(handler)}")
        if stateless:
            lines.append(f"{state} --> [*]")
        for other_module, after in known:
            if (module, name, after) in addresses and other_module == module:
                lines.append(f"{state} --> {_identifier(module, after)} : {', '.join(addresses[module, name, after])}")
    return "\n    ".join(lines)


def _route(handler: Callable[..., object]) -> str:
    """Return a route as the handler writes it, without the characters that Mermaid reads as syntax."""
    route: str = salmon_setting(handler, "format")[1:-1]
    for name, pattern in salmon_setting(handler, "captures").items():
        route = route.replace(f"(?P<{name}>{pattern})", f"({name})")
    return route.replace(";", ",").replace("<", "\u2039")


def _identifier(module: str, name: str) -> str:
    alone = [other for _, other in handlers()].count(name) == 1
    return name if alone else f"{module.rpartition('.')[2]}_{name}"
