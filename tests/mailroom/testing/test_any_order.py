"""The any-order machine finds a broken promise and a state without a way out, and touches nothing."""

import itertools
import re
from pathlib import Path

import pytest
from salmon.routing import Router, StateStorage

from mailroom.testing import any_order
from mailroom.testing.any_order import play_in_any_order
from mailroom.testing.transcript import Transcript
from tests.mailroom import trial_list

TRIAL_LIST = Path(trial_list.__file__).read_text()
SUBSCRIBED = '    return answer(message, list_name, START if request == "-unsubscribe" else SUBSCRIBED)\n'
ASK = '    return answer(message, list_name, CONFIRMING if request == "-subscribe" else START)\n'
VISIT = "    message.connection.execute('INSERT INTO visits VALUES (?)', [message.From])\n"
FORWARD = "    message.forward(to=POSTMASTER)\n"
SEND = """
    from email.message import EmailMessage
    mail = EmailMessage()
    mail["From"], mail["To"], mail["Message-ID"] = "a@example.com", "eve@people.example", f"<{secrets.token_hex()}@a>"
    message.send(mail)
"""
FAULTS = {
    "function that is no state": (
        SUBSCRIBED,
        "    answer(message, list_name, START)\n    return answer\n",
        "a mail was not handled although nothing else failed",
    ),
    "exception": (SUBSCRIBED, "    raise KeyError(request)\n", "a mail was not handled although nothing else failed"),
    "exception after a word": (
        ASK,
        f"    if 'urgent' in message.text:\n        raise KeyError(request)\n{ASK}",
        "a mail was not handled although nothing else failed",
    ),
    "change outside of the mail": (
        SUBSCRIBED,
        "    Router.STATE_STORE.states.set(f'{__name__}:news', 'eve@people.example', 'SUBSCRIBED')\n" + SUBSCRIBED,
        "the stored states are not those that the handlers returned",
    ),
    "row that does not wait for the mail": (
        SUBSCRIBED,
        VISIT + "    message.connection.set_authorizer(None)\n    message.connection.commit()\n" + SUBSCRIBED,
        "a mail that was not handled changed an own table",
    ),
    "mail without a note": (
        ASK,
        "    message.transaction.note = None\n" + ASK,
        "a mail that was handled was handled again",
    ),
    "row without a note": (
        SUBSCRIBED,
        VISIT + "    message.transaction.note = None\n" + SUBSCRIBED,
        "a mail that was handled was handled again",
    ),
    "mail that does not wait": (
        SUBSCRIBED,
        "    from mailroom.relay import Envelope\n"
        "    message.room.relay.send_now(Envelope('<>', ('eve@people.example',), b'Subject: hi\\r\\n\\r\\n'))\n"
        + SUBSCRIBED,
        "a mail that was not handled sent something",
    ),
    "answer to automated mail": (
        FORWARD,
        "    if message.From:\n        message.forward(to=message.From)\n",
        "automated mail was answered",
    ),
    "state that automated mail changes": (
        FORWARD,
        "    Router.set_state(__name__, message, 'SUBSCRIBED')\n",
        "automated mail changed a state",
    ),
}


# `conversations=2`, of which there may be 8, where it does not matter how much is played.


def create_visits(connection):
    connection.execute("CREATE TABLE IF NOT EXISTS visits (sender TEXT)")


NUMBERS = itertools.count()


@pytest.fixture
def play(room, tmp_path, monkeypatch):
    """A function: play with these handlers, in an empty folder; return the text of the failure, or None."""
    room.tables = create_visits
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)

    def play(handlers, **options):
        name = f"handlers_{next(NUMBERS)}"
        (tmp_path / f"{name}.py").write_text(handlers)
        Router.clear_routes()
        Router.HANDLERS.clear()
        room.load([name])
        try:
            play_in_any_order(**options)
        except pytest.fail.Exception as failure:
            return str(failure)

    return play


