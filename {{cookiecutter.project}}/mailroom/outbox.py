"""Mail that waits for the relay: committed with the states, sent by a thread, and deleted when the relay has taken it.

A row of `outgoing` has the octets of a mail; one of `outbox` is a recipient who has not got it. From the time `due`
on, any worker may send it; until then one has claimed it, or it was set back. A row that is never due was refused
for good.
"""

from __future__ import annotations

import logging
import os
import smtplib
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby
from typing import TYPE_CHECKING, NamedTuple

from salmon.server import SMTPError

from mailroom.envelope import MAX_RECIPIENTS, OCTETS_A_SECOND, SECONDS, Envelope, message_id, seconds_for
from mailroom.relay import Answer, TurnedAway, Unreachable

if TYPE_CHECKING:
    from mailroom.room import Mailroom
    from mailroom.storage import Storage, Transaction

LOG = logging.getLogger(__name__)
OUTCOMES = {logging.INFO: "sent", logging.WARNING: "set back", logging.ERROR: "refused for good"}

POLL = 2  # seconds after which a worker looks for mail of others: scripts, and workers that have died
RESTS = (2, 10, 60)  # seconds to the next try of a relay that fails, the last of them again and again
MAX_TURNED_AWAY = 10  # times that a relay closes the connection before others may overtake the mail that it is at
MAX_OCTETS = 20_000_000  # of mail in memory
LINGER_SECONDS = 0.01  # for which this thread waits for more before it sleeps: to wake it for each mail is dear
SETTLE_SECONDS = 0.05  # after which what was sent is deleted: not a transaction for each mail, when there are many

QUEUED = 20  # seconds that a claimed mail may wait for its turn
MARGIN = 10  # seconds between the end of an SMTP transaction and that of its claim; clocks may differ by that
RETRIES = (10, 60, 300, 900, 1800, 3600)  # seconds to the next try; the last of them again and again
GIVE_UP = 5 * 24 * 3600  # seconds (RFC 5321, section 4.5.4.1)
BACKLOG = 200  # rows, with which new mail queues behind
ALL = 10**9

SELECT = """
    SELECT mail, recipient, due, tries, answer, sender, length(data), created
    FROM outbox JOIN outgoing ON outgoing.id = mail WHERE {} ORDER BY mail, recipient LIMIT ?"""
INSERT_MAIL = "INSERT INTO outgoing (id, sender, data, created) VALUES (?, ?, ?, ?)"
INSERT = "INSERT INTO outbox (mail, recipient, due, tries) VALUES (?, ?, ?, 0)"
# A mail that was set back lets others overtake it; any other comes before the later ones to the same recipient.
AHEAD = "SELECT mail, recipient FROM outbox WHERE tries = 0 AND due > ? LIMIT ?"
READY = """
    due <= ? AND NOT EXISTS (SELECT 1 FROM (SELECT recipient AS claimed, min(mail) AS first FROM outbox
    WHERE tries = 0 AND due > ? GROUP BY recipient) AS ahead WHERE claimed = outbox.recipient AND first < outbox.mail)"""
CLAIM = "UPDATE outbox SET due = ? WHERE mail = ? AND recipient = ? AND due = ?"
SET_BACK = "UPDATE outbox SET due = ?, tries = tries + 1, answer = ? WHERE mail = ? AND recipient = ?"
RETRY = "UPDATE outbox SET due = ? WHERE mail = ? AND recipient = ?"
DELETE = "DELETE FROM outbox WHERE mail = ? AND recipient = ?"
DELETE_SENT = "DELETE FROM outgoing WHERE {} AND NOT EXISTS (SELECT 1 FROM outbox WHERE mail = outgoing.id)"
DELETE_MAIL = DELETE_SENT.format("id = ?")

