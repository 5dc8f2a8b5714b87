"""What an operator sees and changes with `operate.py states`."""

import json
import re
import sys
import time
from datetime import datetime, timezone

import pytest
from salmon.routing import Router

from mailroom.storage import current
from mailroom.storage.joined import JoinedStorage
from mailroom.storage.sqlite import SQLiteStorage
from tests.mailroom.commands.conftest import ThreeMethods, WalkableStorage

MODULE = "tests.mailroom.trial_list"
KEY = f"{MODULE}:news"
ALICE, BOB = "alice@people.example", "bob@people.example"
NEW, CAROL = "new@people.example", "carol@people.example"
TICKETS = """
from salmon.routing import route, route_like, state_key_generator

@state_key_generator
def one_state_per_ticket(module, message):
    return f"ticket {message.To.partition('@')[0].partition('-')[2]}"

@route("ticket-(number)@(host)", number="[0-9]+")
def START(message, number, host):
    return OPEN

@route_like(START)
def OPEN(message, number, host):
    return OPEN
"""
DESK = """
from salmon.routing import route, route_like

@route("help@(host)")
def START(message, host):
    return ASKED

@route_like(START)
def ASKED(message, host):
    return ASKED
"""


@pytest.fixture
def storage(room):
    storage = Router.STATE_STORE = WalkableStorage()
    storage.set(KEY, ALICE, "SUBSCRIBED")
    storage.set(KEY, BOB, "CONFIRMING")
    return storage


@pytest.fixture
def states(run, storage):
    """A function: run `operate.py states` with these arguments, and return what it printed."""

    def states(*arguments, input=None, exit_code=0):
        result = run("states", *arguments, input=input)
        assert result.exit_code == exit_code, result.output
        return result.output

    return states


def senders(listed):
    return [json.loads(line)["sender"] for line in listed.splitlines()]


@pytest.mark.parametrize(
    ["options", "expected"],
    [
        ([], [ALICE, BOB]),
        (["--state", "CONFIRMING"], [BOB]),
        (["--sender", "A*@people.*"], [ALICE]),
        (["--to", "news"], [ALICE, BOB]),
        (["--to", "News-Subscribe@example.com", "--state", "SUBSCRIBED"], [ALICE]),
    ],
)
def test_list_shows_only_the_selected_rows(states, options, expected):
    assert senders(states("list", "--json", *options)) == expected
    assert [line.split()[-1] for line in states("list", *options).splitlines()] == expected


def test_list_to_an_address_leaves_out_states_at_other_addresses(states, storage):
    storage.set(f"{MODULE}:other", BOB, "SUBSCRIBED")

    assert senders(states("list", "--json", "--to", "news", "--sender", BOB)) == [BOB]
    assert senders(states("list", "--json", "--sender", BOB)) == [BOB, BOB]


@pytest.mark.parametrize("command", [["list"], ["reset", ALICE], ["set", ALICE, "START"]])
@pytest.mark.parametrize("to", ["nwes", "postmaster", "news@elsewhere.example", "@"])
def test_address_without_a_stateful_handler_is_refused(states, storage, command, to):
    before = list(storage)

    refusal = states(*command, "--to", to, exit_code=1)

    assert refusal == f"Error: --to {to!r} must be an address that {MODULE} handles; for example --to news\n"
    assert list(storage) == before


def test_state_without_senders_is_refused_with_the_states_that_exist(run, states):
    result = run("states", "list", "--state", "NOPE")

    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr == "Error: no sender is in the state NOPE; states that there are: CONFIRMING, SUBSCRIBED\n"


def test_state_is_refused_when_no_states_exist(states, storage):
    storage.clear()

    assert states("list") == ""
    assert "states that there are: none\n" in states("list", "--state", "CONFIRMING", exit_code=1)


def test_count_shows_senders_by_key_and_state(states):
    assert [json.loads(line) for line in states("count", "--json").splitlines()] == [
        {"key": KEY, "state": "CONFIRMING", "count": 1, "handler": True},
        {"key": KEY, "state": "SUBSCRIBED", "count": 1, "handler": True},
    ]
    assert states("count").splitlines()[-1].split() == ["2", "in", "all"]


