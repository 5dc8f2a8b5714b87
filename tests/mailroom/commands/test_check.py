"""`operate.py check` finds what is wrong with an installation and its handlers, and says what to do."""

import json
import sys
from importlib import metadata

import pytest
from salmon.routing import Router

from mailroom.storage.sqlite import SQLiteStorage
from tests.mailroom.commands.conftest import WalkableStorage

MODULE = "tests.mailroom.trial_list"


@pytest.fixture
def check(run, room):
    """A function: run `operate.py check`, and return what is wrong as `{name: text}`."""
    room.relay.hostname = "127.0.0.1"  # where the name of a host is not looked up

    def check(*options):
        result = run("check", "--json", *options)
        found = json.loads(result.stdout)
        assert found["ok"] == all(one["ok"] for one in found["checks"]) == (result.exit_code == 0)
        return {one["name"]: one["text"] for one in found["checks"] if not one["ok"]}

    return check


def test_start_hidden_by_another_module_is_reported_for_each_address_in_the_routes(check, home, room):
    handler = "from salmon.routing import route\n\n@route({})\ndef START(message, **captures):\n    return START\n"
    (home / "second.py").write_text(handler.format('"(list_name)@(host)", list_name="dev|news"'))
    (home / "third.py").write_text(handler.format('".+@(host)"'))
    room.load(["second", "third"])

    found = check()["routes"].split("; ")
    del sys.modules["second"], sys.modules["third"]

    assert f"second.START never runs for news@example.com, since {MODULE}.START takes that mail" in found
    assert f"third.START never runs for news@example.com, since {MODULE}.START takes that mail" in found
    assert "third.START never runs for dev@example.com, since second.START takes that mail" in found
    assert len(found) == 3


def test_start_hidden_by_another_module_on_the_same_route_is_reported(check, home, room):
    (home / "second.py").write_text(
        f"from salmon.routing import route_like\nfrom {MODULE} import START as FIRST\n\n"
        "@route_like(FIRST)\ndef START(message, **captures):\n    return START\n"
    )
    room.load(["second"])

    found = check()["routes"].split("; ")
    del sys.modules["second"]

    assert len(found) == 2
    assert found[0].startswith("second.START never runs for ^(?P<list_name>news)")


def test_unsupported_version_of_salmon_is_reported(check, monkeypatch):
    monkeypatch.setattr(metadata, "version", lambda name: "3.4.0")

    assert check()["versions"].startswith("salmon-mail is 3.4.0; install salmon-mail>=3.3.0,<3.4")


def test_check_accepts_a_future_python(check, monkeypatch):
    monkeypatch.setattr(sys, "version", "3.99.0 (main)")

    assert "versions" not in check()


def test_application_that_cannot_boot_is_reported_and_checked_no_further(check, home):
    (home / "config" / "boot.py").write_text("import no_such_module\n")

    assert check() == {
        "settings": "the application cannot start: ModuleNotFoundError: No module named 'no_such_module'"
    }


def test_stored_state_without_a_handler_is_reported(check):
    Router.STATE_STORE = WalkableStorage()
    Router.STATE_STORE.set(f"{MODULE}:news", "alice@people.example", "GONE")

    assert check()["stored states"].startswith(f"stored states have no handler: {MODULE}.GONE (1)")


def test_damaged_database_is_reported(check, tmp_path):
    storage = Router.STATE_STORE = SQLiteStorage(tmp_path / "states")
    storage.set_all([(f"{MODULE}:news", f"{number}@people.example", "SUBSCRIBED") for number in range(1000)])
    assert "stored states" not in check()
    storage.close()
    with open(storage.path, "r+b") as database:
        database.seek(8 * 4096 + 8)
        database.write(b"\xff" * 2000)

    told = check()["stored states"]
    assert told.startswith(f"{storage!r} fails: ") and "stop the server and use `operate.py restore FILE`" in told
    storage.close()


def test_check_deletes_the_state_that_it_writes(check, tmp_path):
    storage = Router.STATE_STORE = SQLiteStorage(tmp_path / "states")

    assert "storage" not in check()
    assert list(storage) == []
    storage.close()
