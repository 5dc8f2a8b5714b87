"""No sender stays in a state that has no handler."""

import pytest
from salmon.routing import MemoryStorage, route

from mailroom.handlers import rename, state_key
from mailroom.storage.base import MailStates

MODULE = "tests.mailroom.trial_list"


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
def test_states_without_handler_are_renamed_once(storage, renames, state):
    rename(storage, renames)
    rename(storage, {})

    assert list(storage) == [
        (f"{MODULE}:news", "alice", state),
        (f"{MODULE}:dev", "bob", state),
        (f"{MODULE}:dev", "carol", "SUBSCRIBED"),
    ]


def test_state_renamed_to_start_is_forgotten(storage):
    rename(storage, {"ASKED": "START"})

    assert list(storage) == [(f"{MODULE}:dev", "carol", "SUBSCRIBED")]


def test_module_is_renamed():
    storage = Rows(("app.handlers.lists:news", "alice", "SUBSCRIBED"))

    rename(storage, {"app.handlers.lists.SUBSCRIBED": f"{MODULE}.SUBSCRIBED"})

    assert list(storage) == [(f"{MODULE}:news", "alice", "SUBSCRIBED")]


@pytest.mark.parametrize("module", [MODULE, "app.handlers.older"])
def test_renamed_module_overwrites_no_state(module):
    storage = Rows(("app.handlers.lists:news", "alice", "CONFIRMING"), (f"{module}:news", "alice", "SUBSCRIBED"))
    before = list(storage)

    with pytest.raises(ValueError, match=f"alice has a state under {MODULE}:news already"):
        rename(storage, {name: f"{MODULE}.SUBSCRIBED" for name in ("CONFIRMING", "app.handlers.older.SUBSCRIBED")})

    assert list(storage) == before


@pytest.mark.parametrize(
    "renames", [{}, {"ASKED": "NOWHERE"}, {"ASKED": "WAITING", "WAITING": "ASKED"}, {"asked": "START"}]
)
def test_states_that_stay_without_handler_are_counted_and_nothing_changes(storage, renames):
    before = list(storage)

    with pytest.raises(ValueError, match=rf"{MODULE}.ASKED \(2\); for example renamed_states = {{'ASKED': 'START'}}"):
        rename(storage, renames)

    assert list(storage) == before


def test_states_under_keys_without_a_module_are_left_alone():
    rename(Rows(("news", "alice", "SUBSCRIBED"), (None, None, "CONFIRMING")), {})


def test_storage_without_iteration_is_left_alone():
    rename(MailStates(MemoryStorage()), {})


def test_state_key_depends_on_the_address_where_the_handlers_say_so():
    assert state_key(MODULE, "alice@people.example", "dev") == f"{MODULE}:dev"
    assert state_key("without.a.generator", "alice@people.example") == "without.a.generator"
    with pytest.raises(ValueError, match="no state key that depends on the sender alone: it takes an address"):
        state_key(MODULE, "alice@people.example")


def test_route_without_a_value_for_a_name_is_refused(room):
    @route("(list_name)-help@(host)")
    def START(message, list_name, host):
        pass

    with pytest.raises(SystemExit, match=r"START' has no value for \(list_name\) in its route; for example @route"):
        room.load([MODULE])
