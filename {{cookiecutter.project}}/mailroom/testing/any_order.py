"""Deliver mails in random order, with failures, and check promises that hold for all handlers.

    def test_promises_hold_in_any_order():
        play_in_any_order(end_states=["DONE"])

Addresses are made up from the routes, and replies name more; texts are words from the code of the handlers. A broken
promise fails the test with a short transcript. States and own tables are in memory, whatever storage is attached.
"""

import inspect
import io
import re
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import ExitStack, nullcontext, suppress
from itertools import count, islice
from pathlib import Path
from random import Random
from typing import Any
from unittest.mock import Mock, patch

import pytest
from rstr import Rstr
from salmon.routing import ROUTE_FIRST_STATE, MemoryStorage, Router

from mailroom.loops import ReplyLimit
from mailroom.room import current
from mailroom.storage import Storage
from mailroom.storage.joined import JoinedStorage
from mailroom.testing import Exchange, Move, exchange, make_mail
from mailroom.testing.transcript import Difference, Recorder, Transcript

TRANSCRIPTS = Path("tests/conversations")
SENDERS = ["alice@people.example", "bob@people.example"] * 5 + [""]
AUTOMATED = [[("Auto-Submitted", "auto-replied")], [("List-Id", "<a.example>")], [("Precedence", "bulk")]]
SPECIAL = re.compile(r"[^!-~]|[()<>\[\]:;\\,\"]")  # what an address has only in quotes
LOCAL = re.compile("[^@]{1,64}(@|$)")  # RFC 5321, section 4.5.3.1.1
NOT_OWN = re.compile("(sqlite_.*|states|handled|outgoing|outbox|mail_states_.*|django_migrations)$")  # tables
Mail = tuple[str, str, list[tuple[str, str]], str]  # sender, recipient, headers, text
FEW, ENOUGH = 5, 20  # mails from a state: with fewer, play more conversations; with enough, it has no way out


def play_in_any_order(end_states: Sequence[str] = (), conversations: int = 6) -> None:
    """Play `conversations`; fail the test when a promise is broken, or when a state has no way out.

    `end_states` names the states in which a conversation may end. From any other state, mails that are played here or
    in `tests/conversations` must lead back to START or to an end state.
    """
    addresses = sum((_addresses(route) * len(handlers) for route, handlers in Router.REGISTERED.values()), list[str]())
    words, moves, failure = _words(), Counter(_moves_in_transcripts()), None
    try:
        for number in range(4 * conversations):
            if number >= conversations and not _without_way_out(moves, end_states, FEW):
                break
            # The same conversations each time, every other one without a word.
            moves.update(_play(Random(number), addresses, words if number % 2 else [""]))
    except BrokenPromise as broken:
        promise, _, transcript = _shortest(broken).args
        failure = f"{promise}:\n\n{transcript}"
    if stuck := not failure and _without_way_out(moves, end_states, ENOUGH):
        failure = (
            f"No mail led from {' or '.join(map('.'.join, stuck))} back to START, neither here nor in {TRANSCRIPTS}/."
            " Add a transcript that does, or name the states in which a conversation may end:"
            f" play_in_any_order(end_states={sorted({*end_states, *(state for _, state in stuck)})})"
        )
    if failure:
        pytest.fail(failure, pytrace=False)


def _play(random: Random, addresses: list[str], words: list[str]) -> list[Move]:
    """Play one conversation and return its moves, or raise `BrokenPromise`."""
    moves = []
    with _Conversation() as conversation:
        for _ in range(30):
            sender = random.choice(SENDERS)
            replied = conversation.replied.get(sender, addresses)
            recipient = random.choice(random.choice([addresses, replied]))
            subject, text = random.choices(words, k=2)
            headers = ([("Subject", subject)] if subject else []) + random.choice([[]] * 9 + AUTOMATED)
            failure = random.choice([*conversation.failures])
            for _ in range(random.choice([1, 1, 2])):  # a mail may come again
                moves += conversation.take((sender, recipient, headers, text), [failure]).moves
    return moves


