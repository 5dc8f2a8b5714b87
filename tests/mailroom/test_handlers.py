"""Nobody is left in a state that no handler has."""

import pytest
from salmon.routing import MemoryStorage

from app.model import renamed_states
from app.model.mail_states import MailStates

pytestmark = pytest.mark.usefixtures("trial_list")
MODULE = "tests.trial_list"


class Rows:
    """A storage that can be walked through, of `(key, sender, state)` rows."""

    def __init__(self, *rows):
        self.rows = {row[:2]: row[2] for row in rows}

    def __iter__(self):
        return iter([(*cell, state) for cell, state in self.rows.items()])

    def get(self, key, sender):
        return self.rows.get((key, sender), "START")

    def set_all(self, rows):
        for key, sender, state in rows:
            self.rows[key, sender] = state
        self.rows = {cell: state for cell, state in self.rows.items() if state != "START"}


@pytest.fixture
def storage():
    return Rows(
        (f"{MODULE}:news", "alice", "ASKED"),
        (f"{MODULE}:dev", "bob", "ASKED"),
        (f"{MODULE}:dev", "carol", "SUBSCRIBED"),
    )


@pytest.mark.parametrize(
    "renames, state",
    [
        ({"ASKED": "CONFIRMING"}, "CONFIRMING"),
        ({"ASKED": "WAITING", "WAITING": "SUBSCRIBED"}, "SUBSCRIBED"),
        ({"ASKED": "SUBSCRIBED", f"{MODULE}.ASKED": "CONFIRMING"}, "CONFIRMING"),
        ({"ASKED": "CONFIRMING", "SUBSCRIBED": "CONFIRMING", "CONFIRMING": "START"}, "CONFIRMING"),
    ],
)
def test_states_without_a_handler_are_renamed(storage, renames, state):
    renamed_states.rename(storage, renames)
    renamed_states.rename(storage, {})

    assert list(storage) == [
        (f"{MODULE}:news", "alice", state),
        (f"{MODULE}:dev", "bob", state),
        (f"{MODULE}:dev", "carol", "SUBSCRIBED"),
    ]


def test_a_state_that_is_given_up_is_forgotten(storage):
    renamed_states.rename(storage, {"ASKED": "START"})

    assert list(storage) == [(f"{MODULE}:dev", "carol", "SUBSCRIBED")]


def test_a_module_that_is_renamed():
    storage = Rows(("app.handlers.lists:news", "alice", "SUBSCRIBED"))

    renamed_states.rename(storage, {"app.handlers.lists.SUBSCRIBED": f"{MODULE}.SUBSCRIBED"})

    assert list(storage) == [(f"{MODULE}:news", "alice", "SUBSCRIBED")]


@pytest.mark.parametrize("module", [MODULE, "app.handlers.older"])
def test_nobodys_state_is_overwritten_by_that_of_a_module_that_is_renamed(module):
    storage = Rows(("app.handlers.lists:news", "alice", "CONFIRMING"), (f"{module}:news", "alice", "SUBSCRIBED"))
    before = list(storage)

    with pytest.raises(ValueError, match=f"alice has a state under {MODULE}:news already"):
        renamed_states.rename(
            storage, {name: f"{MODULE}.SUBSCRIBED" for name in ("CONFIRMING", "app.handlers.older.SUBSCRIBED")}
        )

    assert list(storage) == before


@pytest.mark.parametrize(
    "renames", [{}, {"ASKED": "NOWHERE"}, {"ASKED": "WAITING", "WAITING": "ASKED"}, {"asked": "START"}]
)
def test_who_would_be_nowhere_is_counted_and_nothing_changes(storage, renames):
    before = list(storage)

    with pytest.raises(ValueError, match=rf"{MODULE}.ASKED \(2\); for example renamed_states = {{'ASKED': 'START'}}"):
        renamed_states.rename(storage, renames)

    assert list(storage) == before


def test_keys_of_ones_own_are_left_alone():
    renamed_states.rename(Rows(("news", "alice", "SUBSCRIBED"), (None, None, "CONFIRMING")), {})


def test_a_storage_that_cannot_be_walked_through():
    renamed_states.rename(MailStates(MemoryStorage()), {})