# What was claimed before a time, and is not sent yet.
RELEASE_OLDER = f"""
    UPDATE outbox SET due = ? WHERE tries = 0 AND due > ? AND due - {QUEUED + MARGIN}
    - (SELECT {SECONDS} + length(data) / {OCTETS_A_SECOND}.0 FROM outgoing WHERE id = mail) < ?"""

_one_id = threading.Lock()
_last_id = 0


class Row(NamedTuple):
    """A recipient who has not got a mail. `due` is None where the relay has refused for good."""

    mail: int
    recipient: str
    due: float | None
    tries: int
    answer: str | None
    sender: str
    octets: int
    created: float


@dataclass
class Parcel:
    """One mail to recipients that this worker has claimed, until the time `due`; `tries` counts those before."""

    mail: int
    sender: str
    tries: dict[str, int]
    octets: int
    created: float
    due: float
    data: bytes | None = None
    answers: dict[str, Answer] = field(default_factory=dict)

    def is_last(self, answer: Answer) -> bool:
        """Return whether a refusal is for good: the relay says so, or it has been tried for long enough."""
        return answer.is_final or self.created < time.time() - GIVE_UP


def claim_end(octets: int) -> float:
    """Return when a claim ends that begins now, of a mail of that many octets."""
    return time.time() + QUEUED + seconds_for(octets) + MARGIN


def store(here: Transaction) -> None:
    """Write the mail of a transaction, before its commit; add to `here.parcels` what this worker sends at once."""
    if not here.outgoing:
        return
    execute, sending = here.storage.execute, here.sending
    ahead = here.storage.fetch(AHEAD, (0, BACKLOG)) if sending else []
    mine = sending.claimed() if sending and ahead else set()
    others = {recipient for mail, recipient in ahead if (mail, recipient) not in mine}
    for envelope in here.outgoing:
        now, recipients = time.time(), dict.fromkeys(envelope.recipients, 0)
        parcel = Parcel(_new_id(), envelope.sender, recipients, len(envelope.data), now, now, envelope.data)
        fits = len(recipients) <= MAX_RECIPIENTS and others.isdisjoint(recipients)
        if sending and sending.has_room(parcel) and len(ahead) < BACKLOG and fits:
            parcel.due = claim_end(parcel.octets)
            here.parcels.append(parcel)
        else:
            others.update(recipients)
        execute(here, INSERT_MAIL, (parcel.mail, parcel.sender, parcel.data, now))
        execute(here, INSERT, *((parcel.mail, recipient, parcel.due) for recipient in recipients))


def rows(storage: Storage, where: str = "1 = 1", *values: object, limit: int = ALL) -> list[Row]:
    """Return the rows of what waits or was refused, oldest first."""
    return [Row(*row) for row in storage.fetch(SELECT.format(where), (*values, limit))]


def claim_due(storage: Storage) -> list[Parcel]:
    """Claim what is due for this worker, in the order in which it was written: as much as one parcel can hold."""
    now = time.time()
    ready = rows(storage, READY, now, now, limit=MAX_RECIPIENTS)
    if not ready:
        return []
    parcels: list[Parcel] = []
    lost: set[str] = set()  # recipients of what another worker was faster to claim: later mails to them wait
    with _writing(storage, durable=False):
        for _, group in groupby(ready, lambda row: (row.mail, row.due)):
            free = [row for row in group if row.recipient not in lost]
            if free:
                row, tries = free[0], {row.recipient: row.tries for row in free}
                parcel = Parcel(row.mail, row.sender, tries, row.octets, row.created, row.due or 0)
                renew(storage, parcel)
                parcels += [parcel] if parcel.tries else []
                lost |= tries.keys() - parcel.tries.keys()
    return parcels


def renew(storage: Storage, parcel: Parcel, seconds: float = 0) -> None:
    """Claim a parcel for `seconds` more than usual, and keep of it what nobody else has claimed meanwhile."""
    due = claim_end(parcel.octets) + seconds
    with _writing(storage, durable=False) as here:
        storage.execute(here, CLAIM, *((due, parcel.mail, recipient, parcel.due) for recipient in parcel.tries))
        mine = storage.fetch("SELECT recipient FROM outbox WHERE mail = ? AND due = ?", (parcel.mail, due))
    parcel.due, parcel.tries = due, {recipient: parcel.tries[recipient] for (recipient,) in mine}


