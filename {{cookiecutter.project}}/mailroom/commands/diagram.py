"""`operate.py diagram`: the state machine that the handlers are, as a picture."""

import os
import re
import shutil
from collections import Counter
from pathlib import Path

import click

from operations.keys import split_key
from operations.machine import read_machine

HOME = Path(__file__).parent.parent
BLOCK = re.compile(r"(<!-- diagram -->\n).*?(<!-- /diagram -->)", re.DOTALL)


@click.command()
@click.option("--svg", is_flag=True, help="As SVG, instead of Mermaid.")
@click.option("--counts", is_flag=True, help="Also how many senders are in each state now.")
@click.option("--write", is_flag=True, help="Into states.mmd and the README, which a test compares with the code.")
def diagram(svg, counts, write):
    """Draw the state machine of the handlers: their routes, their states, and which state returns which.

    It is read from the code of the handlers. What cannot be read there is named on stderr.

    \b
    python operate.py diagram --write
    python operate.py diagram --svg --counts > states.svg
    """
    if write and (svg or counts):
        raise click.UsageError("--write keeps the picture as Mermaid and without numbers; leave out --svg and --counts")
    os.chdir(HOME)
    if counts:
        from operations.attach import attached

        numbers = count(attached())
    else:
        import config.testing  # noqa: F401

        numbers = None
    machine = read_machine()
    for line in machine.wrong + machine.unread:
        click.secho(f"not drawn: {line}", fg="yellow", err=True)
    if write:
        try:
            readme = in_readme(Path("README.md").read_text("utf-8"), machine)
            rewrite(Path("states.mmd"), mermaid(machine))
            rewrite(Path("README.md"), readme)
        except OSError as error:
            raise click.ClickException(f"--write cannot write the picture: {error}") from error
    elif svg:
        from operations.svg import draw

        click.echo(draw(machine, numbers), nl=False)
    else:
        click.echo(mermaid(machine, numbers), nl=False)


def rewrite(path, text):
    """Write a file anew, all of it or nothing."""
    new = path.with_name(f"{path.name}.new")
    try:
        new.write_text(text, "utf-8")
        if path.exists():
            shutil.copymode(path, new)
        os.replace(new, path)
    finally:
        new.unlink(missing_ok=True)


def mermaid(machine, counts=None):
    """Return a `Machine` in Mermaid's language; `counts` are numbers of senders by `(module, name)`."""
    lines = ["stateDiagram-v2"]
    for module in machine.modules():
        lines.append(f"    %% {module}")
        for state in machine.in_module(module):
            name = _identifier(machine.title(state))
            title = machine.title(state) + machine.number(state, counts)
            if title != name:
                lines.append(f"    {name} : {_text(title)}")
            if machine.is_entry(state):
                lines.append(f"    [*] --> {name} : {_text(state.route)}")
            for target in state.moves:
                label = machine.label(state, target)
                to = _identifier(machine.title(machine.states[target]))
                lines.append(f"    {name} --> {to}" + (f" : {_text(label)}" if label else ""))
            if state.stateless:
                lines.append(f"    {name} --> [*]")
    return "\n".join(lines) + "\n"


def in_readme(text, machine):
    """Return the text of a README with the diagram between `<!-- diagram -->` and `<!-- /diagram -->`."""
    return BLOCK.sub(lambda block: f"{block[1]}```mermaid\n{mermaid(machine)}```\n{block[2]}", text)


def count(rows):
    """Return how many of the `(key, sender, state)` rows are in each state, by `(module, name)`."""
    return Counter((split_key(key)[0], state) for key, _, state in rows)


def _identifier(title):
    return re.sub(r"\W", "_", title)


def _text(label):
    """Return a label for Mermaid, which would end it at `;` and take `<` for a tag."""
    return label.replace(";", ",").replace("<", "\u2039")
