"""The configuration. Salmon imports `config.settings` first, then `config.boot`."""

import os
from pathlib import Path

from mailroom import Message as Message  # before any file is created: it replaces the daemon's umask, which is 0

os.chdir(Path(__file__).parent.parent)  # the settings name files relative to the application
