"""What the storages of the package promise beyond `mailroom.testing.contract`.

Subclass beside the contract of the storage; the fixtures are the same.
"""

import multiprocessing
from concurrent.futures import ThreadPoolExecutor

import pytest
from salmon.routing import ROUTE_FIRST_STATE

from mailroom import outbox
from mailroom.relay import Answer
from mailroom.testing.contract import (
    ALICE,
    BOB,
    KEY,
    SharedStorageContract,
    StorageContract,
    TablesContract,
    TransactionContract,
    in_thread,
    locked_get,
    refused,
)

FORK = multiprocessing.get_context("fork")


class OurStorageContract(TransactionContract):
    """What `mailroom.storage.Storage` says of those in the package. Needs a fixture `reopen`, a function of a storage."""

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

    def test_a_reader_does_not_see_half_a_mail_and_does_not_wait_for_it(self, storage):
        with storage.transaction(ALICE):
            storage.set(KEY, ALICE, "SUBSCRIBED")
            assert in_thread(storage.get, KEY, ALICE) == "START"
        assert in_thread(storage.get, KEY, ALICE) == "SUBSCRIBED"

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

    def test_a_sender_has_one_transaction_at_a_time_among_processes(self, storage, other):
        def child():
            assert locked.wait(60)
            with refused(451):
                locked_get(other, ALICE)

        locked = FORK.Event()
        process = FORK.Process(target=child, daemon=True)
        process.start()
        with storage.transaction(ALICE):
            locked.set()
            process.join(60)
        assert process.exitcode == 0

    def test_a_forked_process_can_use_it(self, storage):
        def child():
            with storage.transaction(BOB):
                storage.set(KEY, BOB, storage.get(KEY, ALICE))

        storage.set(KEY, ALICE, "CONFIRMING")
        process = FORK.Process(target=child, daemon=True)
        process.start()
        process.join(60)
        assert process.exitcode == 0
        assert storage.get(KEY, BOB) == "CONFIRMING"


class OurTablesContract(TablesContract):
    """What it says of own tables and the outbox."""

    def test_own_rows_of_several_threads_are_kept(self, storage, posts):
        def write(thread):
            for number in range(5):
                with storage.transaction(f"{thread}@b.example") as transaction:
                    self.write(transaction, f"{thread}-{number}")

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(write, range(4)))
        assert posts() == [f"{thread}-{number}" for thread in range(4) for number in range(5)]

    def test_outgoing_mail_is_kept_until_the_relay_has_taken_it_for_each_recipient(self, storage):
        with storage.transaction(ALICE) as transaction:
            transaction.send(self.MAIL, [ALICE, BOB], "news@example.com")
        (parcel,) = outbox.claim_due(storage)
        assert outbox.claim_due(storage) == []
        parcel.answers = {ALICE: Answer(250, "taken"), BOB: Answer(550, "no such user")}
        outbox.settle(storage, [parcel])
        (row,) = outbox.rows(storage)
        assert (row.recipient, row.due, row.tries, row.answer) == (BOB, None, 1, "550 no such user")
        outbox.retry(storage, [row])
        (parcel,) = outbox.claim_due(storage)
        parcel.answers = {BOB: Answer(250, "taken")}
        outbox.settle(storage, [parcel])
        assert storage.fetch("SELECT id FROM outgoing") == []


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
    SENDERS = STRINGS

    def test_keys_and_states_are_kept_exactly_as_they_are(self, storage):
        strings = [string for string in self.STRINGS if string != ROUTE_FIRST_STATE]
        for string in strings:
            storage.set(string, ALICE, string)
        for string in strings:
            assert storage.get(string, ALICE) == string, string
