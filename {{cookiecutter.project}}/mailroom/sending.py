"""Send what is in the outbox, in a thread beside the receiver."""

from __future__ import annotations

import logging
import os
import smtplib
import threading
import time
from collections import deque
from functools import partial
from typing import TYPE_CHECKING

from salmon.server import SMTPError

from mailroom import outbox
from mailroom.envelope import message_id, seconds_for
from mailroom.outbox import Parcel
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
            with self._changed:
                self._stop_at = time.monotonic() + seconds
                self._changed.notify_all()
            if self._thread is None or not self.is_running():
                return
            self._thread.join(seconds)
            with self._changed:
                waiting = len(self._queue) - self._thread.is_alive()  # the first one is being sent
                left = [self._queue.pop() for _ in range(waiting)]
            try:
                outbox.settle(self.room.storage, list(self._answered))
                outbox.release(self.room.storage, left)
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
        """Keep what the relay has answered."""
        if self._answered:
            self._next_settle = time.monotonic() + 1  # when this fails
            outbox.settle(self.room.storage, self._answered)
            self._answered = []
        self._next_settle = time.monotonic() + SETTLE_SECONDS

    def _claim_due(self) -> list[Parcel]:
        """Claim what is due; but when the clock was set forward, what others are sending may seem so for a while."""
        before, self._clock = self._clock, time.time() - time.monotonic()
        if self._clock > before + outbox.MARGIN:
            self._patient_until = time.monotonic() + outbox.QUEUED + seconds_for(0) + outbox.MARGIN
        return [] if time.monotonic() < self._patient_until else outbox.claim_due(self.room.storage)

    def _answers(self, parcel: Parcel) -> dict[str, Answer]:
        """Send a mail, and return what the relay answers for each recipient."""
        ends = outbox.claim_end(parcel.octets) - outbox.QUEUED
        if any(claimed.due < ends for claimed in (parcel, *self._answered)):
            self._settle()
            outbox.renew(self.room.storage, parcel)
        envelope = outbox.load(self.room.storage, parcel)
        if not envelope.recipients:  # others have them
            return {}
        try:
            answers = self.room.relay.transfer(envelope, partial(outbox.renew, self.room.storage, parcel))
        except (OSError, smtplib.SMTPException) as error:
            if isinstance(error, Unreachable):
                for row in outbox.give_up_old(self.room.storage):
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
