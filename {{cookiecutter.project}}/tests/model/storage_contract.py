"""What Salmon asks of a state storage, as tests that any storage can be plugged into.

Subclass the classes that fit, name the subclass `Test...`, and give it a fixture `storage`.
"""

from concurrent.futures import ThreadPoolExecutor

import pytest
from salmon.routing import ROUTE_FIRST_STATE

KEY = "app.handlers.subscription:news"
ALICE = "alice@people.example"


class StorageContract:
    """`get`, `set` and `clear` as `salmon.routing.MemoryStorage` has them, for the strings any storage holds."""

    STRINGS = ["a@b.example", "A@b.example", "'", '"', "\\", "%s", "?", " ", "a" * 254, "a; DROP TABLE states;--"]

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
