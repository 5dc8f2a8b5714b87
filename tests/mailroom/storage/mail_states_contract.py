"""One mail, all or nothing, as tests of `MailStates` in front of any storage.

Subclass it beside the contract of the storage; it needs the same fixture `storage`.
"""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from salmon.server import SMTPError

from app.model.mail_states import MailStates
from tests.model.storage_contract import ALICE, BOB, KEY


class MailStatesContract:
    @pytest.fixture
    def states(self, storage):
        return MailStates(storage)

    def test_other_threads_do_not_see_half_a_mail(self, states):
        with ThreadPoolExecutor(1) as elsewhere:
            with states.conversation(ALICE):
                states.set(KEY, ALICE, "SUBSCRIBED")
                assert states.get(KEY, ALICE) == "SUBSCRIBED"
                assert elsewhere.submit(states.get, KEY, ALICE).result() == "START"
            assert elsewhere.submit(states.get, KEY, ALICE).result() == "SUBSCRIBED"

    def test_nothing_of_a_mail_that_failed_is_left_for_the_next(self, states):
        with pytest.raises(ZeroDivisionError), states.conversation(ALICE):
            states.set(KEY, ALICE, "SUBSCRIBED")
            raise ZeroDivisionError
        assert states.get(KEY, ALICE) == "START"
        with states.conversation(ALICE):
            assert states.get(KEY, ALICE) == "START"
            states.set(KEY, BOB, "CONFIRMING")
        assert [states.get(KEY, ALICE), states.get(KEY, BOB)] == ["START", "CONFIRMING"]

    def test_a_mail_that_cannot_be_kept_changes_nothing(self, states, monkeypatch):
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

    def test_no_conversation_within_a_conversation(self, states):
        """The states that the outer one sets after it would outlive a failure of its mail."""
        with pytest.raises(ZeroDivisionError), states.conversation(ALICE):
            with pytest.raises(RuntimeError), states.conversation(BOB):
                pass
            states.set(KEY, ALICE, "SUBSCRIBED")
            raise ZeroDivisionError
        assert states.get(KEY, ALICE) == "START"

    def test_each_mail_goes_one_step_on(self, states):
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
