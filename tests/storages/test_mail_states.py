"""One mail, all or nothing, with any storage."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from salmon.routing import MemoryStorage
from salmon.server import SMTPError

from tests.storages import ALICE, BOB, KEY


@pytest.fixture(params=["memory", "shelve", "sqlite"])
def states(request, mail_states, tmp_path):
    """`MailStates` in front of each storage."""
    if request.param == "memory":
        yield mail_states.MailStates(MemoryStorage())
        return
    module = request.getfixturevalue(request.param)
    kept = module.ShelveStorage if request.param == "shelve" else module.SQLiteStorage
    storage = kept(tmp_path / "run" / "states")
    yield mail_states.MailStates(storage)
    storage.close()


def test_no_conversation_within_a_conversation(states):
    """The states that the outer one sets after it would outlive a failure of its mail."""
    with pytest.raises(ZeroDivisionError), states.conversation(ALICE):
        with pytest.raises(RuntimeError), states.conversation(BOB):
            pass
        states.set(KEY, ALICE, "SUBSCRIBED")
        raise ZeroDivisionError

    assert states.get(KEY, ALICE) == "START"


def test_other_threads_do_not_see_half_a_mail(states):
    with ThreadPoolExecutor(1) as elsewhere:
        with states.conversation(ALICE):
            states.set(KEY, ALICE, "SUBSCRIBED")
            assert states.get(KEY, ALICE) == "SUBSCRIBED"
            assert elsewhere.submit(states.get, KEY, ALICE).result() == "START"
        assert elsewhere.submit(states.get, KEY, ALICE).result() == "SUBSCRIBED"


def test_nothing_of_a_mail_that_failed_is_left_for_the_next(states):
    with pytest.raises(ZeroDivisionError), states.conversation(ALICE):
        states.set(KEY, ALICE, "SUBSCRIBED")
        raise ZeroDivisionError
    assert states.get(KEY, ALICE) == "START"
    with states.conversation(ALICE):
        assert states.get(KEY, ALICE) == "START"
        states.set(KEY, BOB, "CONFIRMING")
    assert [states.get(KEY, ALICE), states.get(KEY, BOB)] == ["START", "CONFIRMING"]


def test_a_mail_that_cannot_be_kept_changes_nothing(states, monkeypatch):
    def fail(*arguments):
        raise SMTPError(451, "4.3.0 The state storage is not available")

    for name in ("set", "set_all"):
        monkeypatch.setattr(states.storage, name, fail, raising=False)
    with pytest.raises(SMTPError), states.conversation(ALICE):
        states.set(KEY, ALICE, "SUBSCRIBED")
        states.set(KEY, BOB, "SUBSCRIBED")
    monkeypatch.undo()

    assert [states.get(KEY, ALICE), states.get(KEY, BOB)] == ["START", "START"]
    with states.conversation(ALICE):
        states.set(KEY, ALICE, "CONFIRMING")
    assert states.get(KEY, ALICE) == "CONFIRMING"


def test_a_mail_that_changes_nothing_writes_nothing(states, monkeypatch):
    states.set(KEY, ALICE, "SUBSCRIBED")
    for name in ("set", "set_all"):
        monkeypatch.setattr(states.storage, name, None, raising=False)
    with states.conversation(ALICE):
        states.get(KEY, ALICE)
        states.set(KEY, ALICE, "CONFIRMING")
        states.set(KEY, ALICE, "SUBSCRIBED")


def test_a_sender_without_states_meets_stateless_handlers_only(states):
    states.set(KEY, ALICE, "SUBSCRIBED")
    states.set(KEY, BOB, "SUBSCRIBED")
    with states.conversation(ALICE, stateless=True):
        assert states.get(KEY, ALICE) is None
        assert states.get(KEY, BOB) == "SUBSCRIBED"
    assert states.get(KEY, ALICE) == "SUBSCRIBED"


def test_one_mail_of_a_sender_at_a_time(states):
    """Each mail goes one step on; of mails that were handled at the same time one would not count."""

    def step(_):
        with states.conversation(ALICE):
            number = int(states.get(KEY, ALICE).removeprefix("START") or 0)
            both_are_here.wait(0.001)
            states.set(KEY, ALICE, str(number + 1))

    both_are_here = threading.Event()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(step, range(40)))
    assert states.get(KEY, ALICE) == "40"
