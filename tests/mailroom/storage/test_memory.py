"""Salmon's `MemoryStorage`, which tests use, keeps the same contract as the storages of the package."""

import ast

import pytest
from salmon.routing import MemoryStorage

from mailroom.storage.joined import JoinedStorage
from tests.mailroom.storage.contracts import AnyStringContract, OurTablesContract


class TestMemoryStorage(AnyStringContract, OurTablesContract):
    @pytest.fixture
    def storage(self):
        return JoinedStorage(MemoryStorage())

    def rows(self, storage):
        return [(*ast.literal_eval(cell), state) for cell, state in storage.states.states.items() if state != "START"]
