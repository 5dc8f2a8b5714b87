#!/usr/bin/env python3
"""What an operator needs: run `python operate.py --help`."""

import os
from pathlib import Path

import click

from operations.talk import talk


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
def operate():
    """Look at the conversations of this application, try them out, and mend them."""
    # Paths in the settings are relative to the application, wherever it is operated from.
    os.chdir(Path(__file__).parent)


operate.add_command(talk)

if __name__ == "__main__":
    operate()
