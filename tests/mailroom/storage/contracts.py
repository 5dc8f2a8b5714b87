"""What the storages of the package promise beyond `mailroom.testing.contract`.

Subclass beside the contract of the storage; the fixtures are the same.
"""

import multiprocessing
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from salmon.routing import ROUTE_FIRST_STATE, Router
from salmon.server import SMTPError

from mailroom.storage.base import MailStates
from mailroom.testing import assert_in_state, receive
from mailroom.testing.contract import (
    ALICE,
    BOB,
    KEY,
    SharedStorageContract,
    StorageContract,
    in_thread,
    locked_get,
    refused,
)
from tests.mailroom import trial_list

FORK = multiprocessing.get_context("fork")


class OurStorageContract(StorageContract):
    """What `mailroom.storage.base.Storage` says. Needs a fixture `reopen`, a function of a storage."""

    def test_its_repr_names_its_class(self, storage):
        assert repr(storage).startswith(f"<{type(storage).__name__} ")

    def test_a_protected_storage_is_not_cleared(self, storage):
        storage.set(KEY, ALICE, "SUBSCRIBED")
        storage.protected = True
        with pytest.raises(RuntimeError, match="config.testing"):
            storage.clear()
        assert storage.get(KEY, ALICE) == "SUBSCRIBED"

    def test_it_can_be_opened_twice_and_used_after_close(self, storage):
        storage.open()
        storage.open()
        storage.set(KEY, ALICE, "SUBSCRIBED")
        storage.close()
        assert storage.get(KEY, ALICE) == "SUBSCRIBED"

    def test_states_are_there_after_a_restart(self, storage, reopen):
        storage.set(KEY, ALICE, "SUBSCRIBED")
        assert reopen(storage).get(KEY, ALICE) == "SUBSCRIBED"

    def test_rows_can_change_during_iteration(self, storage):
        for number in range(5):
            storage.set(KEY, f"{number}@b.example", "SUBSCRIBED")
        seen = []
        for _, sender, _ in storage:
            seen.append(sender)
            storage.set(KEY, sender, ROUTE_FIRST_STATE)
        assert len(seen) == 5
        assert self.rows(storage) == []

    def test_set_all_takes_a_long_stream(self, storage):
        rows = [(KEY, f"{number:04}@b.example", "SUBSCRIBED") for number in range(1100)]
        storage.set_all(iter(rows))
        assert sorted(storage) == rows

    def test_set_all_stores_all_rows_or_none(self, storage):
        def changes():
            yield KEY, ALICE, "SUBSCRIBED"
            for number in range(1100):
                yield KEY, f"{number}@b.example", "SUBSCRIBED"
            raise ZeroDivisionError

        storage.set_all([(KEY, ALICE, "CONFIRMING"), (KEY, BOB, "SUBSCRIBED")])
        with pytest.raises(ZeroDivisionError):
            storage.set_all(changes())
        assert sorted(storage) == [(KEY, ALICE, "CONFIRMING"), (KEY, BOB, "SUBSCRIBED")]

    def test_the_last_row_of_a_sender_counts_in_set_all(self, storage):
        storage.set_all([(KEY, ALICE, "START"), (KEY, ALICE, "ONE"), (KEY, BOB, "ONE"), (KEY, BOB, "START")])
        storage.set_all([])
        assert list(storage) == [(KEY, ALICE, "ONE")]


class OurSharedStorageContract(OurStorageContract, SharedStorageContract):
    """What it says of those that processes share."""

    def test_a_sender_has_one_conversation_at_a_time_among_processes(self, storage, other):
        def child():
            assert locked.wait(60)
            with refused(451):
                locked_get(other, ALICE)

        locked = FORK.Event()
        process = FORK.Process(target=child, daemon=True)
        process.start()
        with storage.conversation(ALICE):
            locked.set()
            process.join(60)
        assert process.exitcode == 0

    def test_a_forked_process_can_use_it(self, storage):
        def child():
            with storage.conversation(BOB):
                storage.set(KEY, BOB, storage.get(KEY, ALICE))

        storage.set(KEY, ALICE, "CONFIRMING")
        process = FORK.Process(target=child, daemon=True)
        process.start()
        process.join(60)
        assert process.exitcode == 0
        assert storage.get(KEY, BOB) == "CONFIRMING"


