#!/usr/bin/env python3
"""What an operator needs: run `python operate.py --help`."""

import click

from operations.check import check
from operations.diagram import diagram
from operations.states import states
from operations.talk import talk


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
def operate():
    """Look at the conversations of this application, try them out, and mend them."""


operate.add_command(check)
operate.add_command(diagram)
operate.add_command(states)
operate.add_command(talk)

if __name__ == "__main__":
    operate()
