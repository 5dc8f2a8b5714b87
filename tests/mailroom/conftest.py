"""A `Mailroom` with the handlers of `trial_list`, new for every test, and programs in processes of their own."""

import os
import re
import shutil
import sys
from copy import deepcopy
from types import SimpleNamespace
from unittest.mock import patch

import pytest
import salmon.utils
from salmon import view
from salmon.routing import MemoryStorage, Router

from mailroom import Mailroom
from mailroom.storage import locks, watch
from mailroom.testing import Outbox
from tests import baking, warm
from tests.mailroom.storage import ENVIRONMENT, PROGRAMS

NAME = "tests.mailroom.trial_list"
ROUTES = {"REGISTERED": {}, "ORDER": [], "HANDLERS": {}, "DEFAULT_CAPTURES": {"host": re.escape("example.com")}}
with patch.multiple(Router, **ROUTES):
    from tests.mailroom import trial_list


@pytest.fixture(autouse=True)
def no_open_files():
    """Close the files that the watch and the locks keep open until their process ends: here it has hundreds of databases."""
    yield
    if not any(watch._users.values()) and not locks._held:
        for files in (watch._descriptors, locks._files):
            while files:
                os.close(files.popitem()[1])


@pytest.fixture(autouse=True)
def room():
    """The `Mailroom` that the package finds: its relay is an `Outbox`, its storage a new `MemoryStorage`."""
    flags = {name: getattr(Router, name) for name in ("RELOAD", "LOG_EXCEPTIONS", "UNDELIVERABLE_QUEUE")}
    with (
        patch.multiple(Router, **deepcopy(ROUTES), STATE_STORE=MemoryStorage(), **flags),
        patch.object(view, "LOADER", view.LOADER),
        patch.object(salmon.utils, "settings", SimpleNamespace(relay=Outbox(), receiver=None)) as settings,
    ):
        settings.room = Mailroom(
            settings.relay,
            domain=trial_list.DOMAIN,
            templates="tests.mailroom/templates",
            secret_key="only for tests",
        )
        settings.room.load([NAME])
        yield settings.room


@pytest.fixture
def sent(room):
    """What the application sent: a list of `mailroom.relay.Envelope`s."""
    return room.relay.sent


@pytest.fixture
def path(tmp_path):
    """Where a storage may create its file; the folder is not there yet."""
    return tmp_path / "run" / "states.sqlite3"


@pytest.fixture(scope="session")
def package(tmp_path_factory):
    """A folder with a compiled copy of the package, which each program would need to compile."""
    folder = tmp_path_factory.mktemp("package")
    shutil.copytree(baking.APPLICATION / "mailroom", folder / "mailroom")
    baking.add_compiled_package(folder)
    return folder


@pytest.fixture
def start(path, package):
    """A function: start a program of `programs.py` in a process of its own, killed at the end of the test.

    It uses the storage at its `path`, a file or a URL, by default that of the fixture `path`.
    """
    started, default = [], path

    def start(program, *arguments, path=None):
        command = [sys.executable, str(PROGRAMS), program, str(path or default), *map(str, arguments)]
        started.append(warm.Program(command, package, {**ENVIRONMENT, "PYTHONPATH": str(package)}))
        return started[-1]

    yield start
    for process in started:
        process.close()
