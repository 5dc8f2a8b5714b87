"""Send mails in random order, with failures, and check promises that hold for all handlers.

    def test_promises_hold_in_any_order():
        play_in_any_order(end_states=["DONE"])

Mails go to addresses that Hypothesis makes up from the routes, and to those in replies, with words from the code of the
handlers. A broken promise is printed as a transcript. States and own tables are in memory meanwhile, whatever storage
is attached.
"""

import inspect
import io
import re
import sqlite3
import sys
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack, nullcontext, suppress
from pathlib import Path
from random import Random
from typing import Any
from unittest.mock import patch

import hypothesis
import pytest
from hypothesis import strategies as st
from salmon.routing import ROUTE_FIRST_STATE, MemoryStorage, Router

from mailroom.loops import ReplyLimit
from mailroom.room import current
from mailroom.storage import Storage
from mailroom.storage.joined import JoinedStorage
from mailroom.testing.exchange import Exchange, Move, exchange, make_mail
from mailroom.testing.transcript import Difference, Recorder, Transcript, text_of

TRANSCRIPTS = Path("tests/conversations")
SENDERS = ["alice@people.example", "bob@people.example"] * 5 + [""]
AUTOMATED = [[("Auto-Submitted", "auto-replied")], [("List-Id", "<a.example>")], [("Precedence", "bulk")]]
MAILS = 30  # in each conversation
OURS = re.compile("(sqlite_.*|states|handled|outgoing|outbox|mail_states_.*|django_migrations)$")  # tables
Mail = tuple[str, str, list[tuple[str, str]], str]  # sender, recipient, headers, text
FEW, ENOUGH = 5, 20  # mails in a state, before more of them look for a way out, and before there is none


def play_in_any_order(end_states: Sequence[str] = (), conversations: int = 6) -> None:
    """Play that many `conversations`; fail the test when a promise is broken, or when a state has no way out.

    `end_states` names the states in which a conversation may end. From any other, a mail that was played here
    or in `tests/conversations` must lead back to START or to an end state, maybe by way of others.
    """
    routes = [(format, len(handlers)) for format, (_, handlers) in Router.REGISTERED.items()]
    addresses = [address for format, number in routes for address in _addresses(format) * number]
    words, moves, failure = _words(), Counter(_moves_in_transcripts()), None
    try:
        for number in range(4 * conversations):
            if number >= conversations and not _without_way_out(moves, end_states, FEW):
                break
            # The same conversations each time, every other one without a word.
            moves.update(_play(Random(number), addresses, words if number % 2 else [""]))
    except BrokenPromise as broken:
        failure = "{0}:\n\n{2}".format(*_shortest(broken).args)
    if stuck := not failure and _without_way_out(moves, end_states, ENOUGH):
        failure = (
            f"No mail led from {' or '.join(map('.'.join, stuck))} back to START, neither here nor in {TRANSCRIPTS}/."
            " Add a transcript that does, or name the states in which a conversation may end:"
            f" play_in_any_order(end_states={sorted({*end_states, *(state for _, state in stuck)})})"
        )
    if failure:
        pytest.fail(failure, pytrace=False)


def _play(random: Random, addresses: list[str], words: list[str]) -> list[Move]:
    """Play a conversation, return its moves, and raise `BrokenPromise`."""
    moves = []
    with _Conversation() as conversation:
        for _ in range(MAILS):
            sender = random.choice(SENDERS)
            replied = conversation.replied.get(sender, addresses)
            recipient = random.choice(random.choice([addresses, replied]))
            subject, text = random.choices(words, k=2)
            headers = ([("Subject", subject)] if subject else []) + random.choice([[]] * 9 + AUTOMATED)
            for _ in range(random.choice([1] * 9 + [2])):  # a mail may come again
                moves += conversation.take(sender, recipient, headers, text).moves
    return moves


def _fail(*arguments: Any) -> None:
    raise OSError("there is trouble")  # a new one each time: one that is kept keeps the frames of all its tracebacks


class BrokenPromise(Exception):
    """Has a promise that does not hold, the mails that led there, and their transcript."""


