"""One mail is one transaction over the wire: its own row, its state and the note are there together, or not at all."""

import itertools
import random
import smtplib
import sqlite3
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from email.message import EmailMessage
from email.policy import SMTP

import psycopg
import pytest

from tests.disk import grow, small_disk
from tests.raw import Raw
from tests.waiting import wait_until

ALICE = "alice@people.example"
BOB = "bob@people.example"

# Each mail to `ledger` is a row and a step: START, ODD, EVEN, ODD, … A file `run/die` names where the worker dies once.
LEDGER = """
import os
import signal

from salmon.routing import nolocking, route, route_like

from config import settings


@route("ledger@(host)")
def START(message, host):
    return write(message, ODD)


@route_like(START)
def ODD(message, host):
    return write(message, EVEN)


@route_like(START)
def EVEN(message, host):
    return write(message, ODD)


def write(message, state):
    text = message["Subject"]
    execute(message.connection, "INSERT INTO ledger VALUES (?, ?, ?)", (message.From, text, message.text))
    if "reply" in text:
        message.reply("ledger.msg", sender="ledger@" + settings.mail_domain)
    die("in the handler")
    if "fail" in text:
        raise ZeroDivisionError
    return state


def create(connection):
    execute(connection, "CREATE TABLE IF NOT EXISTS ledger (sender TEXT, text TEXT, content TEXT)")


def execute(connection, sql, values=None):
    if hasattr(connection, "exec_driver_sql"):
        connection.exec_driver_sql(sql.replace("?", "%s"), values)
    elif hasattr(connection, "execute"):
        connection.execute(sql, values or ())
    else:
        connection.cursor().execute(sql.replace("?", "%s"), values)


def deliver_and_die(*arguments, **options):
    deliver(*arguments, **options)
    die("after the commit")


def die(place):
    try:
        with open("run/die") as file:
            if file.read() != place:
                return
        os.unlink("run/die")
    except FileNotFoundError:
        return
    os.kill(os.getpid(), signal.SIGKILL)


deliver, settings.room.deliver = settings.room.deliver, deliver_and_die
settings.room.storage.create_tables(create)
"""


class Ledger:
    """The application `app` with the handlers of `LEDGER`, and its database."""

    def __init__(self, app, path):
        self.app = app
        self.path = path
        self.table = "mail_states_state" if (app.folder / "webapp.py").exists() else "states"
        self._numbers = itertools.count()

    def mail(self, sender, text, body="Hello.\n", message_id=True):
        """Return the octets of a new mail."""
        mail = EmailMessage()
        mail["From"], mail["To"], mail["Subject"] = sender, self.app.address("ledger"), text
        if message_id:
            mail["Message-ID"] = f"<{next(self._numbers)}@people.example>"
        mail.set_content(body)
        return mail.as_bytes(policy=SMTP)

    def send(self, sender, mail):
        """Send one mail; return the code of the answer, or None when there was none."""
        try:
            return self.app.send_data(sender, "ledger", mail)[0]
        except (OSError, smtplib.SMTPException):
            return None

    def die_once(self, place):
        (self.app.folder / "run" / "die").write_text(place)

    def restart(self):
        self.app.process.wait(30)
        self.app.start()

    def rows(self):
        """Return `(sender, text)` rows in the order in which they were written."""
        return self.read(f"SELECT sender, text FROM ledger ORDER BY {'sender' if '://' in self.path else 'rowid'}")

    def states(self):
        """Return a dictionary of senders and their states."""
        return dict(self.read(f"SELECT sender, state FROM {self.table}"))

    def read(self, sql):
        if "://" in self.path:
            with psycopg.connect(self.path) as connection:
                return connection.execute(sql).fetchall()
        with closing(sqlite3.connect(f"file:{self.path}?mode=ro", uri=True, timeout=30)) as connection:
            return connection.execute(sql).fetchall()


in_each = pytest.mark.parametrize("state_storage", ["sqlite", "postgresql", "django"])