class BrokenPromise(Exception):
    """Its `args` are what is wrong, the mails that led there, and their transcript."""


class _Conversation(ExitStack):
    """Delivers mails with states, own tables and a reply limit of its own, and raises `BrokenPromise`."""

    def __init__(self) -> None:
        super().__init__()
        attached = Router.STATE_STORE
        self.states = JoinedStorage(MemoryStorage(), attached.in_memory() if isinstance(attached, Storage) else None)
        self.rows = self.states.states.states
        self.mails: list[Mail] = []
        self.kept: set[bytes] = set()  # the octets of mails that changed something
        self.deliveries: list[Any] = []
        self.replied: dict[str, list[str]] = {}  # the addresses in the replies to each sender
        # A new exception each time: it keeps the frames of its tracebacks.
        fail = Mock(side_effect=(OSError("a failure for the test") for _ in count()))
        self.failures: dict[str | None, Any] = {
            "the storage is down": patch.object(self.states.states, "get", fail),
            "the handler fails in its last line": patch.object(self.states, "set", fail),
            "the states cannot be committed": patch.object(self.states.states, "set", fail),
            "the own tables cannot be committed": patch.object(self.states.database, "commit", fail),
        }
        self.returned = self.enter_context(patch.object(self.states, "set", wraps=self.states.set))
        self.enter_context(patch.object(Router, "STATE_STORE", self.states))
        self.enter_context(patch.object(current(), "_storage", self.states))
        self.enter_context(patch.object(current(), "reply_limit", ReplyLimit(10**6)))
        self.enter_context(patch.object(current().relay, "sent", []))
        if tables := current().tables:
            self.states.create_tables(tables)
        self.own = self._own_tables()

    def take(self, mail: Mail, failures: Iterable[str | None]) -> Exchange:
        """Deliver a mail and return the `Exchange`. A person's mail comes with each of the named failures first."""
        self.mails.append(mail)
        sender, recipient, headers, text = mail
        identity = ("Message-ID", f"<{self.mails.index(mail)}@people.example>")
        data = make_mail(sender, recipient, [*headers, identity], text + "\n")
        automated = not sender or any(name != "Subject" for name, _ in headers)
        before = dict(self.rows)
        for name in () if automated else failures:
            self._deliver(data, name)
        result = self._deliver(data)
        if result.refusal:
            self._promise(result.refusal.startswith("5"), "a mail was not handled although nothing else failed")
        if automated:
            self._promise(self.rows == before, "automated mail changed a state")
            answered = any(not to or sender in to.split(",") for to, _ in result.sent)
            self._promise(not answered, "automated mail was answered")
        elif not result.refusal and result.note != "handled before":
            self._promise(result.handlers, "a mail was answered 250 and reached no handler")
        for to, reply in result.sent:
            text = f"{reply['Reply-To']} {reply['From']} {reply.text}"
            if not to and (found := re.findall(rf"[\w.+-]+@{re.escape(current().domain)}\b", text)):
                self.replied[sender] = list(dict.fromkeys([*self.replied.get(sender, []), *found]))
        return result

    def _deliver(self, data: bytes, failure: str | None = None) -> Exchange:
        """Deliver the last mail, whose octets are `data`, while the named failure happens."""
        sender, recipient, headers, text = self.mails[-1]
        before = rows, own = dict(self.rows), self.own
        self.returned.reset_mock()
        with self.failures.get(failure, nullcontext()):
            result = exchange(sender, recipient, data)
        self.deliveries.append((failure if result.refusal else None, result, headers, text))
        if not result.refusal:
            self._promise(not (result.handlers and data in self.kept), "a mail that was handled was handled again")
            calls = [call.args for call in self.returned.call_args_list]
            rows = rows | {self.states.states.key(key, sender): state for key, sender, state in calls}
            rows = {cell: state for cell, state in rows.items() if state != ROUTE_FIRST_STATE}
        self._promise(self.rows == rows, "the stored states are not those that the handlers returned")
        self.own = self._own_tables()
        if result.refusal:
            self._promise(self.own == own, "a mail that was not handled changed an own table")
            self._promise(not result.sent, "a mail that was not handled sent something")
        elif (self.rows, self.own) != before:
            self.kept.add(data)
        return result

    def _own_tables(self) -> dict[str, list[Any]]:
        """Return the rows of each own table in the database, which is SQLite's."""
        names = [name for (name,) in self.states.fetch("SELECT name FROM sqlite_master WHERE type = 'table'")]
        return {name: self.states.fetch(f'SELECT * FROM "{name}"') for name in names if not NOT_OWN.match(name)}

    def _promise(self, kept: object, promise: str) -> None:
        """Raise `BrokenPromise` unless it is kept; leave earlier failures out of the transcript."""
        if kept:
            return
        transcript = io.StringIO()
        recorder = Recorder(transcript)
        *earlier, last = self.deliveries
        for failure, *recorded in [*(delivery for delivery in earlier if not delivery[0]), last]:
            if failure:
                transcript.write(f"# Now {failure}.\n")
            recorder.record(*recorded)
        raise BrokenPromise(promise, self.mails, transcript.getvalue())


