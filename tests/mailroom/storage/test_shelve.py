"""`ShelveStorage` keeps the contract as far as a shelf goes, and what its own documentation says."""

import dbm
import subprocess
import sys

import pytest

from mailroom.storage.shelve import ShelveStorage
from mailroom.testing.contract import ALICE, BOB, KEY, refused
from tests.mailroom.storage import ENVIRONMENT
from tests.mailroom.storage.contracts import OurStorageContract, OurTablesContract


class TestShelveStorage(OurStorageContract, OurTablesContract):
    test_a_reader_does_not_see_half_a_mail_and_does_not_wait_for_it = None  # there is one mail at a time

    @pytest.fixture
    def storage(self, tmp_path):
        storage = ShelveStorage(tmp_path / "run" / "states")
        yield storage
        storage.close()

    @pytest.fixture
    def reopen(self):
        def reopen(storage):
            storage.close()
            return ShelveStorage(storage.path)

        return reopen

    def test_the_constructor_opens_nothing(self, storage, tmp_path):
        assert list(tmp_path.iterdir()) == []
        ShelveStorage(storage.path)
        storage.open()
        with refused(451):
            ShelveStorage(storage.path).open()
        storage.close()
        ShelveStorage(storage.path).open()

    def test_a_key_that_is_not_ascii_is_refused_for_good(self, storage):
        with refused(554):
            storage.set("caf\u00e9", ALICE, "SUBSCRIBED")
        storage.set(KEY, ALICE, "SUBSCRIBED")
        assert storage.get(KEY, ALICE) == "SUBSCRIBED"

    @pytest.mark.parametrize("is_closed", [False, True])
    def test_a_shelf_that_has_gone_is_not_an_empty_one(self, storage, tmp_path, is_closed):
        storage.set(KEY, ALICE, "CONFIRMING")
        if is_closed:
            storage.close()
        (tmp_path / "run").rename(tmp_path / "away")
        (tmp_path / "run").mkdir()
        for call in (lambda: storage.get(KEY, ALICE), lambda: storage.set(KEY, ALICE, "SUBSCRIBED")):
            with refused(451):
                call()
        assert {file.suffix for file in (tmp_path / "run").iterdir()} <= {".lock"}

    def test_a_damaged_state_makes_the_sending_server_keep_its_mail(self, storage):
        storage.open()
        cell = storage.states.key(KEY.encode("ascii"), ALICE).encode()
        for damaged in (b"", b"no pickle", b"cno_module\nname\n."):
            with dbm.open(storage.path, "w") as shelf:
                shelf[cell] = damaged
            with refused(451):
                storage.get(KEY, ALICE)

    def test_set_all_takes_changes_back_when_a_later_one_fails(self, storage):
        storage.set_all([(KEY, ALICE, "CONFIRMING"), (KEY, BOB, "SUBSCRIBED")])
        with refused(554):
            storage.set_all(
                [(KEY, ALICE, "SUBSCRIBED"), (KEY, "new", "SUBSCRIBED"), ("caf\u00e9", ALICE, "SUBSCRIBED")]
            )
        assert sorted(storage) == [(KEY, ALICE, "CONFIRMING"), (KEY, BOB, "SUBSCRIBED")]

    def test_a_second_process_is_refused(self, storage):
        storage.open()
        program = f"from mailroom.storage.shelve import ShelveStorage; ShelveStorage({storage.path!r}).open()"
        second = subprocess.run([sys.executable, "-c", program], env=ENVIRONMENT, capture_output=True, text=True)
        assert second.returncode == 1
        assert "a shelf is for one process" in second.stderr
        assert "451 4.3.0 The state storage is not available" in second.stderr
