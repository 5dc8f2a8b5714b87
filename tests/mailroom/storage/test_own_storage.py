"""A storage that somebody writes, the shortest one, keeps the contract by what its base class does."""

import threading

import pytest
from salmon.routing import ROUTE_FIRST_STATE

from mailroom.storage import Storage
from mailroom.testing.contract import TransactionContract


class DictionaryStorage(Storage):
    """States in a dictionary."""

    def __init__(self):
        self.states = {}
        self.one_mail = threading.RLock()

    def clear(self):
        self.states.clear()

    def read(self, key, sender):
        return self.states.get((key, sender), ROUTE_FIRST_STATE)

    def rows(self):
        return [(*cell, state, None) for cell, state in self.states.items()]

    def lock(self, here):
        return self.one_mail

    def commit(self, here):
        for key, sender, state in here.changes():
            self.states[key, sender] = state
            if state == ROUTE_FIRST_STATE:
                del self.states[key, sender]

    def rollback(self, here):
        pass


class TestDictionaryStorage(TransactionContract):
    @pytest.fixture
    def storage(self):
        return DictionaryStorage()