@pytest.fixture
def ledger(application):
    """A function: a running `Ledger` with these settings, with `nolocking` handled by a pool of threads."""

    def ledger(nolocking=False, **choices):
        app = application(HANDLERS="app.handlers.ledger", **choices)
        handlers = LEDGER.replace("\ndef ODD", "\n@nolocking\ndef ODD") if nolocking else LEDGER
        (app.folder / "app" / "handlers" / "ledger.py").write_text(handlers)
        (app.folder / "app" / "templates" / "ledger.msg").write_text("Noted\n\nIt is noted.\n")
        path = app.settings.setdefault("STATE_DATABASE", str(app.folder / "run" / "ledger.sqlite3"))
        return Ledger(app.start(), path)

    return ledger


@in_each
def test_mail_is_handled_from_the_start_when_the_worker_was_killed_before_the_commit(ledger, state_storage):
    ledger = ledger(state_storage=state_storage)
    mail = ledger.mail(ALICE, "one")
    ledger.die_once("in the handler")
    assert ledger.send(ALICE, mail) is None
    ledger.restart()
    assert ledger.rows() == []
    assert ledger.states() == {}

    assert ledger.send(ALICE, mail) == 250
    assert ledger.rows() == [(ALICE, "one")]
    assert ledger.states() == {ALICE: "ODD"}


@in_each
def test_mail_is_answered_but_not_handled_again_when_the_worker_was_killed_after_the_commit(
    ledger, sink, state_storage
):
    ledger = ledger(state_storage=state_storage)
    # A reply that a dead worker has claimed leaves at once with SQLite, which knows who is alive, else after a minute.
    text, replies = ("reply", 1) if state_storage == "sqlite" else ("no answer", 0)
    mail = ledger.mail(ALICE, text)
    ledger.die_once("after the commit")
    with sink.held():  # nor has the reply left
        assert ledger.send(ALICE, mail) is None
        assert ledger.rows() == [(ALICE, text)]
        ledger.app.process.wait(30)
    ledger.restart()
    assert len(sink.wait_for(replies)) == replies

    for _ in range(2):
        assert ledger.send(ALICE, mail) == 250
    assert ledger.rows() == [(ALICE, text)]
    assert ledger.states() == {ALICE: "ODD"}
    assert ledger.app.logged().count("handled before: mail from") == 2
    assert ledger.send(ALICE, ledger.mail(ALICE, text)) == 250
    assert ledger.states() == {ALICE: "EVEN"}
    assert len(sink.wait_for(2 * replies)) == 2 * replies


def test_mail_is_handled_once_when_the_connection_is_lost_before_the_answer(ledger):
    ledger = ledger()
    mail = ledger.mail(ALICE, "one")
    with Raw(ledger.app.port, "lmtp") as client:
        assert client.begin(ALICE, ledger.app.address("ledger")).startswith("354")
        client.socket.sendall(mail + b".\r\n")
    ledger.app.wait_for_log("handled mail from")

    assert ledger.send(ALICE, mail) == 250
    assert ledger.rows() == [(ALICE, "one")]
    assert ledger.states() == {ALICE: "ODD"}


def test_mail_for_another_sender_or_without_a_message_id_is_another_mail(ledger):
    ledger = ledger()
    mail = ledger.mail(ALICE, "one")
    assert [ledger.send(sender, mail) for sender in (ALICE, BOB, ALICE)] == [250] * 3
    assert ledger.rows() == [(ALICE, "one"), (BOB, "one")]
    typed = ledger.mail(ALICE, "typed", message_id=False)
    assert [ledger.send(ALICE, typed) for _ in range(2)] == [250] * 2
    assert ledger.rows()[2:] == [(ALICE, "typed")] * 2


def test_handler_that_fails_keeps_no_row_and_sends_nothing(ledger, sink):
    ledger = ledger()
    mail = ledger.mail(ALICE, "reply, then fail")
    assert [ledger.send(ALICE, mail) for _ in range(3)] == [451] * 3
    assert ledger.rows() == []
    assert ledger.states() == {}
    assert sink.offered == 0


