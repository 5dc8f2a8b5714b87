"""`operate.py diagram`: the conversations as a picture."""

import re
from collections import defaultdict
from pathlib import Path

import click
from salmon.routing import ROUTE_FIRST_STATE, Router, salmon_setting

from mailroom.commands.booted import boot
from mailroom.testing.transcript import MAIL, Difference, Transcript

CONVERSATIONS = "tests/conversations"
TOKEN = re.compile(r"(?=[a-z]*\d)[a-z0-9]{10,}")
MAX_TEXT = 40  # characters


@click.command()
def diagram():
    """Print the conversations as a state diagram for Mermaid.

    It has the routes of the handlers, and the moves that are seen while the mails of tests/conversations/ are
    played in memory. Handlers that none of them reaches are named on stderr.

    \b
    python operate.py diagram > states.mmd
    """
    room = boot("config.testing").room
    moves, reached = [], set()
    for path in sorted(Path(CONVERSATIONS).glob("*.txt")):
        Router.clear_states()
        room.reply_limit.clear()
        try:
            for mail, result in Transcript(path.name, path.read_text("utf-8")).play():
                if result.refusal is None:
                    moves += [(*move, *_address_and_text(mail)) for move in result.moves]
                    reached |= {(handler.__module__, handler.__name__) for handler in result.handlers}
        except Difference as difference:
            raise click.ClickException(str(difference)) from difference
    click.echo(mermaid(moves))
    reached |= {(module, after) for module, _, after, *_ in moves}
    for module, name in handlers():
        if (module, name) not in reached:
            click.secho(f"No mail in {CONVERSATIONS}/ reaches {module}.{name}", fg="yellow", err=True)


def handlers():
    """Return `{(module, name): handler}`, in the order of their routes."""
    found = [handler for route in Router.ORDER for handler in Router.REGISTERED[route][1]]
    return {(handler.__module__, handler.__name__): handler for handler in found}


def mermaid(moves):
    """Return all handlers and the `moves`, `(module, state, next state, address, text)`, as a state diagram."""
    lines, labels, known = ["stateDiagram-v2"], _labels(moves), handlers()
    for (module, name), handler in known.items():
        state = _identifier(module, name)
        stateless = salmon_setting(handler, "stateless")
        if stateless or name == ROUTE_FIRST_STATE:
            lines.append(f"[*] --> {state} : {_plain(_route(handler))}")
        if stateless:
            lines.append(f"{state} --> [*]")
        for other_module, after in known:
            if (module, name, after) in labels and other_module == module:
                label = ", ".join(labels[module, name, after])
                lines.append(f"{state} --> {_identifier(module, after)} : {_plain(label)}")
    return "\n    ".join(lines)


def _labels(moves):
    """Return `{(module, state, next state): addresses}`; a text is added where an address leads to several states."""
    leads_to, labels = defaultdict(set), defaultdict(dict)
    for module, state, after, address, _ in moves:
        leads_to[module, state, address].add(after)
    for module, state, after, address, text in moves:
        is_clear = not text or len(leads_to[module, state, address]) == 1
        labels[module, state, after][address if is_clear else f"{address} '{text}'"] = None
    return labels


def _address_and_text(mail):
    """Return to whom a mail of a transcript goes, without domain and tokens, and the first that it says."""
    address = TOKEN.sub("...", MAIL.fullmatch(mail.line.text)[2].partition("@")[0])
    text = next((line.text.strip() for line in mail.line.below if line.text.strip()), "")
    return address, text.removeprefix("Subject: ")[:MAX_TEXT]


def _route(handler):
    """Return a route as it is written in the handler."""
    route = salmon_setting(handler, "format")[1:-1]
    for name, pattern in salmon_setting(handler, "captures").items():
        route = route.replace(f"(?P<{name}>{pattern})", f"({name})")
    return route


def _identifier(module, name):
    alone = [other for _, other in handlers()].count(name) == 1
    return name if alone else f"{module.rpartition('.')[2]}_{name}"


def _plain(label):
    """Return a label without what Mermaid would take for an end or a tag."""
    return label.replace(";", ",").replace("<", "\u2039")