class _Conversation(ExitStack):
    """Takes mails one by one, with states, own tables and a reply limit of its own, and raises `BrokenPromise`."""

    def __init__(self) -> None:
        super().__init__()
        attached = Router.STATE_STORE
        self.states = _NotedStates(MemoryStorage(), attached.in_memory() if isinstance(attached, Storage) else None)
        self.rows = self.states.states.states
        self.mails: list[Mail] = []
        self.kept: set[bytes] = set()  # the octets of mails that have changed something
        self.deliveries: list[Any] = []
        self.replied: dict[str, list[str]] = {}  # the addresses in the last reply to each sender
        self.troubles: dict[str | None, Any] = {
            "the storage is down": patch.object(self.states.states, "get", _fail),
            "the last line of the handler is wrong": patch.object(self.states, "set", _fail),
            "a crash before the states are kept": patch.object(self.states.states, "set", _fail),
            "a crash before own tables are kept": patch.object(self.states.database, "commit", _fail),
        }
        self.enter_context(patch.object(Router, "STATE_STORE", self.states))
        self.enter_context(patch.object(current(), "_storage", self.states))
        self.enter_context(patch.object(current(), "reply_limit", ReplyLimit(10**6)))
        self.enter_context(patch.object(current().relay, "sent", []))
        if tables := current().tables:
            self.states.create_tables(tables)

    def take(
        self, sender: str, recipient: str, headers: list[tuple[str, str]], text: str, troubles: bool = True
    ) -> Exchange:
        """Take a mail, a person's in every trouble first, as its server tries again; return the `Exchange`."""
        self.mails.append((sender, recipient, headers, text))
        identity = ("Message-ID", f"<{self.mails.index(self.mails[-1])}@people.example>")
        data = make_mail(sender, recipient, [*headers, identity], text + "\n")
        automated = not sender or any(name != "Subject" for name, _ in headers)
        before = dict(self.rows)
        for trouble in self.troubles if troubles and not automated else ():
            self._deliver(data, trouble)
        result = self._deliver(data)
        if result.refusal:
            self._promise(result.refusal.startswith("5"), "a mail was not handled, without any trouble")
        if automated:
            self._promise(self.rows == before, "automated mail changed a state")
            answered = any(not to or sender in to.split(",") for to, _ in result.sent)
            self._promise(not answered, "automated mail was answered")
        elif not result.refusal and result.note != "handled before":
            self._promise(result.handlers, "250 was answered, and no handler took the mail")
        for to, reply in result.sent:
            text = f"{reply['Reply-To']} {reply['From']} {text_of(reply)}"
            if not to and (found := re.findall(rf"[\w.+-]+@{re.escape(current().domain)}\b", text)):
                self.replied[sender] = list(dict.fromkeys(found))
        return result

    def _deliver(self, data: bytes, trouble: str | None = None) -> Exchange:
        """Deliver the last mail, which is this `data`."""
        sender, recipient, headers, text = self.mails[-1]
        before = rows, own = dict(self.rows), self._own_tables()
        self.states.returned.clear()
        with self.troubles.get(trouble, nullcontext()):
            result = exchange(sender, recipient, data)
        self.deliveries.append((trouble if result.refusal else None, result, headers, text))
        if not result.refusal:
            self._promise(not (result.handlers and data in self.kept), "a mail that was handled was handled again")
            rows = rows | self.states.returned
            rows = {cell: state for cell, state in rows.items() if state != ROUTE_FIRST_STATE}
        self._promise(self.rows == rows, "the stored states are not those that the handlers returned")
        after = self.rows, self._own_tables()
        if result.refusal:
            self._promise(after[1] == own, "a mail that was not handled changed an own table")
            self._promise(not result.sent, "a mail that was not handled sent something")
        elif after != before:
            self.kept.add(data)
        return result

    def _own_tables(self) -> dict[str, list[Any]]:
        """Return the rows of each table in the database, except for those of the package and of SQLite."""
        with self.states.transaction() as here:
            connection = here.connection  # or what wraps that of SQLite
            while not isinstance(connection, sqlite3.Connection):
                connection = getattr(connection, "driver_connection", None) or connection.connection
            query = "SELECT name FROM sqlite_master WHERE type = 'table'"
            names = {name for (name,) in connection.execute(query) if not OURS.match(name)}
            return {name: connection.execute(f'SELECT * FROM "{name}"').fetchall() for name in names}

    def _promise(self, kept: object, promise: str) -> None:
        """Raise `BrokenPromise` unless it is kept; its transcript leaves out the trouble before."""
        if kept:
            return
        transcript = io.StringIO()
        recorder = Recorder(transcript)
        for number, (trouble, *recorded) in enumerate(self.deliveries, 1):
            if trouble and number == len(self.deliveries):
                transcript.write(f"# Now there is trouble: {trouble}.\n")
            if not trouble or number == len(self.deliveries):
                recorder.record(*recorded)
        raise BrokenPromise(promise, self.mails, transcript.getvalue())


