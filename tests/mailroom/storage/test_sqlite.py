"""The storage that was picked keeps Salmon's contract, and what its own documentation says."""

import os
import stat

import pytest
from salmon.routing import Router

from app.model.mail_states import MailStates
from app.model.state_storage import SQLiteStorage
from tests.conversation import assert_in_state, receive
from tests.model.booting import boot
from tests.model.mail_states_contract import MailStatesContract
from tests.model.storage_contract import (
    ALICE,
    KEY,
    AnyStringContract,
    KeptStorageContract,
    TurnsContract,
    refused,
)
from tests.trial_list import CONFIRMING


class TestSQLiteStorage(AnyStringContract, KeptStorageContract, TurnsContract, MailStatesContract):
    @pytest.fixture
    def storage(self, tmp_path):
        return SQLiteStorage(tmp_path / "run" / "states.sqlite3")

    @pytest.fixture
    def reopen(self):
        return lambda storage: SQLiteStorage(storage.path)

    @pytest.fixture
    def other(self, storage):
        return SQLiteStorage(storage.path, timeout=0.05, turn_timeout=0.05)

    def test_its_files_are_for_their_owner_only(self, storage):
        storage.set(KEY, ALICE, "SUBSCRIBED")
        folder = os.path.dirname(storage.path)
        assert stat.S_IMODE(os.stat(folder).st_mode) == 0o700
        assert {stat.S_IMODE(file.stat().st_mode) for file in os.scandir(folder)} == {0o600}

    @pytest.mark.parametrize("harm", ["gone", "replaced", "damaged"])
    def test_a_failing_file_makes_the_sending_server_keep_its_mail(self, storage, harm):
        storage.set(KEY, ALICE, "CONFIRMING")
        if harm == "damaged":
            storage.close()
            with open(storage.path, "r+b") as file:
                file.write(b"this is no database" * 500)
        else:
            os.rename(storage.path, storage.path + ".away")
        if harm == "replaced":
            SQLiteStorage(storage.path)
        with refused(451):
            storage.set(KEY, ALICE, "SUBSCRIBED")

    def test_a_stream_of_changes_is_used_once_and_only_when_the_database_is_free(self, storage, other):
        taken = []

        def stream():
            for number in range(3):
                taken.append(number)
                yield KEY, f"{number}@b.example", "SUBSCRIBED"

        with refused(451):
            storage.set_all((other.set_all(stream()), row) for row in stream())
        assert taken == [0]
        assert list(storage) == []
        other.set_all(stream())
        assert len(list(storage)) == 3

    def test_who_is_forgotten_is_not_in_the_file(self, storage):
        storage.set(KEY, ALICE, "SUBSCRIBED")
        storage.set(KEY, ALICE, "START")
        storage.close()
        with open(storage.path, "rb") as file:
            assert b"alice" not in file.read()


def test_a_conversation_with_the_storage_that_was_picked(trial_list, tmp_path, monkeypatch):
    """Tests pin MemoryStorage; this is how to turn the real storage on for one of them."""
    path = tmp_path / "states.sqlite3"
    monkeypatch.setattr(Router, "STATE_STORE", MailStates(SQLiteStorage(path)))

    receive(ALICE, "news-subscribe")

    assert_in_state(CONFIRMING, ALICE)
    assert SQLiteStorage(path).get(KEY, ALICE) == "CONFIRMING"


def test_boot_attaches_the_storage_that_was_picked(tmp_path):
    booted = boot(tmp_path / "states.sqlite3")

    assert f"<SQLiteStorage {tmp_path / 'states.sqlite3'}>" in booted.stdout
    assert "is protected" in booted.stderr
