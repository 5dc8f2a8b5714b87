"""A storage is a dictionary that forgets START: whatever is done to it, in whatever order, with whatever strings."""

import ast
import tempfile
import unicodedata
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, multiple, rule
from hypothesis.stateful import run_state_machine_as_test as run_machine
from salmon.routing import MemoryStorage

from mailroom.storage.joined import JoinedStorage
from mailroom.storage.shelve import ShelveStorage
from mailroom.storage.sqlalchemy import SQLAlchemyStorage
from mailroom.storage.sqlite import SQLiteStorage
from mailroom.testing.contract import in_thread, refused

FEW = settings(max_examples=40, deadline=None)
ANY_TEXT = st.text(st.characters(exclude_categories=()), max_size=12)
LONG_TEXT = st.builds(lambda text, times: text * times, ANY_TEXT, st.integers(200, 2000))
ODD = [
    "",
    "\0",
    "a\0",
    "a\0b",
    "None",
    "null",
    "\ud800",
    "\udfff",
    "\ud83d\udc1f",
    "'",
    '"',
    "\\",
    "%",
    "?",
    ";--",
    "0",
]
VARIANTS = [
    str.upper,
    str.lower,
    str.swapcase,
    str.casefold,
    lambda text: unicodedata.normalize("NFC", text),
    lambda text: unicodedata.normalize("NFD", text),
    lambda text: unicodedata.normalize("NFKC", text),
    lambda text: text + " ",
    lambda text: text + "\0",
    lambda text: text.encode("utf-8", "surrogatepass").hex(),
    repr,
]


class StorageMachine(RuleBasedStateMachine):
    """`open()` returns a storage; the machine compares it with a dictionary.

    `key_text` has the texts that are keys and states; a sender may be any text, or None.
    """

    keys = Bundle("keys")  # and states
    senders = Bundle("senders")
    text = st.one_of(st.sampled_from(ODD), ANY_TEXT, LONG_TEXT)
    key_text = text
    outlives_its_object = True
    others_can_read = False  # while a mail is handled

    def __init__(self):
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name) / "run" / "states"
        self.expected = {}
        self.opened = [self.open()]

    def teardown(self):
        for storage in self.opened:
            self.close(storage)
        self.folder.cleanup()

    def close(self, storage):
        storage.close()

    @property
    def storage(self):
        self.opened.append(self.opened.pop(0))
        return self.opened[0]

    @initialize(target=keys)
    def some_keys(self):
        return multiple("app.handlers.subscription:news", "app.handlers.subscription:dev", "SUBSCRIBED")

    @initialize(target=senders)
    def some_senders(self):
        return multiple("a@b.example", "A@b.example", None)

    @rule(target=senders, text=text)
    def new_sender(self, text):
        return text

    @rule(target=keys, text=st.runner().flatmap(lambda machine: machine.key_text))
    def new_key(self, text):
        return text

    @rule(target=senders, text=senders.filter(bool), variant=st.sampled_from(VARIANTS))
    def similar_sender(self, text, variant):
        return variant(text)

    @rule(target=keys, text=keys, variant=st.sampled_from(VARIANTS))
    def similar_key(self, text, variant):
        return variant(text)

    @rule(key=keys, sender=senders, state=keys)
    def set(self, key, sender, state):
        self.storage.set(key, sender, state)
        put(self.expected, key, sender, state)

    @rule(key=keys, sender=senders)
    def forget(self, key, sender):
        self.storage.set(key, sender, "START")
        put(self.expected, key, sender, "START")

    @rule(key=keys, sender=senders)
    def get(self, key, sender):
        assert self.storage.get(key, sender) == self.expected.get((key, sender), "START")

    @rule(rows=st.lists(st.tuples(keys, senders, keys), max_size=5))
    def set_all(self, rows):
        storage = self.storage
        storage.set_all(rows)
        for row in rows:
            put(self.expected, *row)

    @rule(rows=st.lists(st.tuples(keys, senders, keys), max_size=3))
    def fail_to_set_all(self, rows):
        storage = self.storage
        with pytest.raises(ZeroDivisionError):
            storage.set_all(row if row else 1 / 0 for row in [*rows, None])

    @rule(rows=st.lists(st.tuples(keys, senders, keys), max_size=3), sender=senders, is_handled=st.booleans())
    def take_a_mail(self, rows, sender, is_handled):
        """What a mail has set is seen by its own handlers at once, and by nobody else until it was handled."""
        storage = self.storage
        at_last = dict(self.expected)
        with suppress(ZeroDivisionError), storage.transaction(sender):
            for row in rows:
                storage.set(*row)
                put(at_last, *row)
            for key, sender, _ in rows:
                assert storage.get(key, sender) == at_last.get((key, sender), "START")
                if self.others_can_read:
                    assert in_thread(storage.get, key, sender) == self.expected.get((key, sender), "START")
            if not is_handled:
                raise ZeroDivisionError
        if is_handled:
            self.expected = at_last

    @rule()
    def clear(self):
        self.storage.clear()
        self.expected.clear()

    @rule()
    def open_again(self):
        if self.outlives_its_object:
            self.close(self.opened.pop(0))
            self.opened.append(self.open())

    @invariant()
    def its_rows_are_those_expected(self):
        rows = list(self.rows(self.opened[0]))
        assert len(rows) == len(self.expected)
        assert {(key, sender): state for key, sender, state in rows} == self.expected

    def rows(self, storage):
        return storage


