"""Run commands in the folder of an application whose `config.boot` leaves the `room` of the tests as it is."""

import ast
import logging
import sys

import pytest
from click.testing import CliRunner
from salmon.routing import MemoryStorage, StateStorage

from mailroom.commands import operate


class WalkableStorage(MemoryStorage):
    """A storage that yields its rows, as each that `config.boot` attaches."""

    def __iter__(self):
        for cell, state in list(self.states.items()):
            yield (*ast.literal_eval(cell), state)


class ThreeMethods(StateStorage):
    """The storage of Salmon's "Writing A State Storage Backend": it does not show its rows."""

    def get(self, key, sender):
        return "START"

    def set(self, key, sender, state):
        pass

    def clear(self):
        pass


@pytest.fixture
def home(room, tmp_path, monkeypatch):
    """The folder of the application."""
    modules = ("config", "config.boot", "config.testing")
    (tmp_path / "config").mkdir()
    for name in ("__init__", "boot", "testing"):
        (tmp_path / "config" / f"{name}.py").touch()
    for module in modules:
        monkeypatch.delitem(sys.modules, module, raising=False)
    for _ in (
        "the folder of operate.py",
        "PYTHONPATH",
    ):  # before the config of the template, for `salmon start` as well
        monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    logging.disable(logging.NOTSET)
    for module in modules:
        sys.modules.pop(module, None)


@pytest.fixture
def run(home):
    """A function: run `operate.py` with these arguments, and return Click's `Result`."""
    return lambda *arguments, **options: CliRunner().invoke(operate, arguments, **options)