class AnyStringContract:
    """For storages that hold every string, and no sender at all, as the receiver may hand them over."""

    STRINGS = [
        *StorageContract.STRINGS,
        None,
        "",
        "None",
        "null",
        "caf\u00e9",
        "cafe\u0301",
        "\0",
        "a\0b",
        "a",
        "\ud800",
        "\udfff <j@x.example>",
        "\U0001f41f",
        "\r\n",
        "x" * 3000,
        "\xe4" * 3000,
    ]

    def test_keys_and_states_are_kept_exactly_as_they_are(self, storage):
        strings = [string for string in self.STRINGS if string != ROUTE_FIRST_STATE]
        for string in strings:
            storage.set(string, ALICE, string)
        for string in strings:
            assert storage.get(string, ALICE) == string, string


class MailStatesContract:
    """One mail, all or nothing, with any storage behind."""

    @pytest.fixture
    def states(self, storage):
        return MailStates(storage)

    def test_handlers_find_and_leave_their_states_in_it(self, storage, states, monkeypatch):
        monkeypatch.setattr(Router, "STATE_STORE", states)
        receive(ALICE, "news-subscribe")
        assert_in_state(trial_list.CONFIRMING, ALICE, "news")
        assert storage.get("tests.mailroom.trial_list:news", ALICE) == "CONFIRMING"

    def test_mail_states_have_the_repr_of_their_storage(self, storage, states):
        assert repr(states) == repr(storage)

    def test_other_threads_do_not_see_half_a_mail(self, states):
        with states.conversation(ALICE):
            states.set(KEY, ALICE, "SUBSCRIBED")
            assert states.get(KEY, ALICE) == "SUBSCRIBED"
            assert in_thread(states.get, KEY, ALICE) == "START"
        assert in_thread(states.get, KEY, ALICE) == "SUBSCRIBED"

    def test_a_mail_that_failed_leaves_nothing_for_the_next(self, states):
        with pytest.raises(ZeroDivisionError), states.conversation(ALICE):
            states.set(KEY, ALICE, "SUBSCRIBED")
            raise ZeroDivisionError
        assert states.get(KEY, ALICE) == "START"
        with states.conversation(ALICE):
            assert states.get(KEY, ALICE) == "START"
            states.set(KEY, BOB, "CONFIRMING")
        assert [states.get(KEY, ALICE), states.get(KEY, BOB)] == ["START", "CONFIRMING"]

    def test_a_mail_whose_states_cannot_be_stored_changes_nothing(self, states, monkeypatch):
        def fail(*arguments):
            raise SMTPError(451, "4.3.0 The state storage is not available")

        with monkeypatch.context() as patch:
            for name in ("set", "set_all"):
                patch.setattr(states.storage, name, fail, raising=False)
            with pytest.raises(SMTPError), states.conversation(ALICE):
                states.set(KEY, ALICE, "SUBSCRIBED")
                states.set(KEY, BOB, "SUBSCRIBED")
        assert [states.get(KEY, ALICE), states.get(KEY, BOB)] == ["START", "START"]
        with states.conversation(ALICE):
            states.set(KEY, ALICE, "CONFIRMING")
        assert states.get(KEY, ALICE) == "CONFIRMING"

    def test_a_mail_that_changes_nothing_writes_nothing(self, states, monkeypatch):
        states.set(KEY, ALICE, "SUBSCRIBED")
        for name in ("set", "set_all"):
            monkeypatch.setattr(states.storage, name, None, raising=False)
        with states.conversation(ALICE):
            states.get(KEY, ALICE)
            states.set(KEY, ALICE, "CONFIRMING")
            states.set(KEY, ALICE, "SUBSCRIBED")

    def test_a_sender_without_states_meets_stateless_handlers_only(self, states):
        states.set(KEY, ALICE, "SUBSCRIBED")
        states.set(KEY, BOB, "SUBSCRIBED")
        with states.conversation(ALICE, stateless=True):
            assert states.get(KEY, ALICE) is None
            assert states.get(KEY, BOB) == "SUBSCRIBED"
        assert states.get(KEY, ALICE) == "SUBSCRIBED"

    def test_a_conversation_within_a_conversation_is_refused(self, states):
        """The states that the outer one sets after it would outlive a failure of its mail."""
        with pytest.raises(ZeroDivisionError), states.conversation(ALICE):
            with pytest.raises(RuntimeError), states.conversation(BOB):
                pass
            states.set(KEY, ALICE, "SUBSCRIBED")
            raise ZeroDivisionError
        assert states.get(KEY, ALICE) == "START"

    def test_each_of_many_mails_at_once_goes_one_step_on(self, states):
        """Of mails of one sender that were handled at the same time one would not count."""

        def step(_):
            with states.conversation(ALICE):
                number = int(states.get(KEY, ALICE).removeprefix("START") or 0)
                both_are_here.wait(0.001)
                states.set(KEY, ALICE, str(number + 1))

        both_are_here = threading.Event()
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(step, range(20)))
        assert states.get(KEY, ALICE) == "20"
