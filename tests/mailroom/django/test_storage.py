"""The storage that was picked keeps Salmon's contract, and what its own documentation says."""

import os
import shutil

import pytest
from django.db import connections
from salmon.routing import Router

from app.model.mail_states import MailStates
from app.model.state_storage import DjangoStorage
from tests.conversation import assert_in_state, receive
from tests.model.booting import boot, run
from tests.model.mail_states_contract import MailStatesContract
from tests.model.storage_contract import ALICE, BOB, KEY, KeptStorageContract, TurnsContract, refused
from tests.trial_list import CONFIRMING
from webapp import settings as webapp


@pytest.fixture
def database(tmp_path):
    """The name by which Django knows a new SQLite database."""
    name = str(tmp_path / "states.sqlite3")
    connections.settings.update(connections.configure_settings({"default": {}, name: webapp.database(name)}))
    yield name
    connections[name].close()


@pytest.fixture
def storage(database):
    return DjangoStorage(database)


class TestDjangoStorage(KeptStorageContract, TurnsContract, MailStatesContract):
    @pytest.fixture
    def reopen(self):
        return lambda storage: DjangoStorage(storage.using)

    @pytest.fixture
    def other(self, storage):
        return DjangoStorage(storage.using, turn_timeout=0.05)

    @pytest.mark.parametrize("sender", [None, "a\0b", "\ud800", "a" * 401])
    def test_a_sender_that_no_database_holds_is_refused_for_good(self, storage, sender):
        for call in (lambda: storage.get(KEY, sender), lambda: storage.set(KEY, sender, "SUBSCRIBED")):
            with refused(554):
                call()

    def test_a_failing_database_makes_the_sending_server_keep_its_mail(self, storage):
        storage.set(KEY, ALICE, "CONFIRMING")
        storage.close()
        with open(storage.using, "r+b") as file:
            file.write(b"this is no database" * 500)
        for call in (lambda: storage.get(KEY, ALICE), lambda: storage.set(KEY, ALICE, "SUBSCRIBED")):
            with refused(451):
                call()

    @pytest.mark.parametrize("is_open", [True, False])
    def test_a_file_that_has_gone_is_not_an_empty_storage(self, storage, is_open):
        storage.set(KEY, ALICE, "CONFIRMING")
        if not is_open:
            storage.close()
        os.rename(storage.using, f"{storage.using}.away")
        for call in (lambda: storage.get(KEY, ALICE), lambda: storage.set(KEY, ALICE, "SUBSCRIBED")):
            with refused(451):
                call()
        assert not os.path.exists(storage.using)
        os.rename(f"{storage.using}.away", storage.using)
        assert list(storage) == [(KEY, ALICE, "CONFIRMING")]

    def test_a_file_that_was_replaced_is_noticed_before_a_write_is_lost(self, storage):
        storage.set(KEY, ALICE, "CONFIRMING")
        storage.close()
        backup = shutil.copy(storage.using, f"{storage.using}.backup")
        assert storage.get(KEY, ALICE) == "CONFIRMING"
        os.replace(backup, storage.using)
        with refused(451):
            storage.set(KEY, BOB, "SUBSCRIBED")
        storage.set(KEY, BOB, "SUBSCRIBED")
        assert list(DjangoStorage(storage.using)) == [(KEY, ALICE, "CONFIRMING"), (KEY, BOB, "SUBSCRIBED")]


def test_a_conversation_with_the_storage_that_was_picked(trial_list, storage, monkeypatch):
    """Tests pin MemoryStorage; this is how to turn the real storage on for one of them."""
    monkeypatch.setattr(Router, "STATE_STORE", MailStates(storage))

    receive(ALICE, "news-subscribe")

    assert_in_state(CONFIRMING, ALICE)
    assert list(storage) == [(KEY, ALICE, "CONFIRMING")]


def test_boot_attaches_the_storage_that_was_picked(tmp_path):
    booted = boot(tmp_path / "states.sqlite3")

    assert f"<DjangoStorage {tmp_path / 'states.sqlite3'}>" in booted.stdout
    assert "is protected" in booted.stderr


def test_the_pages_are_well(tmp_path):
    """Django's own way to test, with a database of its own; see `webapp/mail_states/tests.py`."""
    tested = run(tmp_path / "states.sqlite3", "webapp/manage.py", "test", "webapp")

    assert tested.returncode == 0, tested.stderr


def test_the_migrations_are_those_of_the_model(tmp_path):
    checked = run(tmp_path / "states.sqlite3", "webapp/manage.py", "makemigrations", "--check", "--dry-run")

    assert checked.returncode == 0, checked.stdout + checked.stderr
