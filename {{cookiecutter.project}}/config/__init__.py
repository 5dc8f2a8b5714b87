"""The configuration. Salmon imports `config.settings` first, then `config.boot`."""

import os
from pathlib import Path

import mailroom  # noqa: F401  before any file is created: it replaces the umask of Salmon's daemon, which is 0

os.chdir(Path(__file__).parent.parent)  # the settings name files relative to the application