def test_list_and_count_mark_states_that_have_no_handler(states, storage):
    storage.set(KEY, ALICE, "GONE")

    assert [json.loads(line)["handler"] for line in states("list", "--json").splitlines()] == [False, True]
    assert [json.loads(line)["handler"] for line in states("count", "--json").splitlines()] == [True, False]
    for command in ("list", "count", "show"):
        shown = states(command, *[ALICE] * (command == "show"))
        assert [line.split()[1:4] for line in shown.splitlines() if "(no handler)" in line]
        assert shown.count("GONE (no handler)") == shown.count("(no handler)") == 1


def test_show_finds_an_address_as_salmon_writes_it(states):
    assert "SUBSCRIBED" in states("show", "Alice <Alice@People.Example>")
    assert states("show", "carol@people.example") == "carol@people.example is in START\n"


def test_set_and_reset_change_the_stored_state(states, storage):
    states("set", "Carol@people.example", "SUBSCRIBED", "--to", "news")
    assert storage.get(KEY, "carol@people.example") == "SUBSCRIBED"

    states("reset", ALICE, "carol@people.example")
    assert list(storage) == [(KEY, BOB, "CONFIRMING")]


def test_reset_to_an_address_leaves_states_at_other_addresses(states, storage):
    storage.set(f"{MODULE}:other", ALICE, "SUBSCRIBED")

    assert states("reset", ALICE, "--to", "news") == f"SUBSCRIBED -> START  {KEY}  {ALICE}\n"
    assert states("reset", ALICE, "--to", "news") == f"{ALICE} is in START already\n"
    assert list(storage) == [(KEY, BOB, "CONFIRMING"), (f"{MODULE}:other", ALICE, "SUBSCRIBED")]


@pytest.mark.parametrize("command", ["reset", "forget"])
@pytest.mark.parametrize(
    "meanwhile, printed",
    [
        ("SUBSCRIBED", f"SUBSCRIBED -> START  {KEY}  {ALICE}\n"),
        ("CONFIRMING", f"CONFIRMING -> START  {KEY}  {ALICE}\n"),
        ("START", f"{ALICE} is in START already\n"),
    ],
)
def test_reset_and_forget_read_the_table_before_they_lock_the_sender(
    states, storage, monkeypatch, command, meanwhile, printed
):
    """A large table takes seconds to read, and mail of the sender would wait for it."""
    locked, read = [], JoinedStorage.rows

    def rows(joined):
        locked.append(current() is not None)
        yield from list(read(joined))
        storage.set(KEY, ALICE, meanwhile)  # a mail that is handled now

    monkeypatch.setattr(JoinedStorage, "rows", rows)

    assert states(command, ALICE) == printed
    assert locked == [False]
    assert storage.get(KEY, ALICE) == "START"


def test_forget_deletes_states_at_all_addresses(states, storage):
    storage.set(f"{MODULE}:other", BOB, "SUBSCRIBED")

    assert states("forget", BOB).count("-> START") == 2
    assert list(storage) == [(KEY, ALICE, "SUBSCRIBED")]


def test_forget_finds_a_sender_stored_in_capitals(states, storage):
    storage.set(KEY, "Carol@X.example", "SUBSCRIBED")

    assert "SUBSCRIBED -> START" in states("forget", "carol@x.example")
    assert storage.get(KEY, "Carol@X.example") == "START"


@pytest.mark.parametrize(
    ["arguments", "hint"],
    [
        ([ALICE, "SUBSCRIBD"], f"START, CONFIRMING, SUBSCRIBED in {MODULE}"),
        ([ALICE, "FORWARD"], "START, CONFIRMING, SUBSCRIBED"),
        ([ALICE, "SUBSCRIBED", "--to", "nwes"], "for example --to news"),
        ([ALICE, "SUBSCRIBED"], f"--to must be an address that {MODULE} handles; for example --to news"),
        (["alice", "SUBSCRIBED", "--to", "news"], "for example alice@people.example"),
    ],
)
def test_set_refuses_what_would_leave_a_sender_stuck(states, storage, arguments, hint):
    refusal = states("set", *arguments, exit_code=1)

    assert hint in refusal
    assert refusal.count("\n") == 1
    assert storage.get(KEY, ALICE) == "SUBSCRIBED"


@pytest.fixture
def tickets(room, home):
    """Handlers in two modules: `tickets` has a state for each ticket and sender, `desk` one for each sender."""
    (home / "tickets.py").write_text(TICKETS)
    (home / "desk.py").write_text(DESK)
    room.load(["tickets", "desk"])
    yield
    del sys.modules["tickets"], sys.modules["desk"]


