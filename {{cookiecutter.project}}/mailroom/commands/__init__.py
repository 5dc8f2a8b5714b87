"""The commands of `operate.py`. Add your own there with `@operate.command()`; a command calls `boot()` first."""

import click

from mailroom.commands.booted import boot
from mailroom.commands.check import check
from mailroom.commands.diagram import diagram
from mailroom.commands.outbox import outbox
from mailroom.commands.states import states
from mailroom.commands.talk import talk
from mailroom.commands.transfer import backup, restore

__all__ = ["boot", "operate"]


@click.group(
    commands=[backup, check, diagram, outbox, restore, states, talk],
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
def operate() -> None:
    """Inspect, try and repair the application."""
