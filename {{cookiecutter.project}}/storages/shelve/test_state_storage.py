"""The storage that was picked keeps Salmon's contract, as far as a shelf goes."""

import subprocess
import sys

import pytest
from salmon.routing import Router
from salmon.server import SMTPError

from app.handlers.subscription import CONFIRMING
from app.model.mail_states import MailStates
from app.model.state_storage import ShelveStorage
from tests.conversation import assert_in_state, receive
from tests.model.booting import boot
from tests.model.storage_contract import ALICE, KEY, KeptStorageContract


class TestShelveStorage(KeptStorageContract):
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
        with pytest.raises(SMTPError) as refused:
            storage.set("caf\u00e9", ALICE, "SUBSCRIBED")
        assert refused.value.code == 554
        storage.set(KEY, ALICE, "SUBSCRIBED")
        assert storage.get(KEY, ALICE) == "SUBSCRIBED"

    def test_many_changes_are_kept_together_or_taken_back(self, storage):
        storage.set_all([(KEY, ALICE, "CONFIRMING"), (KEY, "bob@people.example", "SUBSCRIBED")])
        with pytest.raises(SMTPError):
            storage.set_all(
                [(KEY, ALICE, "SUBSCRIBED"), (KEY, "new", "SUBSCRIBED"), ("caf\u00e9", ALICE, "SUBSCRIBED")]
            )
        assert sorted(storage) == [(KEY, ALICE, "CONFIRMING"), (KEY, "bob@people.example", "SUBSCRIBED")]

    def test_a_second_process_is_refused(self, storage):
        program = f"from app.model.state_storage import ShelveStorage; ShelveStorage({storage.database_path!r})"
        second = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
        assert second.returncode == 1
        assert "a shelf is for one process" in second.stderr


def test_a_conversation_with_the_storage_that_was_picked(tmp_path, monkeypatch):
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