def load(storage: Storage, parcel: Parcel) -> Envelope:
    """Return the `Envelope` of a parcel, without recipients when the mail has gone."""
    found = [[parcel.data]] if parcel.data else storage.fetch("SELECT data FROM outgoing WHERE id = ?", (parcel.mail,))
    return Envelope(parcel.sender, tuple(parcel.tries) if found else (), bytes(found[0][0]) if found else b"")


def settle(storage: Storage, parcels: list[Parcel]) -> None:
    """Keep the answers to parcels: delete what the relay has taken, set back what it takes later, mark the rest."""
    answers = [(parcel, *answer) for parcel in parcels for answer in parcel.answers.items()]
    with _writing(storage, durable=False) as here:
        sent = [(parcel.mail, recipient) for parcel, recipient, answer in answers if answer.is_yes]
        storage.execute(here, DELETE, *sent)
        for parcel, recipient, answer in answers:
            if not answer.is_yes and recipient in parcel.tries:  # the claim has not ended
                wait = RETRIES[min(parcel.tries[recipient], len(RETRIES) - 1)]
                due = None if parcel.is_last(answer) else time.time() + wait
                storage.execute(here, SET_BACK, (due, str(answer), parcel.mail, recipient))
        storage.execute(here, DELETE_MAIL, *((parcel.mail,) for parcel in parcels))


def release(storage: Storage, parcels: list[Parcel]) -> None:
    """Let any worker send what this one has claimed."""
    with _writing(storage, durable=False) as here:
        claimed = ((parcel.mail, recipient, parcel.due) for parcel in parcels for recipient in parcel.tries)
        storage.execute(here, CLAIM, *((time.time(), *row) for row in claimed))


def give_up_old(storage: Storage) -> list[Row]:
    """Mark as refused what has waited for the relay for five days; return it."""
    old = rows(storage, "due IS NOT NULL AND created < ?", time.time() - GIVE_UP)
    if old:
        with _writing(storage) as here:
            storage.execute(here, SET_BACK, *((None, row.answer, row.mail, row.recipient) for row in old))
    return old


def retry(storage: Storage, chosen: list[Row]) -> list[Row]:
    """Make rows due that were refused or set back for long, and return these; a worker may be sending any other."""
    found = [row for row in chosen if row.due is None or row.due > claim_end(row.octets)]
    with _writing(storage) as here:
        storage.execute(here, RETRY, *((time.time(), row.mail, row.recipient) for row in found))
    return found


def drop(storage: Storage, chosen: list[Row]) -> list[Row]:
    """Delete rows, and return them; nobody sends them any more, unless a worker is at it just now."""
    with _writing(storage) as here:
        storage.execute(here, DELETE, *((row.mail, row.recipient) for row in chosen))
        storage.execute(here, DELETE_MAIL, *{(row.mail,) for row in chosen})
    return chosen


@contextmanager
def _writing(storage: Storage, durable: bool = True) -> Iterator[Transaction]:
    with storage.transaction(durable=durable) as here:
        storage.begin(here)
        yield here


