"""`operate.py outbox`: what has not left is listed, retried and dropped; `check` and `states forget` know of it."""

import json
import time
from email.message import EmailMessage

import pytest
from salmon.routing import MemoryStorage, Router

from mailroom import outbox
from mailroom.relay import Relay
from mailroom.storage.sqlite import SQLiteStorage
from mailroom.testing import Outbox

ALICE, BOB, CAROL = "alice@people.example", "Bob@people.example", "carol@people.example"


@pytest.fixture
def waiting(room, tmp_path):
    """The storage: Alice and Bob wait for a mail, and it was refused for Carol."""
    room.relay = Relay("127.0.0.1", 1)
    Router.STATE_STORE = SQLiteStorage(tmp_path / "mail.sqlite")
    mail = EmailMessage()
    mail["From"] = "news@example.com"
    room.send(mail, to=[ALICE, BOB])
    room.send(mail, to=CAROL)
    with room.storage.transaction() as here:
        here.connection.execute(
            "UPDATE outbox SET due = NULL, tries = 1, answer = '550 5.1.1 nobody' WHERE recipient = ?", (CAROL,)
        )
    yield room.storage
    room.storage.close()


def recipients(storage):
    return [row.recipient for row in outbox.rows(storage)]


def test_list_shows_age_recipient_tries_and_answer(run, waiting):
    with waiting.transaction() as here:
        here.connection.execute("UPDATE outgoing SET created = ?", (time.time() - 7500,))
    lines = run("outbox").stdout.splitlines()

    assert [line.split()[1:] for line in lines[:2]] == [
        ["2:05:00", BOB, "0", "tries", "waits"],
        ["2:05:00", ALICE, "0", "tries", "waits"],
    ]
    assert lines[2].endswith(f"  2:05:00  {CAROL}  1 tries  refused, 550 5.1.1 nobody")
    assert lines[3] == "3 in all"


def test_list_as_json_is_one_object_a_line(run, waiting):
    rows = [json.loads(line) for line in run("outbox", "--json").stdout.splitlines()]

    assert [(row["recipient"], row["refused"]) for row in rows] == [(BOB, False), (ALICE, False), (CAROL, True)]


def test_retry_makes_refused_mail_due_and_leaves_mail_that_a_worker_is_sending(run, waiting):
    with waiting.transaction() as here:
        here.connection.execute("UPDATE outbox SET due = ? WHERE recipient = ?", (time.time() + 3600, BOB))
    printed = run("outbox", "retry", "--to", "*@PEOPLE.example").stdout

    assert printed.count("retry  ") == 2 and printed.endswith("2 in all, 1 are due already\n")
    assert all(row.due <= time.time() for row in outbox.rows(waiting))


def test_drop_deletes_one_mail_by_its_id(run, waiting):
    refused = outbox.rows(waiting, "recipient = ?", CAROL)[0]
    run("outbox", "drop", str(refused.mail))

    assert recipients(waiting) == [BOB, ALICE]
    assert waiting.fetch("SELECT count(*) FROM outgoing") == [(1,)]


@pytest.mark.parametrize(
    "arguments, error",
    [
        (["drop"], "give an ID or --to; for example --to '*@people.example', or '*' for all"),
        (["retry", "7"], "no such mail is waiting: 7; `operate.py outbox` lists them"),
    ],
)
def test_command_that_matches_no_mail_changes_nothing(run, waiting, arguments, error):
    result = run("outbox", *arguments)

    assert result.exit_code and error in result.output
    assert len(recipients(waiting)) == 3


def test_outbox_in_memory_cannot_be_listed(run, room):
    Router.STATE_STORE = MemoryStorage()
    result = run("outbox")

    assert result.exit_code == 1 and "its outbox is in the memory of the server" in result.output


def test_forget_drops_the_mail_to_a_sender_by_batv_too_and_not_to_a_subaddress(run, room, waiting):
    tagged = ["prvs=1234ABCDEF=bob@People.example", "btv1==abc==bob@people.example"]
    with room.transaction() as here:
        here.send(b"\r\n", [*tagged, "prvs=1234abcdef=alice@people.example", "bob+news@people.example"], "<>")
    printed = run("states", "forget", "bob@people.example").stdout

    assert sorted(recipients(waiting)) == sorted(
        [ALICE, CAROL, "prvs=1234abcdef=alice@people.example", "bob+news@people.example"]
    )
    assert all(f"  {recipient}\n" in printed for recipient in [BOB, *tagged])


def test_check_reports_mail_that_was_refused_or_has_waited_for_long(run, room, waiting):
    room.relay = Outbox()

    def told():
        (found,) = [it for it in json.loads(run("check", "--json").stdout)["checks"] if it["name"] == "outbox"]
        return found["ok"], found["text"]

    assert told() == (False, f"mail to {CAROL} was refused (550 5.1.1 nobody), 1 in all; see `operate.py outbox`")
    run("outbox", "drop", "--to", CAROL)
    assert told() == (True, "2 waiting")
    with waiting.transaction() as here:
        here.connection.execute("UPDATE outgoing SET created = ?", (time.time() - 601,))
    assert told() == (False, f"mail to {BOB} has waited for long (no relay), 2 in all; see `operate.py outbox`")
    run("outbox", "drop", "--to", "*")
    assert told() == (True, "empty")
