"""The storage that was picked keeps Salmon's contract, as far as a shelf goes."""

import dbm
import subprocess
import sys

import pytest
from salmon.routing import Router

from app.model.mail_states import MailStates
from app.model.state_storage import ShelveStorage
from tests.conversation import assert_in_state, receive
from tests.model.booting import boot
from tests.model.mail_states_contract import MailStatesContract
from tests.model.storage_contract import ALICE, BOB, KEY, KeptStorageContract, refused
from tests.trial_list import CONFIRMING


class TestShelveStorage(KeptStorageContract, MailStatesContract):
    @pytest.fixture
    def storage(self, tmp_path):
        storage = ShelveStorage(tmp_path / "run" / "states")
        yield storage
        storage.close()

    @pytest.fixture
    def reopen(self):
        def reopen(storage):
            storage.close()
            storage.__init__(storage.database_path)
            return storage

        return reopen

    def test_a_key_that_is_not_ascii_is_refused_for_good(self, storage):
        with refused(554):
            storage.set("caf\u00e9", ALICE, "SUBSCRIBED")
        storage.set(KEY, ALICE, "SUBSCRIBED")
        assert storage.get(KEY, ALICE) == "SUBSCRIBED"

    def test_a_shelf_that_has_gone_is_not_an_empty_one(self, storage, tmp_path):
        storage.set(KEY, ALICE, "CONFIRMING")
        (tmp_path / "run").rename(tmp_path / "away")
        (tmp_path / "run").mkdir()
        for call in (lambda: storage.get(KEY, ALICE), lambda: storage.set(KEY, ALICE, "SUBSCRIBED")):
            with refused(451):
                call()
        assert list((tmp_path / "run").iterdir()) == []

    def test_a_damaged_state_makes_the_sending_server_keep_its_mail(self, storage):
        cell = storage.key(KEY.encode("ascii"), ALICE).encode()
        for damaged in (b"", b"no pickle", b"cno_module\nname\n."):
            with dbm.open(storage.database_path, "w") as shelf:
                shelf[cell] = damaged
            with refused(451):
                storage.get(KEY, ALICE)

    def test_changes_are_taken_back_when_a_later_one_fails(self, storage):
        storage.set_all([(KEY, ALICE, "CONFIRMING"), (KEY, BOB, "SUBSCRIBED")])
        with refused(554):
            storage.set_all(
                [(KEY, ALICE, "SUBSCRIBED"), (KEY, "new", "SUBSCRIBED"), ("caf\u00e9", ALICE, "SUBSCRIBED")]
            )
        assert sorted(storage) == [(KEY, ALICE, "CONFIRMING"), (KEY, BOB, "SUBSCRIBED")]

    def test_a_second_process_is_refused(self, storage):
        program = f"from app.model.state_storage import ShelveStorage; ShelveStorage({storage.database_path!r})"
        second = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
        assert second.returncode == 1
        assert "a shelf is for one process" in second.stderr


def test_a_conversation_with_the_storage_that_was_picked(trial_list, tmp_path, monkeypatch):
    """Tests pin MemoryStorage; this is how to turn the real storage on for one of them."""
    storage = ShelveStorage(tmp_path / "states")
    monkeypatch.setattr(Router, "STATE_STORE", MailStates(storage))

    receive(ALICE, "news-subscribe")

    assert_in_state(CONFIRMING, ALICE)
    assert list(storage) == [(KEY, ALICE, "CONFIRMING")]


def test_boot_attaches_the_storage_that_was_picked(tmp_path):
    booted = boot(tmp_path / "states")

    assert f"<ShelveStorage {tmp_path / 'states'}>" in booted.stdout
    assert "is protected" in booted.stderr
