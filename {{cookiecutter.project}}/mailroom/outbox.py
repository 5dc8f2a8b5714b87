"""Mail that waits for the relay: committed with the states, and deleted when the relay has taken it.

A row of `outgoing` has the octets of a mail; one of `outbox` is a recipient who has not got it. From the time `due`
on, any worker may send it; until then one has claimed it, or it was set back. A row that is never due was refused
for good.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import TYPE_CHECKING, NamedTuple

from mailroom.envelope import MAX_RECIPIENTS, OCTETS_A_SECOND, SECONDS, Envelope, seconds_for

if TYPE_CHECKING:
    from mailroom.relay import Answer
    from mailroom.storage import Storage, Transaction

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
    with _writing(storage, durable=False) as here:
        for _, group in groupby(ready, lambda row: (row.mail, row.due)):
            free = [row for row in group if row.recipient not in lost]
            if free:
                row, tries = free[0], {row.recipient: row.tries for row in free}
                parcel = claim(here, Parcel(row.mail, row.sender, tries, row.octets, row.created, row.due or 0))
                parcels += [parcel] if parcel.tries else []
                lost |= tries.keys() - parcel.tries.keys()
    return parcels


def renew(storage: Storage, parcel: Parcel, seconds: float = 0) -> None:
    """Claim a parcel anew that has waited for long, or whose relay may take so many `seconds` more."""
    with _writing(storage, durable=False) as here:
        renewed = claim(here, parcel, seconds)
    parcel.due, parcel.tries = renewed.due, renewed.tries


def claim(here: Transaction, parcel: Parcel, seconds: float = 0) -> Parcel:
    """Claim a parcel anew, and return what of it nobody else has claimed meanwhile."""
    due = claim_end(parcel.octets) + seconds
    here.storage.execute(here, CLAIM, *((due, parcel.mail, recipient, parcel.due) for recipient in parcel.tries))
    mine = here.storage.fetch("SELECT recipient FROM outbox WHERE mail = ? AND due = ?", (parcel.mail, due))
    return replace(parcel, due=due, tries={recipient: parcel.tries[recipient] for (recipient,) in mine})


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
    now = time.time()
    found = [row for row in chosen if row.due is None or row.due > claim_end(row.octets)]
    with _writing(storage) as here:
        storage.execute(here, RETRY, *((now, row.mail, row.recipient) for row in found))
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
