"""What Salmon asks of a state storage, as tests that any storage can be plugged into.

Subclass the classes that fit, name the subclass `Test...`, and give it a fixture `storage`.
"""

import multiprocessing
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
from salmon.routing import ROUTE_FIRST_STATE
from salmon.server import SMTPError

KEY = "tests.trial_list:news"
ALICE = "alice@people.example"
BOB = "bob@people.example"
FORK = multiprocessing.get_context("fork")


@contextmanager
def refused(code):
    """See that the mail is refused with `code` within the block: 451 for now, 554 for good."""
    with pytest.raises(SMTPError) as refusal:
        yield
    assert refusal.value.code == code


def take_turn(storage, sender):
    """Return the state that `sender` has in a conversation."""
    with storage.conversation(sender):
        return storage.get(KEY, sender)


def elsewhere(work, *arguments):
    """Return `work(*arguments)`, done in a thread of its own."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(work, *arguments).result()


def start(child):
    """Run `child()` in a process that is forked from this one; return the process."""
    process = FORK.Process(target=child, daemon=True)
    process.start()
    return process


def ends_well(process):
    """Wait until the process ends, and tell whether nothing was raised in it."""
    process.join(60)
    return process.exitcode == 0


class StorageContract:
    """`get`, `set` and `clear` as `salmon.routing.MemoryStorage` has them, for the strings any storage holds."""

    STRINGS = ["a@b.example", "A@b.example", "a@b.example ", "'", '"', "\\", "%s", "?", " ", "a" * 254, "; DROP x;"]

    def rows(self, storage):
        """Return all `(key, sender, state)` rows."""
        return list(storage)

    def test_a_stranger_is_at_the_start(self, storage):
        assert storage.get(KEY, ALICE) == ROUTE_FIRST_STATE

    def test_what_was_set_is_what_is_got(self, storage):
        storage.set(KEY, ALICE, "CONFIRMING")
        storage.set(KEY, ALICE, "SUBSCRIBED")
        assert storage.get(KEY, ALICE) == "SUBSCRIBED"

    def test_a_stranger_is_not_remembered_by_being_asked_for(self, storage):
        storage.get(KEY, ALICE)
        assert self.rows(storage) == []

    def test_the_start_forgets(self, storage):
        storage.set(KEY, ALICE, "SUBSCRIBED")
        storage.set(KEY, ALICE, ROUTE_FIRST_STATE)
        assert storage.get(KEY, ALICE) == ROUTE_FIRST_STATE
        assert self.rows(storage) == []

    def test_forgetting_a_stranger_is_nothing(self, storage):
        storage.set(KEY, ALICE, ROUTE_FIRST_STATE)
        assert storage.get(KEY, ALICE) == ROUTE_FIRST_STATE

    def test_keys_and_senders_are_kept_apart(self, storage):
        storage.set("a", "bc", "ONE")
        storage.set("ab", "c", "TWO")
        storage.set("bc", "a", "THREE")
        assert [storage.get("a", "bc"), storage.get("ab", "c"), storage.get("bc", "a")] == ["ONE", "TWO", "THREE"]
        assert storage.get("c", "ab") == ROUTE_FIRST_STATE

    def test_clear_forgets_everything(self, storage):
        for sender in self.STRINGS:
            storage.set(KEY, sender, "SUBSCRIBED")
        storage.clear()
        assert {storage.get(KEY, sender) for sender in self.STRINGS} == {ROUTE_FIRST_STATE}

    def test_senders_are_kept_exactly_as_they_are(self, storage):
        for number, sender in enumerate(self.STRINGS):
            storage.set(KEY, sender, f"STATE_{number}")
        for number, sender in enumerate(self.STRINGS):
            assert storage.get(KEY, sender) == f"STATE_{number}", sender

    def test_setting_again_does_not_double_a_row(self, storage):
        for sender in self.STRINGS:
            storage.set(KEY, sender, "CONFIRMING")
            storage.set(KEY, sender, "SUBSCRIBED")
        assert sorted(self.rows(storage), key=repr) == sorted(
            [(KEY, sender, "SUBSCRIBED") for sender in self.STRINGS], key=repr
        )

    def test_it_can_be_used_from_many_threads(self, storage):
        def sets_and_gets(thread):
            for number in range(20):
                storage.set(KEY, f"{thread}-{number}@b.example", f"STATE_{number}")
                assert storage.get(KEY, f"{thread}-{number}@b.example") == f"STATE_{number}"

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(sets_and_gets, range(4)))
        assert len(self.rows(storage)) == 80


class KeptStorageContract(StorageContract):
    """What is asked of a storage that outlives its process. Needs a fixture `reopen`, a function."""

    def test_it_is_there_after_a_restart(self, storage, reopen):
        storage.set(KEY, ALICE, "SUBSCRIBED")
        assert reopen(storage).get(KEY, ALICE) == "SUBSCRIBED"

    def test_it_says_what_it_is(self, storage):
        assert repr(storage).startswith(f"<{type(storage).__name__} ")

    def test_what_boot_attaches_is_not_cleared(self, storage):
        storage.set(KEY, ALICE, "SUBSCRIBED")
        storage.protected = True
        with pytest.raises(RuntimeError, match="config.testing"):
            storage.clear()
        assert storage.get(KEY, ALICE) == "SUBSCRIBED"

    def test_its_rows_can_be_walked_through_while_they_change(self, storage):
        for number in range(5):
            storage.set(KEY, f"{number}@b.example", "SUBSCRIBED")
        seen = []
        for _, sender, _ in storage:
            seen.append(sender)
            storage.set(KEY, sender, ROUTE_FIRST_STATE)
        assert len(seen) == 5
        assert self.rows(storage) == []

    def test_many_rows_can_be_walked_through(self, storage):
        rows = [(KEY, f"{number:04}@b.example", "SUBSCRIBED") for number in range(1100)]
        storage.set_all(iter(rows))
        assert sorted(storage) == rows

    def test_many_changes_are_kept_together_or_not_at_all(self, storage):
        def changes():
            yield KEY, ALICE, "SUBSCRIBED"
            for number in range(1100):
                yield KEY, f"{number}@b.example", "SUBSCRIBED"
            raise ZeroDivisionError

        storage.set_all([(KEY, ALICE, "CONFIRMING"), (KEY, BOB, "SUBSCRIBED")])
        with pytest.raises(ZeroDivisionError):
            storage.set_all(changes())
        assert sorted(storage) == [(KEY, ALICE, "CONFIRMING"), (KEY, BOB, "SUBSCRIBED")]

    def test_of_changes_to_the_same_row_the_last_one_counts(self, storage):
        storage.set_all([(KEY, ALICE, "START"), (KEY, ALICE, "ONE"), (KEY, BOB, "ONE"), (KEY, BOB, "START")])
        assert list(storage) == [(KEY, ALICE, "ONE")]

    def test_of_no_changes_nothing_comes(self, storage):
        storage.set_all([])
        assert list(storage) == []


class TurnsContract:
    """For storages that many processes share. Needs a fixture `other`: one more storage on the same states.

    The other one waits for its turn as briefly as it can.
    """

    def test_a_sender_has_one_conversation_at_a_time(self, storage, other):
        with storage.conversation(ALICE):
            storage.set(KEY, ALICE, "CONFIRMING")
            with refused(451):
                elsewhere(take_turn, other, ALICE)
        assert elsewhere(take_turn, other, ALICE) == "CONFIRMING"

    def test_senders_do_not_wait_for_each_other(self, storage, other):
        with storage.conversation(ALICE):
            assert elsewhere(take_turn, other, BOB) == "START"

    def test_who_waited_sees_what_the_one_before_has_left(self, storage):
        with ThreadPoolExecutor(1) as pool:
            with storage.conversation(ALICE):
                waiting = pool.submit(take_turn, storage, ALICE)
                storage.set(KEY, ALICE, "CONFIRMING")
            assert waiting.result() == "CONFIRMING"

    def test_a_child_process_may_use_it_too(self, storage):
        def child():
            with storage.conversation(BOB):
                storage.set(KEY, BOB, storage.get(KEY, ALICE))

        storage.set(KEY, ALICE, "CONFIRMING")
        assert ends_well(start(child))
        assert storage.get(KEY, BOB) == "CONFIRMING"

    def test_processes_take_turns_too(self, storage, other):
        def child():
            assert held.wait(60)
            with refused(451):
                take_turn(other, ALICE)

        held = FORK.Event()
        process = start(child)
        with storage.conversation(ALICE):
            held.set()
            assert ends_well(process)


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

    def test_keys_and_states_are_kept_exactly_too(self, storage):
        strings = [string for string in self.STRINGS if string != ROUTE_FIRST_STATE]
        for string in strings:
            storage.set(string, ALICE, string)
        for string in strings:
            assert storage.get(string, ALICE) == string, string
