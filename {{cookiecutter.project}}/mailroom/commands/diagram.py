"""`operate.py diagram`: draw the conversations for Mermaid."""

import re
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path

import click
from salmon.routing import ROUTE_FIRST_STATE, Router, salmon_setting

from mailroom.commands.booted import boot
from mailroom.testing import Move
from mailroom.testing.transcript import Transcript

CONVERSATIONS = "tests/conversations"
TOKEN = re.compile(r"(?=[a-z]*\d)[a-z0-9]{10,}")
Place = tuple[str, str]  # module and name of a handler


@click.command()
def diagram() -> None:
    """Print the conversations as a state diagram for Mermaid.

    This plays tests/conversations/ in memory, and draws the routes of the handlers and each change of a state. It
    names on stderr the handlers that no mail reaches.

    \b
    python operate.py diagram > states.mmd
    """
    room = boot("config.testing").room
    routed = [handler for route in Router.ORDER for handler in Router.REGISTERED[route][1]]
    handlers = {(handler.__module__, handler.__name__): handler for handler in routed}
    addresses: dict[Move, dict[str, None]] = defaultdict(dict)
    reached: set[tuple[str, str | None]] = set()
    for path in sorted(Path(CONVERSATIONS).glob("*.txt")):
        Router.clear_states()
        room.reply_limit.clear()
        for mail, result in Transcript(path.name, path.read_text("utf-8")).play():
            if result.refusal is None:
                reached |= {(handler.__module__, handler.__name__) for handler in result.handlers}
                address = mail.text.split()[-1].partition("@")[0]
                for module, state, after in result.moves:
                    addresses[module, state, after][TOKEN.sub("...", address)] = None
                    reached.add((module, after))
    click.echo(mermaid(handlers, addresses))
    for module, name in handlers:
        if (module, name) not in reached:
            click.secho(f"No mail in {CONVERSATIONS}/ reaches {module}.{name}", fg="yellow", err=True)


def mermaid(handlers: dict[Place, Callable[..., object]], addresses: dict[Move, dict[str, None]]) -> str:
    """Return a state diagram of `handlers`, with the moves `{(module, state, next state): addresses}`."""
    names = Counter(name for _, name in handlers)
    states = {
        (module, name): name if names[name] == 1 else f"{module.rpartition('.')[2]}_{name}" for module, name in handlers
    }
    lines = ["stateDiagram-v2"]
    for place, handler in handlers.items():
        is_stateless = salmon_setting(handler, "stateless")
        if is_stateless or place[1] == ROUTE_FIRST_STATE:
            lines.append(f"[*] --> {states[place]} : {_route(handler)}")
        if is_stateless:
            lines.append(f"{states[place]} --> [*]")
        for after in handlers:
            move = (*place, after[1])
            if after[0] == place[0] and move in addresses:
                lines.append(f"{states[place]} --> {states[after]} : {', '.join(addresses[move])}")
    return "\n    ".join(lines)


def _route(handler: Callable[..., object]) -> str:
    """Return a route as the handler writes it, without the characters that Mermaid reads as syntax."""
    route: str = salmon_setting(handler, "format")[1:-1]
    for name, pattern in salmon_setting(handler, "captures").items():
        route = route.replace(f"(?P<{name}>{pattern})", f"({name})")
    return route.replace(";", ",").replace("<", "\u2039")