def _shortest(broken: BrokenPromise) -> BrokenPromise:
    """Return a `BrokenPromise` of the same promise with as few mails as break it."""
    promise, mails, _ = broken.args
    for size in (8, 2, 1):  # many at a time first: each try plays all that is left
        for start in reversed(range(0, len(mails), size)):
            fewer = mails[:start] + mails[start + size :]
            try:
                with _Conversation() as conversation:
                    for count, mail in enumerate(fewer, 1):
                        conversation.take(mail, conversation.failures if count == len(fewer) else ())
            except BrokenPromise as again:
                if again.args[0] == promise:
                    broken, mails = again, again.args[1]
    return broken


class _Sorting(Random):
    def choice(self, values: Any) -> Any:  # from sets, too, which have another order in each process
        return super().choice(sorted(values, key=repr))


def _addresses(route: re.Pattern[str]) -> list[str]:
    """Return addresses that match a route, the same ones each time."""
    rstr = Rstr(_Sorting(route.pattern))
    made_up = (SPECIAL.sub("x", rstr.xeger(route)) for _ in range(1000))
    addresses = list(islice((address for address in made_up if route.match(address) and LOCAL.match(address)), 50))
    if not addresses:
        pytest.fail(f"No address could be made up for the route {route.pattern!r}", pytrace=False)
    return addresses


def _words() -> list[str]:
    """Return the short texts in the code of the handlers, which may look for them in a mail."""
    code = "\n".join(inspect.getsource(sys.modules[module]) for module in Router.HANDLERS)
    texts = [text for pair in re.findall(r"""\"(.{1,30}?)\"|'(.{1,30}?)'""", code) for text in pair]
    return sorted({"", *(word for text in texts for word in re.findall(r"\w[\w ',.!?-]*", text))})


def _moves_in_transcripts() -> list[Move]:
    """Return the moves of the transcripts, as far as they hold."""
    moves = []
    for path in TRANSCRIPTS.rglob("*.txt"):
        with _Conversation(), suppress(Difference, UnicodeError):
            for _, result in Transcript(path.name, path.read_text("utf-8")).play():
                moves += result.moves
    return moves


def _without_way_out(moves: Counter[Move], end_states: Sequence[str], enough: int) -> list[tuple[str, str]]:
    """Return the `(module, state)` pairs from which no moves lead to START or to an end state.

    `moves` counts `(module, state, next state)`. Leaves out a state from which fewer than `enough` mails were sent.
    """
    mails: Counter[tuple[str, Any]] = Counter()
    for (module, state, _), number in moves.items():
        mails[module, state] += number
    back = {(module, state) for module, *states in moves for state in states}
    back = {place for place in back if place[1] in (ROUTE_FIRST_STATE, *end_states) or mails[place] < enough}
    for _ in mails:
        back |= {(module, state) for module, state, target in moves if (module, target) in back}
    return sorted(set(mails) - back)
