"""The pytest plugin clears everything before each test, and collects transcripts as tests."""

import pytest

from tests.baking import TEMPLATE

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
    salmon.utils.settings.relay, domain="example.com", templates="tests.mailroom/templates", secret_key="for tests"
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
JOIN = (
    "# Alice joins.\n\nalice@people.example -> news-subscribe\n<- Subject: Please confirm your subscription to news\n"
)


@pytest.fixture
def run(pytester, monkeypatch):
    """A function: run pytest in a folder of its own, and return its `RunResult`."""
    monkeypatch.setenv("PYTHONPATH", f"{TEMPLATE}:{TEMPLATE / '{{cookiecutter.project}}'}")
    pytester.makeini("[pytest]\ntestpaths = tests\n")
    conversations = pytester.mkdir("tests") / "conversations"
    conversations.mkdir()
    (conversations.parent / "conftest.py").write_text(CONFTEST)

    def run(*arguments, tests="", **transcripts):
        (conversations.parent / "test_clearing.py").write_text(tests)
        for name, text in transcripts.items():
            (conversations / f"{name}.txt").write_text(text)
        return pytester.runpytest_subprocess("-p", "no:cacheprovider", *arguments)

    return run


def test_everything_is_cleared_before_every_test_without_asking(run):
    run("-v", tests=TESTS, first=JOIN, second=f"{JOIN}[CONFIRMING]\n").assert_outcomes(passed=9)


def test_transcript_is_a_test_with_its_name(run, pytester):
    (pytester.path / "notes.txt").write_text("These are no transcript.\n")
    (pytester.path / "tests" / "notes.txt").write_text("Nor are these.\n")

    result = run("-v", joins=JOIN)

    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["tests/conversations/joins.txt::goes_as_written PASSED*"])


def test_difference_is_shown_without_a_traceback(run):
    result = run(joins=f"{JOIN}[SUBSCRIBED]\n", nonsense="nonsense\n")

    result.assert_outcomes(failed=2)
    result.stdout.fnmatch_lines(
        [
            "*joins.txt goes as written*",
            "joins.txt, line 5 does not hold:",
            "    [[]SUBSCRIBED[]]",
            "This came instead:",
            "    [[]CONFIRMING[]]",
            "*nonsense.txt goes as written*",
            "nonsense.txt, line 1: 'nonsense' is none of: *",
        ]
    )
    result.stdout.no_fnmatch_line("*Traceback*")
    result.stdout.no_fnmatch_line("*transcript.py*")


def test_failure_of_the_plugin_itself_has_its_traceback(run, pytester):
    run()  # makes the folders
    (pytester.path / "tests" / "conversations" / "latin.txt").write_bytes(b"# caf\xe9\n")

    result = run()

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*UnicodeDecodeError*"])