class _NotedStates(JoinedStorage):
    """Notes in `returned` which states the handlers return."""

    def __init__(self, states: MemoryStorage, database: Storage | None) -> None:
        super().__init__(states, database)
        self.returned: dict[str, str] = {}

    def set(self, key: str | None, sender: str | None, state: str) -> None:
        self.returned[self.states.key(key, sender)] = state
        super().set(key, sender, state)


def _shortest(broken: BrokenPromise) -> BrokenPromise:
    """Return a `BrokenPromise` of as few mails as still break the same promise."""
    promise: str = broken.args[0]
    mails: list[Mail] = broken.args[1]
    for size in (8, 2, 1):  # many at a time first: each try plays all that is left
        for start in reversed(range(0, len(mails), size)):
            fewer = mails[:start] + mails[start + size :]
            try:
                with _Conversation() as conversation:
                    for count, mail in enumerate(fewer, 1):
                        conversation.take(*mail, troubles=count == len(fewer))
            except BrokenPromise as again:
                if again.args[0] == promise:
                    broken, mails = again, again.args[1]
    return broken


def _addresses(format: str) -> list[str]:
    """Return addresses that Hypothesis makes up for the format of a route."""
    plain = st.characters(min_codepoint=33, max_codepoint=126, exclude_characters='()<>[]:;\\,"')  # needs no quotes
    address = st.from_regex(re.compile(format, re.ASCII), fullmatch=True, alphabet=plain)
    addresses: list[str] = []

    # Of two examples the first is the simplest, and the last counts.
    @hypothesis.settings(
        max_examples=2, derandomize=True, deadline=None, suppress_health_check=[*hypothesis.HealthCheck]
    )
    @hypothesis.given(st.lists(address, min_size=20, max_size=20))
    def make_up(made_up: list[str]) -> None:
        addresses[:] = made_up

    make_up()
    return addresses


def _words() -> list[str]:
    """Return short texts in the code of the handlers, which may wait for them in a subject or a text."""
    code = "\n".join(inspect.getsource(sys.modules[module]) for module in Router.HANDLERS)
    texts = [text for pair in re.findall(r"""\"(.{1,30}?)\"|'(.{1,30}?)'""", code) for text in pair]
    return sorted({"", *(word for text in texts for word in re.findall(r"\w[\w ',.!?-]*", text))})


def _moves_in_transcripts() -> list[Move]:
    """Return the moves that the transcripts make, as far as they hold."""
    moves = []
    for path in TRANSCRIPTS.rglob("*.txt"):
        with _Conversation(), suppress(Difference, UnicodeError):
            for _, result in Transcript(path.name, path.read_text("utf-8")).play():
                moves += result.moves
    return moves


def _without_way_out(moves: Counter[Move], end_states: Sequence[str], enough: int) -> list[tuple[str, str]]:
    """Return the `(module, state)` pairs from which no move leads on to START or to an end state.

    `moves` counts `(module, state, next state)`. A state in which fewer mails came than `enough` is not judged.
    """
    mails: Counter[tuple[str, Any]] = Counter()
    for (module, state, _), number in moves.items():
        mails[module, state] += number
    back = {(module, state) for module, *states in moves for state in states}
    back = {place for place in back if place[1] in (ROUTE_FIRST_STATE, *end_states) or mails[place] < enough}
    for _ in mails:
        back |= {(module, state) for module, state, target in moves if (module, target) in back}
    return sorted(set(mails) - back)
