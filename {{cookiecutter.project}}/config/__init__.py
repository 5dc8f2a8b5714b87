"""The configuration. Salmon imports `config.settings` first, then `config.boot`."""

import os
import sys

os.chdir(os.path.dirname(os.path.dirname(__file__)))  # the settings name files relative to the application
sys.path.insert(0, os.getcwd())  # before installed packages with the name app or mailroom

from mailroom import Message as Message  # noqa: E402  for handlers; mailroom tightens the umask of Salmon's daemon
