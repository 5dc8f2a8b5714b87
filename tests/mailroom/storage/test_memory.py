"""Salmon's `MemoryStorage`, which tests use, keeps the same contract as the storages of the package."""

import ast

import pytest
from salmon.routing import MemoryStorage

from mailroom.testing.contract import StorageContract
from tests.mailroom.storage.contracts import AnyStringContract, MailStatesContract


class TestMemoryStorage(AnyStringContract, StorageContract, MailStatesContract):
    @pytest.fixture
    def storage(self):
        return MemoryStorage()

    def rows(self, storage):
        return [(*ast.literal_eval(cell), state) for cell, state in storage.states.items()]
