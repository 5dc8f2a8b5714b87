#!/usr/bin/env python3
"""Django's commands for the states and their pages; run `python webapp/manage.py help`."""

import os
import sys
from pathlib import Path

from django.core.management import execute_from_command_line

if __name__ == "__main__":
    # The application's folder instead of this one, so that `webapp.mail_states` has no second name.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "webapp.settings")
    execute_from_command_line(sys.argv)
