"""The commands that the README gives for a backup bring all back: while the server runs, and after a crash."""

import re
import sqlite3
import threading

import pytest

ALICE = "alice@people.example"
SET = """
import os, sys
from mailroom.storage.sqlite import SQLiteStorage
storage = SQLiteStorage("run/states.sqlite3")
for number in range(int(sys.argv[1])):
    storage.set("app.handlers.subscription:news", f"{number}@people.example", "SUBSCRIBED")
os._exit(0)  # as by kill -9: what is in the -wal file stays there
"""


@pytest.fixture
def app(application):
    """An application with SQLite, whose subscriber Alice has written to the list."""
    app = application(state_storage="sqlite").start()
    app.run("python", "operate.py", "states", "set", ALICE, "SUBSCRIBED", "--to", "news", check=True)
    assert app.send(ALICE, "news", Message_ID="<saved@people.example>")[0] == 250
    return app


@pytest.fixture
def operate(app):
    """A function: run a command of the README, and return what it printed."""
    commands = re.findall(r"^uv run operate\.py (backup|restore) (\S+)", (app.folder / "README.md").read_text(), re.M)
    files = dict(commands)

    def operate(command, *options, returncode=0):
        result = app.run("python", "operate.py", command, *options, files[command])
        assert result.returncode == returncode, result.stderr
        return result.stdout + result.stderr

    return operate


def posts(app):
    with sqlite3.connect(app.folder / "run" / "states.sqlite3") as database:
        return database.execute("SELECT count(*) FROM posts").fetchone()[0]


def states(app):
    return app.run("python", "operate.py", "states", "list", check=True).stdout.count("SUBSCRIBED")


def test_running_server_finds_what_was_restored_at_its_next_mail(app, operate, sink):
    operate("backup")
    assert app.send(ALICE, "news", Message_ID="<later@people.example>")[0] == 250
    assert app.send(ALICE, "news-unsubscribe")[0] == 250
    sink.take()

    operate("restore", "--yes")

    assert (states(app), posts(app)) == (1, 1)
    assert app.send(ALICE, "news", Message_ID="<again@people.example>")[0] == 250
    assert [mail["Subject"] for mail in sink.take()] == ["Your mail to news has arrived"]
    assert posts(app) == 2
    assert app.terminate() == 0
    assert app.run("python", "operate.py", "check").returncode == 0


def test_server_answers_250_while_it_is_saved_and_restored_again_and_again(app, operate, sink):
    answers, stop = [], threading.Event()

    def write():
        while not stop.is_set():
            answers.append(app.send(ALICE, "news", Message_ID=f"<{len(answers)}@people.example>")[0])

    mails = threading.Thread(target=write)
    mails.start()
    try:
        operate("backup")
        for _ in range(3):
            operate("restore", "--yes")
    finally:
        stop.set()
        mails.join()

    assert len(answers) > 20
    assert set(answers) == {250}
    assert states(app) == 1
    assert app.terminate() == 0


def test_backup_is_restored_over_the_wal_of_a_crash(app, operate):
    operate("backup")
    app.kill()
    assert app.python(SET, "1100").returncode == 0
    assert (app.folder / "run" / "states.sqlite3-wal").stat().st_size

    operate("restore", "--yes")

    assert (states(app), posts(app)) == (1, 1)


def test_database_that_was_overwritten_is_restored_once_the_server_has_stopped(app, operate):
    operate("backup")
    database = app.folder / "run" / "states.sqlite3"
    database.write_bytes((app.folder / "run" / "states.backup").read_bytes())
    assert app.send(ALICE, "news", Message_ID="<lost@people.example>")[0] == 451

    refusal = operate("restore", "--yes", returncode=1)
    assert "was overwritten while it is in use; stop all workers" in refusal
    assert refusal.count("\n") == 1
    app.terminate()
    operate("restore", "--yes")

    assert (states(app), posts(app)) == (1, 1)
    app.start()
    assert app.send(ALICE, "news", Message_ID="<lost@people.example>")[0] == 250
    assert posts(app) == 2