def test_handlers_without_a_fault_pass(play):
    assert play(TRIAL_LIST) is None
    assert play(TRIAL_LIST.replace(SUBSCRIBED, VISIT + SUBSCRIBED)) is None


@pytest.mark.parametrize("fault", FAULTS)
def test_fault_in_a_handler_is_found_and_shown_as_a_short_transcript(play, fault):
    right, wrong, promise = FAULTS[fault]
    assert right in TRIAL_LIST
    handlers = TRIAL_LIST.replace("import route,", "import Router, route,").replace(right, wrong)

    told, _, transcript = play(handlers).partition(":\n\n")

    assert told == promise
    assert 1 <= len(Transcript("told", transcript).mails) <= 6
    if right == SUBSCRIBED:
        assert "@people.example -> news-subscribe\n" in transcript
        assert "[SUBSCRIBED]\n" in transcript


class Untouchable(StateStorage):
    """A storage that nobody may use."""

    def get(self, *arguments):
        raise AssertionError("the storage was used")

    set = clear = get


@pytest.mark.parametrize("handlers", [TRIAL_LIST, TRIAL_LIST.replace(SUBSCRIBED, "    raise KeyError\n")])
def test_storage_and_files_of_the_application_are_left_alone(play, room, tmp_path, handlers):
    Router.STATE_STORE = storage = Untouchable()
    before = room.reply_limit, Router.call_safely, room._storage

    play(handlers, conversations=2)

    assert Router.STATE_STORE is storage
    assert (room.reply_limit, Router.call_safely, room._storage) == before
    assert "send_now" not in vars(room.relay)
    assert {path.name for path in tmp_path.iterdir() if path.suffix != ".py"} <= {"__pycache__"}


STAYS = TRIAL_LIST.replace(SUBSCRIBED, "    return answer(message, list_name, SUBSCRIBED)\n")
MAGIC = TRIAL_LIST.replace(
    SUBSCRIBED, "    return answer(message, list_name, START if message['Subject'].count('x') == 9 else SUBSCRIBED)\n"
)
WAY_OUT = """
alice@people.example -> news-subscribe
<-
   Reply-To: {confirm}

alice@people.example -> {confirm}
<-
[SUBSCRIBED]

alice@people.example -> news
    Subject: xxxxxxxxx
<-
[START]
"""


def test_state_without_a_way_out_is_named_with_the_line_that_declares_it(play):
    failure = play(STAYS, conversations=3)

    assert ".SUBSCRIBED back to START" in failure
    assert "Add a transcript that does, or name the states in which a conversation may end" in failure
    assert failure.endswith("play_in_any_order(end_states=['CONFIRMING', 'SUBSCRIBED'])")


def test_declared_end_state_needs_no_way_out(play):
    assert play(STAYS, end_states=["SUBSCRIBED"], conversations=2) is None


def test_transcript_can_show_the_way_out_of_a_state(play, tmp_path):
    assert ".SUBSCRIBED back to START" in play(MAGIC, conversations=2)

    (tmp_path / "tests" / "conversations").mkdir(parents=True)
    (tmp_path / "tests" / "conversations" / "leave.txt").write_text(WAY_OUT)

    assert play(MAGIC, conversations=2) is None


def test_state_that_few_mails_reach_is_not_judged(play):
    rare = TRIAL_LIST.replace(ASK, f"    if message['Subject'] == 'hidden':\n        return HIDDEN\n{ASK}") + (
        '\n\n@route("hidden@(host)")\ndef HIDDEN(message, host):\n    return HIDDEN\n'
    )

    assert play(rare, conversations=2) is None


def test_route_for_which_no_address_can_be_made_up_is_named(play):
    failure = play(TRIAL_LIST.replace('"postmaster@(host)"', '"(?!p)postmaster@(host)"'))

    assert failure.startswith("No address could be made up for the route '^(?!p)postmaster@(?P<host>")


def test_addresses_are_the_same_in_each_process():
    """In each, a set of letters has another order."""
    assert any_order._addresses(re.compile(r"^[^@+]{9}\W@x$"))[0] == "cxgKxE^x-'@x"
