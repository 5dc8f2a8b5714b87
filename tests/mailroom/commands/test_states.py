"""What an operator sees and changes with `operate.py states`."""

import ast
import json

import pytest
from click.testing import CliRunner
from salmon.routing import MemoryStorage

from app.model.mail_states import MailStates
from operate import operate

pytestmark = pytest.mark.usefixtures("trial_list")
KEY = "tests.trial_list:news"
ALICE, BOB = "alice@people.example", "bob@people.example"


class WalkableStorage(MemoryStorage):
    """A storage that can be walked through, as each that `config.boot` attaches."""

    def __iter__(self):
        for cell, state in list(self.states.items()):
            yield (*ast.literal_eval(cell), state)


@pytest.fixture
def storage():
    storage = WalkableStorage()
    storage.set(KEY, ALICE, "SUBSCRIBED")
    storage.set(KEY, BOB, "CONFIRMING")
    return storage


@pytest.fixture
def states(storage):
    """A function: run `operate.py states` with these arguments, and return what it printed."""

    def states(*arguments, input=None, exit_code=0):
        result = CliRunner().invoke(operate, ["states", *arguments], obj=MailStates(storage), input=input)
        assert result.exit_code == exit_code, result.output
        return result.output

    return states


@pytest.mark.parametrize(
    ["options", "senders"],
    [
        ([], [ALICE, BOB]),
        (["--state", "CONFIRMING"], [BOB]),
        (["--sender", "A*@people.*"], [ALICE]),
        (["--list", "news"], [ALICE, BOB]),
        (["--list", "other"], []),
    ],
)
def test_list_chooses(states, options, senders):
    assert [json.loads(line)["sender"] for line in states("list", "--json", *options).splitlines()] == senders
    assert [line.split()[-1] for line in states("list", *options).splitlines()] == senders


def test_count(states):
    assert [json.loads(line) for line in states("count", "--json").splitlines()] == [
        {"key": KEY, "state": "CONFIRMING", "count": 1},
        {"key": KEY, "state": "SUBSCRIBED", "count": 1},
    ]
    assert states("count").splitlines()[-1].split() == ["2", "in", "all"]


def test_show_finds_an_address_as_salmon_writes_it(states):
    assert "SUBSCRIBED" in states("show", "Alice <Alice@People.Example>")
    assert states("show", "carol@people.example") == "carol@people.example is at the START\n"


def test_set_and_reset(states, storage):
    states("set", "Carol@people.example", "SUBSCRIBED", "--list", "news")
    assert storage.get(KEY, "carol@people.example") == "SUBSCRIBED"

    states("reset", ALICE, "carol@people.example")
    assert list(storage) == [(KEY, BOB, "CONFIRMING")]


def test_forget_is_for_all_lists(states, storage):
    storage.set("tests.trial_list:other", BOB, "SUBSCRIBED")

    assert states("forget", BOB).count("-> START") == 2
    assert list(storage) == [(KEY, ALICE, "SUBSCRIBED")]


def test_forget_finds_who_was_written_in_capitals(states, storage):
    storage.set(KEY, "Carol@X.example", "SUBSCRIBED")

    assert "SUBSCRIBED -> START" in states("forget", "carol@x.example")
    assert storage.get(KEY, "Carol@X.example") == "START"


def test_an_import_has_one_source(states, tmp_path):
    file = tmp_path / "rows.jsonl"
    file.touch()

    assert "FILE and --shelve do not go together" in states("import", str(file), "--shelve", "any", exit_code=2)


@pytest.mark.parametrize(
    ["arguments", "hint"],
    [
        ([ALICE, "SUBSCRIBD"], "START, CONFIRMING, SUBSCRIBED in tests.trial_list"),
        ([ALICE, "FORWARD"], "START, CONFIRMING, SUBSCRIBED"),
        ([ALICE, "SUBSCRIBED", "--list", "nwes"], "for example --list news"),
        ([ALICE, "SUBSCRIBED", "--handler", "app.nothing"], "for example --handler tests.trial_list"),
    ],
)
def test_set_refuses_what_would_leave_a_sender_stuck(states, storage, arguments, hint):
    refusal = states("set", *arguments, exit_code=1)

    assert hint in refusal
    assert refusal.count("\n") == 1
    assert storage.get(KEY, ALICE) == "SUBSCRIBED"


def test_what_was_exported_is_imported(states, storage):
    storage.set(None, None, "SUBSCRIBED")
    storage.set("a\0b", "\ud800\r\n", "CONFIRMING")
    before = sorted(storage, key=repr)
    exported = states("export")
    storage.clear()

    assert exported.isascii()
    assert states("import", input=exported).startswith("4 rows: 4 new")
    assert sorted(storage, key=repr) == before


def test_import_overwrites_only_when_told_to(states, storage):
    row = json.dumps({"key": KEY, "sender": BOB, "state": "SUBSCRIBED"})

    assert f"CONFIRMING -> SUBSCRIBED  {KEY}  {BOB}" in states("import", input=row, exit_code=1)
    assert "1 overwritten" in states("import", "--dry-run", input=row)
    assert storage.get(KEY, BOB) == "CONFIRMING"

    states("import", "--replace", input=row)
    assert storage.get(KEY, BOB) == "SUBSCRIBED"


@pytest.mark.parametrize(
    "line",
    [
        "",
        "[]",
        "[" * 100_000,
        '{"key": "k", "sender": "s"}',
        '{"key": "k", "sender": "s", "state": null}',
        '{"key": "k", "sender": "s", "state": "S", "more": 1}',
        json.dumps({"key": KEY, "sender": "new@people.example", "state": "SUBSCRIBED"}),
    ],
)
def test_import_is_all_or_nothing(states, storage, line):
    first = json.dumps({"key": KEY, "sender": "new@people.example", "state": "SUBSCRIBED"})
    before = list(storage)

    refusal = states("import", input=f"{first}\n{line}\n{first}\n", exit_code=1)

    assert "nothing was imported" in refusal
    assert "line 2 " in refusal or "row 2 " in refusal
    assert list(storage) == before


def test_import_tells_of_states_without_a_handler(states):
    row = json.dumps({"key": KEY, "sender": "new@people.example", "state": "GONE"})

    assert f"No handler has the state GONE of {KEY}: 1 rows" in states("import", input=row)