def test_mail_is_kept_while_the_relay_is_down_and_its_reply_waits(ledger, sink):
    ledger = ledger()
    mail = ledger.mail(ALICE, "reply")
    sink.stop()
    assert [ledger.send(ALICE, mail) for _ in range(2)] == [250] * 2
    assert ledger.rows() == [(ALICE, "reply")]
    assert ledger.states() == {ALICE: "ODD"}

    sink.start()
    assert len(sink.wait_for(1)) == 1


@in_each
@pytest.mark.parametrize("nolocking", [False, True], ids=["ordinary", "nolocking"])
def test_four_workers_under_kill_lose_no_mail_and_handle_none_twice(ledger, state_storage, nolocking):
    """Each mail is sent until it is answered 250, to any worker; meanwhile workers are killed and started again."""
    ledger = ledger(nolocking, state_storage=state_storage)
    first = ledger.app
    workers = [first, *map(first.worker, range(3))]
    senders = [f"{number}@people.example" for number in range(4)]
    killed, deadline = threading.Event(), time.monotonic() + 60

    def send_all(sender):
        for number in itertools.count(1):
            mail = ledger.mail(sender, str(number))
            while True:
                assert time.monotonic() < deadline, f"{sender} sent {number} for too long"
                with suppress(OSError, smtplib.SMTPException):
                    if random.choice(workers).send_data(sender, "ledger", mail)[0] == 250:
                        break
                time.sleep(0.002)
            if killed.is_set():
                return number

    try:
        for worker in workers[1:]:
            worker.start()
        with ThreadPoolExecutor(len(senders)) as pool:
            sending = [pool.submit(send_all, sender) for sender in senders]
            try:
                for _ in range(6):
                    time.sleep(random.uniform(0.02, 0.2))
                    worker = random.choice(workers)
                    worker.kill()
                    worker.start()
            finally:
                killed.set()
            numbers = [mails.result() for mails in sending]
        rows = ledger.rows()
        states = ledger.states()
    finally:
        for worker in workers:
            worker.kill()

    for sender, number in zip(senders, numbers, strict=True):
        texts = [text for one, text in rows if one == sender]
        if state_storage == "postgresql":  # which puts rows where there is room
            texts.sort(key=int)
        assert texts == [str(n) for n in range(1, number + 1)]
        assert states[sender] == ("ODD" if number % 2 else "EVEN")


@pytest.fixture
def disk(tmp_path):
    """The folder of a file system of 1 MB."""
    with small_disk(tmp_path / "disk", 1) as folder:
        yield folder


def test_full_disk_is_451_sends_nothing_and_loses_nothing_that_was_answered_250(ledger, sink, disk):
    ledger = ledger(STATE_DATABASE=str(disk / "states.sqlite3"))
    body = "x" * 70 + "\n"
    taken = []
    for number in range(100):
        sender = f"{number}@people.example"
        mail = ledger.mail(sender, "one", body * 500)
        answer = ledger.send(sender, mail)
        if answer != 250:
            break
        taken.append(sender)
    assert answer == 451
    assert len(taken) > 5
    mail = ledger.mail(sender, "reply", body * 500)
    assert [ledger.send(sender, mail) for _ in range(25)] == [451] * 25
    assert sink.offered == 0
    assert [one for one, _ in ledger.rows()] == taken
    assert list(ledger.states()) == sorted(taken)

    grow(disk, 20)
    wait_until(lambda: ledger.send(sender, mail) == 250)
    assert ledger.send(sender, mail) == 250
    (reply,) = sink.take()
    assert reply.recipients == (sender,)
    ledger.app.kill()
    ledger.app.start()
    assert [one for one, _ in ledger.rows()] == [*taken, sender]
    assert ledger.states() == dict.fromkeys([*taken, sender], "ODD")