def _new_id() -> int:
    """Return a number for a mail, later than those before; two processes do not choose the same."""
    global _last_id
    with _one_id:
        _last_id = max(time.time_ns() // 1000, _last_id // 1000 + 1) * 1000 + os.getpid() % 1000
        return _last_id


class Sending:
    """The mails that this worker has claimed, and the thread that sends them one after the other."""

    def __init__(self, room: Mailroom) -> None:
        self.room = room
        self._one_change = threading.Lock()
        self._begin()

    def _begin(self) -> None:
        self._process = os.getpid()
        self._users = 0
        self._thread: threading.Thread | None = None
        self._changed = threading.Condition()
        self._queue: deque[Parcel] = deque()
        self._answered: list[Parcel] = []
        self._octets = 0
        self._stop_at: float | None = None
        self._next_poll = 0.0
        self._next_settle = 0.0
        self._rest_until = 0.0
        self._failures = 0
        self._clock = time.time() - time.monotonic()
        self._patient_until = 0.0

    def is_running(self) -> bool:
        """Return whether this process sends."""
        return self._process == os.getpid() and self._thread is not None and self._thread.is_alive()

    def has_stopped(self) -> bool:
        """Return whether this process sends no more."""
        return self._stop_at is not None

    def start(self) -> None:
        """Begin to send, until `stop` was called as often as this: a process may have several receivers."""
        with self._one_change:
            if not self.is_running():
                self._begin()
                self._thread = threading.Thread(target=self._run, name="outbox", daemon=True)
                self._thread.start()
            self._stop_at = None
            self._users += 1

    def stop(self, seconds: float) -> None:
        """Send what is ready for at most that many `seconds`, and leave the rest to other workers."""
        with self._one_change:
            self._users = max(self._users - 1, 0)
            if self._users:
                return
            thread = self._thread if self.is_running() else None
            with self._changed:
                self._stop_at = time.monotonic() + seconds
                self._changed.notify_all()
            if thread is None:
                return
            thread.join(seconds)
            with self._changed:
                waiting = len(self._queue) - thread.is_alive()  # the first one is being sent
                left = [self._queue.pop() for _ in range(waiting)]
            try:
                self._settle()
                release(self.room.storage, left)
            except SMTPError as error:  # their claims end by themselves
                LOG.warning("outgoing mail waits until its claims end: %s", error.__cause__ or error)
            if left and not self.room.storage.is_shared:
                LOG.error("lost with this process: outgoing mail to %s", [list(parcel.tries) for parcel in left])

    def uses_outbox(self, storage: Storage) -> bool:
        """Return whether mail is stored before it is sent: nobody would send what a script keeps in its own memory."""
        return self.room.relay.needs_outbox and (storage.is_shared or self.is_running())

    def committed(self, here: Transaction) -> None:
        """Send the mail of a transaction that has been committed."""
        if self.uses_outbox(here.storage):
            self.take(here.parcels)
            if len(here.parcels) < len(here.mail):  # it waits for another worker, which is at it
                with self._changed:
                    self._next_poll = min(self._next_poll, time.monotonic() + SETTLE_SECONDS)
                    self._changed.notify_all()
        else:
            for envelope in here.mail:
                self.room.relay.send_now(envelope)

    def claimed(self) -> set[tuple[int, str]]:
        """Return the mails and recipients that this worker has claimed: what it takes now comes after them."""
        with self._changed:
            return {(it.mail, recipient) for it in (*self._queue, *self._answered) for recipient in it.tries}

    def has_room(self, parcel: Parcel) -> bool:
        """Return whether this worker can send a mail soon."""
        is_ready = self.is_running() and self._stop_at is None and time.monotonic() > self._rest_until
        return is_ready and self._octets + parcel.octets <= MAX_OCTETS

    def take(self, parcels: list[Parcel]) -> None:
        """Send these mails, which are committed and claimed."""
        if parcels:
            with self._changed:
                self._queue.extend(parcels)
                self._octets += sum(parcel.octets for parcel in parcels)
                self._changed.notify_all()

    def _run(self) -> None:
        parcel = None
        while True:
            try:
                parcel = self._next()
                if parcel is None:
                    return
                parcel.answers = self._answers(parcel)
                self._leave_queue()
                self._failures = 0
                if not self._queue and self._stop_at is None:
                    time.sleep(LINGER_SECONDS)
            except OSError as error:
                self._rest(error, RESTS)
            except SMTPError as error:  # of the storage
                self._rest(error.__cause__ or error, RESTS[:2])  # mail asks it anyway
            except Exception as error:  # a fault of ours, which stops no other mail
                LOG.exception("the outbox fails")
                if parcel is not None and self._queue and self._queue[0] is parcel:
                    self._leave_queue()  # without answers: its claim ends
                self._rest(error, RESTS)

    def _leave_queue(self) -> None:
        with self._changed:
            self._answered.append(self._queue.popleft())
            self._octets -= self._answered[-1].octets

    def _next(self) -> Parcel | None:
        """Return the mail that is to be sent next, when it is time; None when this ends."""
        while True:
            if time.monotonic() > self._next_settle:
                self._settle()
            with self._changed:
                now = time.monotonic()
                is_resting = now < self._rest_until
                if self._stop_at is not None and (is_resting or not self._queue or now > self._stop_at):
                    return None
                is_due = now >= self._next_poll and self._stop_at is None  # of scripts, and what was set back
                if self._queue and not is_resting and not is_due:
                    return self._queue[0]
                next_look = self._rest_until if is_resting else self._next_poll
                if now < next_look:
                    self._changed.wait(min(next_look, self._next_settle if self._answered else next_look) - now)
                    continue
            self._next_poll = now + POLL
            self._settle()  # what was sent does not wait for itself
            parcels = self._claim_due()
            if parcels and not self._queue:
                self._next_poll = now + SETTLE_SECONDS  # there may be more
            self.take(parcels)

    def _settle(self) -> None:
        if self._answered:
            self._next_settle = time.monotonic() + 1  # when this fails
            answered = list(self._answered)  # at a stop, the thread may still add to them
            settle(self.room.storage, answered)
            del self._answered[: len(answered)]
        self._next_settle = time.monotonic() + SETTLE_SECONDS

    def _claim_due(self) -> list[Parcel]:
        """Claim what is due; but when the clock was set forward, what others are sending may seem so for a while."""
        before, self._clock = self._clock, time.time() - time.monotonic()
        if self._clock > before + MARGIN:
            self._patient_until = time.monotonic() + QUEUED + seconds_for(0) + MARGIN
        return [] if time.monotonic() < self._patient_until else claim_due(self.room.storage)

    def _answers(self, parcel: Parcel) -> dict[str, Answer]:
        """Send a mail, and return what the relay answers for each recipient."""
        ends = claim_end(parcel.octets) - QUEUED
        if any(claimed.due < ends for claimed in (parcel, *self._answered)):
            self._settle()
            renew(self.room.storage, parcel)
        envelope = load(self.room.storage, parcel)
        if not envelope.recipients:  # others have them
            return {}
        try:
            answers = self.room.relay.transfer(envelope, partial(renew, self.room.storage, parcel))
        except (OSError, smtplib.SMTPException) as error:
            if isinstance(error, Unreachable):
                for row in give_up_old(self.room.storage):
                    LOG.error("given up after five days, mail %d to %s: %s", row.mail, row.recipient, row.answer)
                if not isinstance(error, TurnedAway) or self._failures < MAX_TURNED_AWAY:
                    raise
            # It may be this mail that the relay cannot bear: others may overtake it.
            answers = dict.fromkeys(envelope.recipients, Answer(451, str(error)))
            self._rest(error, RESTS)
        for recipient, answer in answers.items():
            level = logging.INFO if answer.is_yes else logging.ERROR if parcel.is_last(answer) else logging.WARNING
            mail = f"mail with Message-ID {message_id(envelope.data)} to {recipient}"
            LOG.log(level, "%s: %s: %s", OUTCOMES[level], mail, answer)
        return answers

    def _rest(self, error: BaseException, rests: tuple[int, ...]) -> None:
        """Leave a relay or a storage that fails alone for a while."""
        seconds = rests[min(self._failures, len(rests) - 1)]
        self._failures += 1
        self._rest_until = time.monotonic() + seconds
        LOG.warning("outgoing mail waits, next try in %d seconds: %s", seconds, error)
