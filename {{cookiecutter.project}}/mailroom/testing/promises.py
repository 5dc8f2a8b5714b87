"""A conversation in which each mail is held against the promises of the application, whatever its handlers are."""

import functools
import io
import re
from contextlib import contextmanager
from dataclasses import dataclass, replace

from salmon.routing import ROUTE_FIRST_STATE, MemoryStorage, Router
from salmon.server import SMTPError

from app.mail.manners import reply_limit
from app.model.mail_states import MailStates
from config import settings
from operations.exchange import exchange, make_mail, with_domain
from operations.transcript import Recorder, text_of

STORAGE_DOWN = "the storage is down"
RELAY_DOWN = "the relay is down"
WRONG_CODE = "the last line of the handler is wrong"
CRASH = "a crash before the states are kept"
TROUBLES = (STORAGE_DOWN, RELAY_DOWN, WRONG_CODE, CRASH)


class BrokenPromise(Exception):
    """What was promised and did not hold."""


@dataclass(frozen=True)
class Step:
    """A mail, from a machine where `header` says so or nobody is the sender."""

    sender: str
    recipient: str
    subject: str = ""
    text: str = ""
    number: int = 0  # of its Message-ID
    header: tuple = ()

    def mail(self):
        headers = [*self.headers(), ("Message-ID", f"<{self.number}@people.example>")]
        return make_mail(self.sender, with_domain(self.recipient), headers, self.text + "\n")

    def headers(self):
        return [*([("Subject", self.subject)] if self.subject else []), *([self.header] if self.header else [])]

    def is_from_machine(self):
        return bool(self.header) or not self.sender


class Conversation:
    """Takes one `Step` after the other, with a storage of its own until `end`; raises `BrokenPromise`.

    A person's mail comes in every trouble first, as often as its server tries again.
    """

    def __init__(self):
        self.before = Router.STATE_STORE, settings.replies_per_hour
        self.storage = _Rows()
        Router.STATE_STORE, settings.replies_per_hour = _Watched(self.storage), 10**6
        settings.relay.sent.clear()
        self.transcript = io.StringIO()
        self.recorder = Recorder(self.transcript)
        self.steps = []
        self.answerable = {}  # the addresses in the last reply that each person got

    def end(self):
        Router.STATE_STORE, settings.replies_per_hour = self.before
        reply_limit.clear()

    def take(self, step, troubles=TROUBLES):
        self.steps.append(step)
        rows = dict(self.storage.states)
        mail = step.mail()
        sent = []
        for trouble in () if step.is_from_machine() else troubles:
            failed = self._deliver(step, mail, trouble)
            if failed.refusal and trouble == CRASH:
                sent = failed.sent
            elif failed.refusal:
                self._promise(not failed.sent, "a mail that failed sent something")
        came = self._deliver(step, mail)
        first, again = ([mail["Message-ID"] for _, mail in mails] for mails in (sent, came.sent))
        self._promise(first in ([], again), "what was sent once more has another Message-ID")
        if came.refusal:
            self._promise(came.refusal.startswith("5"), "a mail was not handled, without any trouble")
            self._promise(not came.sent, "a mail that was refused sent something")
        if step.is_from_machine():
            self._promise(self.storage.states == rows, "mail from a machine changed a state")
            answered = any(not to or came.sender in to.split(",") for to, _ in came.sent)
            self._promise(not answered, "a machine was answered")
        elif not came.refusal:
            self._promise(came.handlers, "250 was answered, and no handler took the mail")
        for to, mail in came.sent:
            text = f"{mail['Reply-To']} {mail['From']} {text_of(mail)}"
            found = re.findall(rf"[\w.+-]+@{re.escape(settings.mail_domain)}\b", text)
            if found and not to:
                self.answerable[came.sender] = list(dict.fromkeys(found))

    def _deliver(self, step, mail, trouble=None):
        rows, states = dict(self.storage.states), Router.STATE_STORE
        states.noted.clear()
        with self._during(trouble):
            came = exchange(step.sender, with_domain(step.recipient), mail)
        self.now = step, trouble, came
        if not (trouble and came.refusal):
            self.recorder.record(came, step.headers(), step.text)
        if not came.refusal:
            rows.update({cell: state for cell, (_, state) in states.noted.items()})
            rows = {cell: state for cell, state in rows.items() if state != ROUTE_FIRST_STATE}
        self._promise(self.storage.states == rows, "the stored states are not those that the handlers returned")
        return came

    @contextmanager
    def _during(self, trouble):
        send_now = settings.relay.send_now

        def refuse(envelope):
            raise SMTPError(451, "4.4.1 The relay is not available")

        self.storage.trouble = trouble
        if trouble == RELAY_DOWN:
            settings.relay.send_now = refuse
        try:
            yield
        finally:
            self.storage.trouble, settings.relay.send_now = None, send_now

    def _promise(self, kept, broken):
        if kept:
            return
        step, trouble, came = self.now
        if trouble and came.refusal:
            self.transcript.write(f"# Now there is trouble: {trouble}.\n")
            self.recorder.record(came, step.headers(), step.text)
        raise BrokenPromise(broken)


@functools.cache
def shortest(steps, broken):
    """Return a transcript of as few and as plain `steps`, a tuple, as still break the promise."""
    last = steps[-1]
    for candidate in [(last,), tuple(step for step in steps if step.sender == last.sender and not step.header)]:
        if _play(candidate)[0] == broken:
            steps = candidate
            break
    for plainer in (None, {"subject": ""}, {"text": ""}):
        for number in reversed(range(len(steps))):
            step = () if plainer is None else (replace(steps[number], **plainer),)
            candidate = steps[:number] + step + steps[number + 1 :]
            if _play(candidate)[0] == broken:
                steps = candidate
    return _play(steps)[1]


def _play(steps):
    """Return which promise the last of these steps breaks, if any, and their transcript."""
    conversation = Conversation()
    try:
        for number, step in enumerate(steps, 1):
            conversation.take(step, TROUBLES if number == len(steps) else ())
        return None, conversation.transcript.getvalue()
    except BrokenPromise as broken:
        return str(broken), conversation.transcript.getvalue()
    finally:
        conversation.end()


class _Rows(MemoryStorage):
    """A storage that can be in `trouble`."""

    trouble = None

    def get(self, key, sender):
        if self.trouble == STORAGE_DOWN:
            raise SMTPError(451, "4.3.0 The state storage is not available")
        return super().get(key, sender)

    def set(self, key, sender, state):
        if self.trouble == CRASH:  # the mail has been handled, and its replies have gone out
            raise InterruptedError("a crash")
        super().set(key, sender, state)


class _Watched(MailStates):
    """Notes which states are set on the way that a handler's are."""

    def __init__(self, storage):
        super().__init__(storage)
        self.noted = {}

    def set(self, key, sender, state):
        if self.storage.trouble == WRONG_CODE:
            raise ZeroDivisionError("planted by tests/conversations/promises.py")
        self.noted[self.storage.key(key, sender)] = (key, state)
        super().set(key, sender, state)
