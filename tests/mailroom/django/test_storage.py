"""`DjangoStorage` keeps the contract on SQLite, and what its own documentation says."""

import os
import shutil

import pytest
from django.core.management import call_command
from salmon.routing import Router

from mailroom.django.storage import DjangoStorage
from mailroom.testing.contract import ALICE, BOB, KEY, refused
from tests.mailroom.django.conftest import known_as
from tests.mailroom.storage.contracts import OurSharedStorageContract


@pytest.fixture
def storage(database):
    return DjangoStorage(database)


class TestDjangoStorage(OurSharedStorageContract):
    @pytest.fixture
    def reopen(self):
        return lambda storage: DjangoStorage(storage.using)

    @pytest.fixture
    def other(self, storage):
        return DjangoStorage(storage.using, lock_timeout=0.05)

    def test_the_constructor_opens_nothing(self, storage, tmp_path):
        assert repr(storage) == f"<DjangoStorage {tmp_path}/states.sqlite3>"
        assert list(tmp_path.iterdir()) == []
        with storage.transaction(ALICE):
            assert storage.get(KEY, ALICE) == "START"

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


def test_a_database_that_cannot_be_used_ends_the_start_in_one_line_without_the_password(room, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with known_as("server", "postgresql://mail:mysecret@127.0.0.1:1/states"):
        Router.STATE_STORE = DjangoStorage("server")
        with pytest.raises(SystemExit) as ended:
            room.start()

    line = ended.value.code
    assert line.startswith("ERROR: STATE_DATABASE <DjangoStorage states on 127.0.0.1:1> cannot be used: ")
    assert "refused" in line
    assert "\n" not in line
    assert "mysecret" not in line


def test_the_migrations_are_those_of_the_model(database):
    call_command("makemigrations", "mail_states", check=True, dry_run=True, verbosity=0)