class WithOwnTables:
    """With a table of the application's own, and mails that come twice."""

    rows_are_cleared = False

    def __init__(self):
        self.posts, self.noted = [], set()
        super().__init__()

    @rule(
        row=st.tuples(StorageMachine.keys, StorageMachine.senders, StorageMachine.keys),
        post=st.one_of(st.none(), st.text(st.characters(max_codepoint=127), min_size=1)),
        digest=st.sampled_from([b"1" * 16, b"2" * 16, b"3" * 16]),
        is_handled=st.booleans(),
    )
    def take_a_mail_that_may_come_twice(self, row, post, digest, is_handled):
        storage = self.storage
        key, sender, state = row
        with suppress(ZeroDivisionError), storage.transaction(sender) as transaction:
            was_handled = transaction.handled(digest)
            assert was_handled == (digest in self.noted)
            if was_handled:
                return
            before = storage.get(key, sender)
            storage.set(*row)
            if post:
                transaction.connection.execute("INSERT INTO posts VALUES (?)", (post,))
            if not is_handled:
                raise ZeroDivisionError
        if is_handled:
            put(self.expected, *row)
            self.posts.extend([post] if post else [])
            self.noted.update([digest] if post or state != before else [])

    @rule()
    def clear(self):
        super().clear()
        self.noted.clear()
        if self.rows_are_cleared:
            self.posts.clear()

    @invariant()
    def its_own_rows_are_those_expected(self):
        with self.opened[0].transaction() as transaction:
            found = transaction.connection.execute("SELECT text FROM posts ORDER BY rowid").fetchall()
        assert found == [(post,) for post in self.posts]


def with_own_tables(storage):
    storage.create_tables(lambda connection: connection.execute("CREATE TABLE IF NOT EXISTS posts (text TEXT)"))
    return storage


def put(states, key, sender, state):
    """Do to a dictionary what `set` does to a storage."""
    states[key, sender] = state
    if state == "START":
        del states[key, sender]


def fits_a_database(text):
    return len(text) <= 255 and not any(c in "\0\ufdd0" or "\ud800" <= c <= "\udfff" for c in text)


ALMOST_ANY_TEXT = st.one_of(st.sampled_from(ODD), ANY_TEXT).filter(fits_a_database)
IMPOSSIBLE = st.one_of(st.sampled_from(ODD), ANY_TEXT, st.just("x" * 3000)).filter(
    lambda text: not fits_a_database(text)
)


class SQLAlchemyMachine(StorageMachine):
    key_text = ALMOST_ANY_TEXT

    @initialize(target=StorageMachine.senders)
    def some_senders(self):
        return multiple("a@b.example", "A@b.example", "")

    @rule(target=StorageMachine.senders, text=ALMOST_ANY_TEXT)
    def new_sender(self, text):
        return text

    @rule(target=StorageMachine.senders, text=StorageMachine.senders.filter(bool), variant=st.sampled_from(VARIANTS))
    def similar_sender(self, text, variant):
        return variant(text) if fits_a_database(variant(text)) else text

    @rule(target=StorageMachine.keys, text=StorageMachine.keys, variant=st.sampled_from(VARIANTS))
    def similar_key(self, text, variant):
        return variant(text) if fits_a_database(variant(text)) else text

    @rule(text=IMPOSSIBLE, key=StorageMachine.keys, sender=StorageMachine.senders)
    def refuse(self, text, key, sender):
        for row in [(text, sender, "SUBSCRIBED"), (key, text, "SUBSCRIBED"), (key, sender, text)]:
            with refused(554):
                self.storage.set(*row)


def test_memory_storage_behaves_like_a_dictionary():
    class MemoryMachine(WithOwnTables, StorageMachine):
        outlives_its_object = False
        rows_are_cleared = True

        def open(self):
            return with_own_tables(JoinedStorage(MemoryStorage()))

        def close(self, storage):
            pass

        def rows(self, storage):
            return [
                (*ast.literal_eval(cell), state) for cell, state in storage.states.states.items() if state != "START"
            ]

    run_machine(MemoryMachine, settings=FEW)


class SharedByThree:
    """With up to three storages on the same states."""

    @rule()
    def open_another(self):
        if len(self.opened) < 3:
            self.opened.append(self.open())


def test_sqlite_storage_behaves_like_a_dictionary():
    class SQLiteMachine(SharedByThree, WithOwnTables, StorageMachine):
        others_can_read = True

        def open(self):
            return with_own_tables(SQLiteStorage(self.path))

    run_machine(SQLiteMachine, settings=FEW)


def test_shelve_storage_behaves_like_a_dictionary():
    class ShelveMachine(StorageMachine):
        key_text = st.text(st.characters(max_codepoint=127), max_size=12)

        def open(self):
            return ShelveStorage(self.path)

    run_machine(ShelveMachine, settings=FEW)


def test_sqlalchemy_storage_on_sqlite_behaves_like_a_dictionary():
    class Machine(SQLAlchemyMachine):
        def open(self):
            self.path.parent.mkdir(exist_ok=True)
            return SQLAlchemyStorage(f"sqlite:///{self.path}")

    run_machine(Machine, settings=FEW)


def test_sqlalchemy_storage_on_postgresql_behaves_like_a_dictionary(postgresql):
    url = postgresql.new_database()

    class Machine(SharedByThree, SQLAlchemyMachine):
        def open(self):
            storage = SQLAlchemyStorage(url)
            if not self.expected:
                storage.clear()
            return storage

    run_machine(Machine, settings=FEW)
