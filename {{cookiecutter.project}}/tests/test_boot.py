"""States survive a restart, and tests begin without states."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from salmon.routing import Router

from config import settings

ALICE = "alice@people.example"
HANDLERS = """
from salmon.routing import route, route_like

@route("ask@(host)")
def START(message, host):
    return ASKED

@route_like(START)
def ASKED(message, host):
    return ANSWERED

@route_like(START)
def ANSWERED(message, host):
    return START
"""
START_AND_TAKE_A_MAIL = f"""
import config.boot
from config import settings
from salmon.routing import Router
settings.room.start()
settings.room.deliver(("127.0.0.1", 0), "{ALICE}", settings.room.address("ask"), b"")
print(Router.STATE_STORE, *Router.STATE_STORE)
Router.clear_states()
"""


def start(folder):
    """Boot the application with other handlers and with its files in `folder`; return what it prints."""
    (folder / "other_handlers.py").write_text(HANDLERS)
    scheme = "sqlite:///" if "://" in settings.state_database else ""  # needs no server
    left_out = {"PYTEST_VERSION", *map(str.upper, vars(settings))}
    environment = {
        **{name: value for name, value in os.environ.items() if name not in left_out},
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent.parent), str(folder)]),
        "HANDLERS": "other_handlers",
        "STATE_DATABASE": f"{scheme}{folder}/states",
        "SECRET_KEY": "only for tests, which run in another folder",
    }
    command = [sys.executable, "-c", START_AND_TAKE_A_MAIL]
    booted = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert "is protected" in booted.stderr, "it must not be cleared"
    return booted.stdout


def test_boot_attaches_a_storage_that_survives_a_restart(tmp_path):
    first, second = start(tmp_path), start(tmp_path)

    assert f"{tmp_path}/states>" in first
    assert f"'{ALICE}', 'ASKED')" in first
    assert f"'{ALICE}', 'ANSWERED')" in second


@pytest.mark.parametrize("time", ["first", "second"])
def test_states_are_cleared_before_each_test(time):
    assert Router.STATE_STORE.get("a key", ALICE) == "START"
    Router.STATE_STORE.set("a key", ALICE, "ANOTHER")