def test_any_state_key_generator_is_asked_for_the_key(tickets, states, storage):
    assert states("set", ALICE, "OPEN", "--to", "ticket-17") == f"START -> OPEN  ticket 17  {ALICE}\n"
    assert states("set", ALICE, "OPEN", "--to", "ticket-18") == f"START -> OPEN  ticket 18  {ALICE}\n"
    assert states("set", ALICE, "ASKED") == f"START -> ASKED  desk  {ALICE}\n"
    assert states("reset", ALICE, "--to", "ticket-17") == f"OPEN -> START  ticket 17  {ALICE}\n"

    assert senders(states("list", "--json", "--to", "ticket-17")) == []
    assert senders(states("list", "--json", "--to", "ticket-18")) == [ALICE]
    assert storage.get("ticket 18", ALICE) == "OPEN"


def test_missing_address_is_refused_with_an_example_if_a_route_has_one(tickets, states):
    assert states("set", ALICE, "OPEN", exit_code=1) == "Error: --to must be an address that tickets handles\n"
    assert states("set", ALICE, "START", exit_code=1) == (
        f"Error: --to must be an address that {MODULE} or tickets or desk handles; for example --to news\n"
    )
    assert states("set", ALICE, "START", "--to", "help") == f"START -> START  desk  {ALICE}\n"


def test_import_refuses_a_file_and_a_shelf_together(states, tmp_path):
    file = tmp_path / "rows.jsonl"
    file.touch()

    assert "FILE and --shelve do not go together" in states("import", str(file), "--shelve", "any", exit_code=2)


def test_exported_rows_are_imported_unchanged(states, storage):
    storage.set(None, None, "SUBSCRIBED")
    storage.set("a\0b", "\ud800\r\n", "CONFIRMING")
    before = sorted(storage, key=repr)
    exported = states("export")
    storage.clear()

    assert exported.isascii()
    assert states("import", input=exported).startswith("4 rows: 4 new")
    assert sorted(storage, key=repr) == before


def test_import_overwrites_only_with_replace(states, storage):
    row = json.dumps({"key": KEY, "sender": BOB, "state": "SUBSCRIBED"})

    assert f"CONFIRMING -> SUBSCRIBED  {KEY}  {BOB}" in states("import", input=row, exit_code=1)
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
        json.dumps({"key": KEY, "sender": NEW, "state": "SUBSCRIBED"}),
    ],
)
def test_import_is_all_or_nothing(states, storage, line):
    first = json.dumps({"key": KEY, "sender": NEW, "state": "SUBSCRIBED"})
    before = list(storage)

    refusal = states("import", input=f"{first}\n{line}\n{first}\n", exit_code=1)

    assert "nothing was imported" in refusal
    assert "line 2 " in refusal or "row 2 " in refusal
    assert list(storage) == before


def test_storage_that_does_not_yield_its_rows_is_named(run):
    Router.STATE_STORE = ThreeMethods()

    result = run("states", "list")

    assert result.exit_code == 1
    assert "attached in config/boot.py: a storage must yield its rows" in result.output


DAY = 24 * 3600
NIGHTLY = ["expire", "--state", "CONFIRMING", "--older-than", "30d"]


@pytest.fixture
def dated(states, room, tmp_path):
    """An SQLite storage: Alice is SUBSCRIBED for 40 days, Bob CONFIRMING for 31, Carol for 29."""
    storage = Router.STATE_STORE = SQLiteStorage(tmp_path / "states")
    for sender, state, days in ((ALICE, "SUBSCRIBED", 40), (BOB, "CONFIRMING", 31), (CAROL, "CONFIRMING", 29)):
        storage.set(KEY, sender, state)
        age(storage, sender, days * DAY)
    yield storage
    storage.close()


def age(storage, sender, seconds):
    """Let the states of a sender have changed that long ago."""
    with storage.transaction() as transaction:
        update = "UPDATE states SET changed = ? WHERE sender = ?"
        transaction.connection.execute(update, (time.time() - seconds, sender))


def test_list_shows_when_a_state_changed(states, dated):
    age(dated, ALICE, 0)
    dated.set(KEY, ALICE, "SUBSCRIBED")
    now = datetime.now(timezone.utc)

    shown = states("list", "--sender", ALICE)
    changed = json.loads(states("list", "--sender", ALICE, "--json"))["changed"]

    assert re.search(r" (\S+Z)  ", shown)[1][:10] == f"{now:%Y-%m-%d}"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", changed)
    assert abs((now - datetime.fromisoformat(changed)).total_seconds()) < 60


