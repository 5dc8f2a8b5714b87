"""No sender stays in a state that has no handler."""

import pytest
from salmon.routing import MemoryStorage, route

from mailroom.handlers import rename, state_key
from mailroom.storage.joined import JoinedStorage

MODULE = "tests.mailroom.trial_list"


def stored(*rows):
    """Return a storage of these `(key, sender, state)` rows."""
    storage = JoinedStorage(MemoryStorage())
    for row in rows:
        storage.set(*row)
    return storage


@pytest.fixture
def storage():
    return stored(
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

    assert sorted(storage, key=lambda row: row[1]) == [
        (f"{MODULE}:news", "alice", state),
        (f"{MODULE}:dev", "bob", state),
        (f"{MODULE}:dev", "carol", "SUBSCRIBED"),
    ]


def test_state_renamed_to_start_is_forgotten(storage):
    rename(storage, {"ASKED": "START"})

    assert sorted(storage, key=lambda row: row[1]) == [(f"{MODULE}:dev", "carol", "SUBSCRIBED")]


def test_states_of_a_renamed_module_follow_it():
    storage = stored(("app.handlers.lists:news", "alice", "SUBSCRIBED"))

    rename(storage, {"app.handlers.lists.SUBSCRIBED": f"{MODULE}.SUBSCRIBED"})

    assert sorted(storage, key=lambda row: row[1]) == [(f"{MODULE}:news", "alice", "SUBSCRIBED")]


@pytest.mark.parametrize("module", [MODULE, "app.handlers.older"])
def test_renamed_module_overwrites_no_state(module):
    storage = stored(("app.handlers.lists:news", "alice", "CONFIRMING"), (f"{module}:news", "alice", "SUBSCRIBED"))
    before = list(storage)

    with pytest.raises(ValueError, match=f"alice has a state under {MODULE}:news already"):
        rename(storage, {name: f"{MODULE}.SUBSCRIBED" for name in ("CONFIRMING", "app.handlers.older.SUBSCRIBED")})

    assert list(storage) == before


@pytest.mark.parametrize(
    "renames", [{}, {"ASKED": "NOWHERE"}, {"ASKED": "WAITING", "WAITING": "ASKED"}, {"asked": "START"}]
)
def test_states_without_a_handler_are_counted_and_change_nothing(storage, renames):
    before = list(storage)

    with pytest.raises(ValueError, match=rf"{MODULE}.ASKED \(2\); for example renamed_states = {{'ASKED': 'START'}}"):
        rename(storage, renames)

    assert list(storage) == before


def test_states_under_keys_without_a_module_are_left_alone():
    rename(stored(("news", "alice", "SUBSCRIBED"), (None, None, "CONFIRMING")), {})


def test_states_of_a_storage_without_iteration_are_not_renamed():
    rename(JoinedStorage(MemoryStorage()), {})


def test_state_key_depends_on_the_address_where_the_handlers_say_so():
    assert state_key(MODULE, "alice@people.example", "dev") == f"{MODULE}:dev"
    assert state_key("without.a.generator", "alice@people.example") == "without.a.generator"
    with pytest.raises(ValueError, match="no state key that depends on the sender alone: it takes an address"):
        state_key(MODULE, "alice@people.example")


def test_route_without_a_value_for_its_name_ends_the_start(room):
    @route("(list_name)-help@(host)")
    def START(message, list_name, host):
        pass

    with pytest.raises(SystemExit, match=r"START' has no value for \(list_name\) in its route; for example @route"):
        room.load([MODULE])


def test_rename_leaves_what_another_worker_has_handled_meanwhile(storage, monkeypatch):
    """Of two workers that start together, one may be slower, and the other takes mail already."""
    lock = JoinedStorage.lock

    def handle_a_mail_first(storage, here):
        monkeypatch.undo()
        storage.set(f"{MODULE}:news", "alice", "SUBSCRIBED")
        return lock(storage, here)

    monkeypatch.setattr(JoinedStorage, "lock", handle_a_mail_first)
    rename(storage, {"ASKED": "CONFIRMING"})

    assert storage.get(f"{MODULE}:news", "alice") == "SUBSCRIBED"
    assert storage.get(f"{MODULE}:dev", "bob") == "CONFIRMING"


def test_nothing_is_read_row_by_row_when_every_state_has_a_handler(monkeypatch):
    storage = stored((f"{MODULE}:news", "alice", "SUBSCRIBED"))
    monkeypatch.setattr(storage, "kinds", lambda: {(f"{MODULE}:news", "SUBSCRIBED")})
    monkeypatch.setattr(storage, "rows", None)

    rename(storage, {"ASKED": "CONFIRMING"})
