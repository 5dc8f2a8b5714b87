"""The pytest plugin clears everything before each test, and collects transcripts as tests."""

import re

import pytest

from tests.baking import APPLICATION, TEMPLATE

pytest_plugins = ["pytester"]
CONFTEST = """
import salmon.utils
from types import SimpleNamespace
from salmon.routing import MemoryStorage, Router

from mailroom import Mailroom
from mailroom.testing import Outbox

pytest_plugins = ["mailroom.testing.plugin"]
Router.STATE_STORE = MemoryStorage()
salmon.utils.settings = SimpleNamespace(relay=Outbox())
salmon.utils.settings.room = Mailroom(
    salmon.utils.settings.relay,
    domain="example.com",
    templates="tests.mailroom/templates",
    tables=lambda connection: connection.execute("CREATE TABLE IF NOT EXISTS visits (sender TEXT)"),
    secret_key="for tests",
)
salmon.utils.settings.room.load(["tests.mailroom.trial_list"])
"""
TESTS = """
import unittest

import pytest

from mailroom.room import current
from mailroom.testing import assert_in_state, receive
from tests.mailroom.trial_list import CONFIRMING, START


def assert_clear_and_use():
    assert_in_state(START, "alice@people.example", "news")
    assert current().relay.sent == []
    with current().transaction() as transaction:
        assert transaction.connection.execute("SELECT * FROM visits").fetchall() == []
        transaction.connection.execute("INSERT INTO visits VALUES ('alice@people.example')")
    current().reply_limit.replies_per_hour = 1
    receive("alice@people.example", "news-subscribe")
    assert_in_state(CONFIRMING, "alice@people.example", "news")
    assert receive("alice@people.example", "news-subscribe") == []


@pytest.mark.parametrize("time", ["first", "second"])
def test_function(time):
    assert_clear_and_use()


class TestMethod:
    test_first = test_second = lambda self: assert_clear_and_use()


class TestUnittest(unittest.TestCase):
    test_first = test_second = lambda self: assert_clear_and_use()


@pytest.fixture
def alice():
    receive("alice@people.example", "news-subscribe")


def test_fixtures_come_after(alice):
    assert_in_state(CONFIRMING, "alice@people.example", "news")
"""
JOIN = b"""
alice@people.example -> news-subscribe
<- Subject: Please confirm your subscription to news
"""


@pytest.fixture
def run(pytester, monkeypatch):
    """A function: run pytest with these files in `tests/`, and return its `RunResult`."""
    monkeypatch.setenv("PYTHONPATH", f"{TEMPLATE}:{APPLICATION}")
    pytester.makeini("[pytest]\ntestpaths = tests\n")

    def run(files):
        for name, octets in {"conftest.py": CONFTEST.encode(), **files}.items():
            path = pytester.path / "tests" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(octets)
        return pytester.runpytest_subprocess("-v", "-p", "no:cacheprovider")

    return run


def test_everything_is_cleared_before_every_test_and_before_every_transcript(run):
    result = run(
        {
            "test_clearing.py": TESTS.encode(),
            "conversations/joins.txt": JOIN,
            "conversations/joins_again.txt": JOIN + b"[CONFIRMING]\n",
            "notes.txt": b"This is no transcript.\n",
            "conversations/notes.md": b"Nor is this.\n",
        }
    )

    result.assert_outcomes(passed=9)
    result.stdout.fnmatch_lines(["tests/conversations/joins.txt::goes_as_written PASSED*"])


def test_difference_is_shown_without_a_traceback_and_any_other_error_with_it(run):
    result = run(
        {
            "conversations/joins.txt": JOIN + b"[SUBSCRIBED]\n",
            "conversations/latin.txt": b"# caf\xe9\n",
            "conversations/nonsense.txt": b"nonsense\n",
        }
    )

    result.assert_outcomes(failed=3)
    text = result.stdout.str()
    joins, latin, nonsense = re.split(r"_+ \w+\.txt goes as written _+\n", text.partition("= short test summary")[0])[
        1:
    ]
    assert joins.startswith(
        "joins.txt, line 4 does not hold:\n\n    [SUBSCRIBED]\n\nThis came instead:\n\n"
        "    <- Subject: Please confirm your subscription to news\n"
    )
    assert nonsense.startswith("nonsense.txt, line 1: 'nonsense' is none of: ")
    assert ".py" not in joins and ".py" not in nonsense
    assert "plugin.py" in latin and "UnicodeDecodeError" in latin