def test_list_has_no_date_when_the_storage_does_not_know_it(states):
    assert states("list", "--sender", ALICE).split() == ["SUBSCRIBED", KEY, ALICE]
    assert json.loads(states("list", "--sender", ALICE, "--json"))["changed"] is None


def test_exported_row_has_three_fields_and_no_date(states, dated):
    rows = [json.loads(line) for line in states("export").splitlines()]

    assert [row.keys() for row in rows] == [{"key", "sender", "state"}] * 3


@pytest.mark.parametrize(
    ["options", "expected"],
    [
        (["--older-than", "30d"], [ALICE, BOB]),
        (["--older-than", "950h"], [ALICE]),
        (["--older-than", "60000m"], []),
        (["--older-than", "30d", "--state", "CONFIRMING"], [BOB]),
        (["--older-than", "0m"], [ALICE, BOB, CAROL]),
    ],
)
def test_list_older_than_shows_only_old_states(states, dated, options, expected):
    assert senders(states("list", "--json", *options)) == expected


@pytest.mark.parametrize("age", ["30", "d", "-1d", "30 d", "1.5h", "30w", ""])
def test_age_needs_a_number_and_a_unit(states, age):
    refusal = states("list", f"--older-than={age}", exit_code=2)

    assert f"{age!r} must be a number of days (d), hours (h) or minutes (m); for example 30d" in refusal


@pytest.mark.parametrize("command", [["list", "--older-than", "30d"], NIGHTLY])
def test_age_is_refused_when_the_storage_does_not_know_it(states, storage, command):
    before = list(storage)

    refusal = states(*command, exit_code=1)

    assert refusal == f"Error: --older-than: {Router.STATE_STORE!r} does not know when a state changed\n"
    assert list(storage) == before


def test_expire_puts_old_states_back_to_the_start(states, dated):
    assert states(*NIGHTLY) == f"CONFIRMING -> START  {KEY}  {BOB}\n1 expired\n"

    assert [row[1:3] for row in dated.rows()] == [(ALICE, "SUBSCRIBED"), (CAROL, "CONFIRMING")]
    assert states(*NIGHTLY) == "0 expired\n"


def test_expire_to_an_address_leaves_states_at_other_addresses(states, dated):
    dated.set(f"{MODULE}:other", BOB, "CONFIRMING")
    age(dated, BOB, 31 * DAY)

    assert states(*NIGHTLY, "--to", "news").splitlines()[-1] == "1 expired"
    assert dated.get(f"{MODULE}:other", BOB) == "CONFIRMING"


def test_expire_of_a_state_without_senders_is_no_error(states, dated):
    dated.clear()

    assert states(*NIGHTLY) == "0 expired\n"


def test_expire_refuses_an_unknown_state(states, dated):
    refusal = states("expire", "--state", "CONFIRMIN", "--older-than", "30d", exit_code=1)

    assert refusal == "Error: no sender is in the state CONFIRMIN; states that there are: CONFIRMING, SUBSCRIBED\n"


def test_expire_takes_a_state_whose_handler_was_deleted(states, dated):
    dated.set(KEY, BOB, "GONE")
    age(dated, BOB, 31 * DAY)

    assert states("expire", "--state", "GONE", "--older-than", "30d").splitlines()[-1] == "1 expired"


@pytest.mark.parametrize("options", [["--state", "CONFIRMING"], ["--older-than", "30d"]])
def test_expire_needs_a_state_and_an_age(states, dated, options):
    assert "Missing option" in states("expire", *options, exit_code=2)
    assert len(list(dated)) == 3


@pytest.mark.parametrize("state", ["SUBSCRIBED", "CONFIRMING"])
def test_expire_leaves_a_sender_who_wrote_after_the_rows_were_read(states, dated, monkeypatch, state):
    rows = list(dated.rows())
    monkeypatch.setattr(dated, "rows", lambda: iter(rows))
    dated.set(KEY, BOB, "START")
    dated.set(KEY, BOB, state)

    assert states(*NIGHTLY) == "0 expired\n"
    assert dated.get(KEY, BOB) == state


def test_expire_waits_for_the_mail_of_a_sender(states, dated):
    other = SQLiteStorage(dated.path)

    with other.transaction(BOB):
        refusal = states(*NIGHTLY, exit_code=1)

    assert "Another mail of this sender is being handled" in refusal
    assert dated.get(KEY, BOB) == "CONFIRMING"
