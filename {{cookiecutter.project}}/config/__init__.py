"""The configuration of the application; Salmon imports `config.settings` first, then `config.boot`."""

import os
from contextlib import suppress
from pathlib import Path

# Before the first file is made: Salmon's daemon has a umask of 0, so that logs, states and compiled
# code would be open to every user of the machine. Python has made one folder already.
os.umask(0o077)
_compiled = Path(__file__).parent / "__pycache__"
with suppress(FileNotFoundError, PermissionError):  # there is none, or it is root's, as deploy/ has it
    _compiled.chmod(0o700)

# Set by `operate.py`: then `config.boot` puts everything together but the receiver, whose port the server has.
operating = False
