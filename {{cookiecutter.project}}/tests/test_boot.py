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
BOOT_AND_TAKE_A_MAIL = f"""
import config.boot
from config import settings
from salmon.routing import Router
settings.room.start()
settings.room.deliver(("127.0.0.1", 0), "{ALICE}", settings.room.address("ask"), b"")
print(Router.STATE_STORE, *Router.STATE_STORE)
Router.clear_states()  # fails: `protected=True`
"""


def boot(folder):
    """Boot the application in a new process, with other handlers and its files in `folder`; return what it prints."""
    (folder / "other_handlers.py").write_text(HANDLERS)
    scheme = "sqlite:///" if "://" in settings.state_database else ""  # needs no server
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent.parent), str(folder)]),
        "TEST_HANDLERS": "other_handlers",
        "TEST_STATE_DATABASE": f"{scheme}{folder}/states",
        "TEST_SECRET_KEY": "only for tests, which run in another folder",
    }
    command = [sys.executable, "-c", BOOT_AND_TAKE_A_MAIL]
    booted = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert "is protected" in booted.stderr, booted.stderr
    return booted.stdout


def test_boot_attaches_a_storage_that_survives_a_restart(tmp_path):
    first, second = boot(tmp_path), boot(tmp_path)

    assert f"{tmp_path}/states>" in first
    assert f"'{ALICE}', 'ASKED')" in first
    assert f"'{ALICE}', 'ANSWERED')" in second


@pytest.mark.parametrize("time", ["first", "second"])
def test_states_are_cleared_before_each_test(time):
    assert Router.STATE_STORE.get("a key", ALICE) == "START"
    Router.STATE_STORE.set("a key", ALICE, "ANOTHER")
