"""`MemoryStorage`, which the tests pin, keeps the same contract as the storage that was picked."""

import ast

import pytest
from salmon.routing import MemoryStorage

from tests.model.mail_states_contract import MailStatesContract
from tests.model.storage_contract import AnyStringContract, StorageContract


class TestMemoryStorage(AnyStringContract, StorageContract, MailStatesContract):
    @pytest.fixture
    def storage(self):
        return MemoryStorage()

    def rows(self, storage):
        return [(*ast.literal_eval(cell), state) for cell, state in storage.states.items()]
