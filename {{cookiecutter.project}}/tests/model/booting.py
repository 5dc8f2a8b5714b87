"""The application in a process of its own, put together by `config.boot` as for `salmon start`."""

import os
import subprocess
import sys

BOOT = "import config.boot; from salmon.routing import Router; print(Router.STATE_STORE); Router.clear_states()"


def boot(state_database):
    """Return the process that has attached the storage, printed it, and was then to clear it."""
    return run(state_database, "-c", BOOT)


def run(state_database, *arguments):
    """Return the process, ended, of Python with these arguments; its states are in `state_database`."""
    environment = {
        **os.environ,
        "STATE_DATABASE": str(state_database),
        "SECRET_KEY": "only for tests, and long enough for them",
        "RECEIVER_PORT": "0",
    }
    return subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, text=True)
