"""The configuration. Salmon imports `config.settings` first, then `config.boot`."""

import os
import sys

os.chdir(os.path.dirname(os.path.dirname(__file__)))  # the settings name files relative to the application
sys.path.insert(0, os.getcwd())  # before installed packages that are called app or mailroom

from mailroom import Message as Message  # noqa: E402  before any file is created: Salmon's daemon has a umask of 0
