"""Handlers marked `@nolocking` that take long hold up nobody, and all promises hold for their mail, over the wire."""

import random
import re
import signal
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress

import pytest

from tests import postfix
from tests.baking import STORAGES
from tests.raw import Raw
from tests.test_wire import set_in
from tests.waiting import wait_until

ALICE = "alice@people.example"
BOB = "bob@people.example"

# A mail to `slow` waits until run/go is there, unless its subject says "at once"; one that says "write" uses the database
# before. Mail to `quick` has ordinary handlers, which come one at a time. Each is a reply and a step, and one that says
# "fail" fails after them.
SLOW = """
import os
import pathlib
import time

from salmon.routing import nolocking, route, route_like, stateless
from salmon.server import SMTPError

from app.models import posts
from config import settings

inside = []


@route("slow@(host)")
@nolocking
def START(message, host):
    return wait(message, ODD)


@route_like(START)
@nolocking
def ODD(message, host):
    return wait(message, START)


@route("refuses@(host)")
@stateless
@nolocking
def REFUSE(message, host):
    raise SMTPError(550, "5.7.1 Never")


def wait(message, state):
    if "write" in message["Subject"]:
        write(message)
    if "at once" not in message["Subject"]:
        pathlib.Path("run", f"{message['Subject']} is running").touch()
        while not os.path.exists("run/go"):
            time.sleep(0.01)
    return step(message, state)


def write(message):
    # Hold the database, or in a server a row.
    connection = message.connection
    is_server = hasattr(connection, "exec_driver_sql")
    if not (is_server and connection.exec_driver_sql("UPDATE posts SET text = 'new'").rowcount):
        posts.add(connection, "news", "a@people.example", "the only one", "old")


def step(message, state):
    message.reply("step.msg", sender="slow@" + settings.mail_domain, text=message["Subject"])
    if "fail" in message["Subject"]:
        raise ZeroDivisionError
    return state
"""
QUICK = """
import time

from salmon.routing import route, route_like

from app.handlers.slow import inside, step, write


@route("quick@(host)")
def START(message, host):
    return alone(message, ODD)


@route_like(START)
def ODD(message, host):
    return alone(message, START)


def alone(message, state):
    inside.append(message)
    time.sleep(0.002)
    assert len(inside) == 1, "two ordinary handlers ran at the same time"
    try:
        if "write" in message["Subject"]:
            write(message)
        return step(message, state)
    finally:
        inside.remove(message)
"""
HOLD = f"""
import os, time
import config.boot
from config import settings
with settings.room.transaction("{ALICE}"):
    open("run/held", "w").close()
    while not os.path.exists("run/go"):
        time.sleep(0.01)
"""
STATES = "import config.boot; from salmon.routing import Router; print(list(Router.STATE_STORE))"


class Mails:
    """The running application `app`, and clients that wait for its answers in threads."""

    def __init__(self, app, stack):
        self.app = app
        self._clients = stack.enter_context(ThreadPoolExecutor(50))
        stack.callback(self.go)

    def send(self, sender, recipient, subject):
        """Return the `Future` of the answer to a mail."""
        headers = {"Subject": subject, "Message_ID": f"<{subject}@people.example>".replace(" ", "-")}
        return self._clients.submit(lambda: self.app.send(sender, recipient, **headers)[0])

    def begin(self, sender, subject):
        """Return the `Future` of the answer to a mail to `slow` once its handler runs."""
        answer = self.send(sender, "slow", subject)
        wait_until((self.app.folder / "run" / f"{subject} is running").exists)
        return answer

    def go(self):
        """Let the handlers go on."""
        (self.app.folder / "run").mkdir(exist_ok=True)
        (self.app.folder / "run" / "go").touch()

    def states(self):
        """Return `{(sender, list): state}`."""
        printed = self.app.python(STATES)
        rows = eval(printed.stdout)
        return {(sender, key.rpartition(".")[2]): state for key, sender, state in rows}


@pytest.fixture
def slow(request, application):
    """A function: `Mails` of an application with these settings; `receiver` are arguments of its receiver."""
    with ExitStack() as stack:

        def slow(receiver="", constants=(), **choices):
            if choices.get("state_storage") == "mariadb":
                database = request.getfixturevalue("mariadb").new_database("mariadb")
                choices.update(state_storage="postgresql", STATE_DATABASE=database)
            app = application(HANDLERS="app.handlers.slow,app.handlers.quick", REPLIES_PER_HOUR=10_000, **choices)
            for name, source in {"slow": SLOW, "quick": QUICK}.items():
                (app.folder / "app" / "handlers" / f"{name}.py").write_text(source)
            (app.folder / "app" / "templates" / "step.msg").write_text("{{ text }}\n\nIt was handled.\n")
            boot = app.folder / "config" / "boot.py"
            boot.write_text(boot.read_text().replace("settings.receiver_port)", f"settings.receiver_port{receiver})"))
            for file, name, value in constants:
                set_in(app, file, name, value)
            app.start()
            return Mails(app, stack)

        yield slow


def subjects(sink, count):
    return sorted((reply.recipients[0], reply["Subject"]) for reply in sink.take(count))


def test_ordinary_mail_is_answered_while_slow_handlers_run_and_a_sender_waits_for_the_own_mail_only(slow, sink):
    mails = slow(HANDLER_THREADS=3)
    running = [mails.begin(f"{number}@people.example", f"slow {number}") for number in range(3)]
    queued = [mails.send(f"{number}@people.example", "slow", f"slow {number}") for number in range(3, 9)]
    after = mails.send("0@people.example", "quick", "comes after slow 0")
    for number in range(20):
        assert mails.send(BOB, "quick", f"quick {number}").result(30) == 250
    assert not any(answer.done() for answer in [*running, *queued, after])

    mails.go()
    assert {answer.result(30) for answer in [*running, *queued, after]} == {250}
    assert [reply["Subject"] for reply in sink.take(30) if reply.recipients[0] in (BOB, "0@people.example")] == [
        *(f"quick {number}" for number in range(20)),
        "slow 0",
        "comes after slow 0",
    ]


@pytest.mark.parametrize("state_storage", [*STORAGES, "mariadb"])
def test_mails_of_both_kinds_in_any_order_are_handled_once_each_and_in_the_order_of_their_sender(
    slow, sink, state_storage
):
    """Compared with a model: each sender's steps, one after the other; what fails has changed nothing."""
    mails = slow(state_storage=state_storage)
    chance = random.Random(21)
    senders = [f"{number}@people.example" for number in range(12)]
    scripts = {
        sender: [
            (chance.choice(["slow", "quick"]), f"{number} at once{' fail' * (chance.random() < 0.2)}")
            for number in range(12)
        ]
        for sender in senders
    }

    def play(sender):
        with mails.app.client() as client:
            return [
                client.docmd(f"MAIL FROM:<{sender}>")[0] == client.rcpt(mails.app.address(kind))[0] == 250
                and client.data(f"Subject: {subject}\nMessage-ID: <{number}@{sender}>\n\nHello.\n")[0]
                for number, (kind, subject) in enumerate(scripts[sender])
            ]

    with ThreadPoolExecutor(len(senders)) as pool:
        answers = dict(zip(senders, pool.map(play, senders), strict=True))

    for sender, script in scripts.items():
        assert answers[sender] == [451 if "fail" in subject else 250 for _, subject in script]
    handled = {
        sender: [subject for _, subject in script if "fail" not in subject] for sender, script in scripts.items()
    }
    replies = sink.take(sum(map(len, handled.values())))
    for sender in senders:
        assert [reply["Subject"] for reply in replies if reply.recipients == (sender,)] == handled[sender]
    if state_storage == "shelve":  # one process at a time
        mails.app.terminate()
    odd = {
        (sender, kind)
        for sender, script in scripts.items()
        for kind in ("slow", "quick")
        if sum(kind == one and "fail" not in subject for one, subject in script) % 2
    }
    assert mails.states() == dict.fromkeys(odd, "ODD")
    assert "two ordinary handlers" not in mails.app.logged()


def test_each_recipient_is_answered_in_order_and_commands_after_the_mail_wait_for_that(slow):
    mails = slow()
    recipients = [mails.app.address(name) for name in ("slow", "refuses", "quick")]
    with Raw(mails.app.port, "lmtp") as raw:
        lines = [f"MAIL FROM:<{ALICE}>", *(f"RCPT TO:<{recipient}>" for recipient in recipients), "DATA"]
        assert raw.say("".join(f"{line}\r\n" for line in lines).encode(), 5).startswith("354")
        raw.socket.sendall(b"Subject: one\r\n\r\n.\r\nNOOP\r\nMAIL FROM:<next@people.example>\r\nBAD\r\n")
        wait_until((mails.app.folder / "run" / "one is running").exists)
        assert mails.send(BOB, "quick", "two").result(30) == 250
        raw.socket.setblocking(False)
        with pytest.raises(BlockingIOError):
            raw.socket.recv(1)
        raw.socket.settimeout(60)
        mails.go()
        answers = [raw.answer() for _ in range(6)]

    assert [answer[:9] for answer in answers] == [
        "250 2.0.0",
        "550 5.7.1",
        "250 2.0.0",
        "250 2.0.0",
        "250 2.1.0",
        "502 5.5.2",
    ]


def test_smtp_mail_is_answered_when_its_slow_handler_has_ended(slow):
    mails = slow(protocol="smtp")
    answer = mails.begin(ALICE, "one")
    assert mails.send(BOB, "quick", "two").result(30) == 250
    assert not answer.done()
    mails.go()
    assert answer.result(30) == 250


def test_mail_of_a_client_that_has_left_is_handled_and_not_again_when_it_comes_back(slow, sink):
    mails = slow()
    mail = b"Subject: one\r\nMessage-ID: <1@people.example>\r\n\r\nHello."
    with Raw(mails.app.port, "lmtp") as raw:
        assert raw.begin(ALICE, mails.app.address("slow")).startswith("354")
        raw.socket.sendall(mail + b"\r\n.\r\n")
        wait_until((mails.app.folder / "run" / "one is running").exists)
    mails.go()
    mails.app.wait_for_log("handled mail from")
    with Raw(mails.app.port, "lmtp") as raw:
        assert raw.mail(ALICE, mails.app.address("slow"), mail).startswith("250")
    mails.app.wait_for_log("handled before")
    assert subjects(sink, 1) == [(ALICE, "one")]
    assert mails.states() == {(ALICE, "slow"): "ODD"}


def test_without_threads_a_slow_handler_runs_where_its_mail_is_read(slow):
    mails = slow(HANDLER_THREADS=0)
    answer = mails.begin(ALICE, "one")
    other = mails.send(BOB, "quick", "two")
    mails.go()
    assert answer.result(30) == other.result(30) == 250
    assert mails.app.logged().index("to 'slow@") < mails.app.logged().index("to 'quick@")


@pytest.mark.skipif(not postfix.IS_THERE, reason=postfix.REASON)
def test_behind_postfix_ordinary_mail_overtakes_twenty_slow_mails_that_have_a_destination_of_their_own(slow):
    world = SlowPostfix("")
    mails = slow(RECEIVER_PORT=world.lmtp_port)
    world.deploy = mails.app.folder / "deploy"
    with world:
        for number in range(20):
            world.send(f"{number}@people.test", "slow@example.com", Subject=f"slow {number}")
        for number in range(20):
            wait_until((mails.app.folder / "run" / f"slow {number} is running").exists, 30, world.log)
        world.send("alice@people.test", "quick@example.com")
        mails.app.wait_for_log("handled mail from 'alice@people.test'")
        assert mails.app.logged().count("handled mail from") == 1
        mails.go()
        world.wait_until_empty()
    assert mails.app.logged().count("handled mail from") == 21


class SlowPostfix(postfix.Postfix):
    """With the commented `transport_maps` for an address of a slow handler."""

    def _write_configuration(self):
        super()._write_configuration()
        file = self.folder / "etc" / "main.cf"
        line = re.search(r"^#(transport_maps = .*\bask@example\.com = .*)$", file.read_text(), re.MULTILINE)[1]
        line = line.replace("ask@", "slow@").replace(":8823", f":{self.lmtp_port}")
        file.write_text(re.sub("^transport_maps = .*", line, file.read_text(), flags=re.MULTILINE))


@pytest.mark.parametrize("state_storage", ["sqlite", "postgresql", "django"])
def test_mail_whose_sender_is_locked_elsewhere_waits_and_nobody_else_does(slow, state_storage):
    """Longer than the storage waits by itself."""
    mails = slow(state_storage=state_storage)
    with ThreadPoolExecutor(1) as pool:
        holding = pool.submit(mails.app.python, HOLD)
        wait_until((mails.app.folder / "run" / "held").exists)
        waiting = [mails.send(ALICE, kind, f"{kind} at once") for kind in ("quick", "slow")]
        for number in range(5):
            assert mails.send(BOB, "quick", f"quick {number}").result(30) == 250
        with pytest.raises(TimeoutError):
            waiting[0].result(3)
        mails.go()
        assert holding.result(30).returncode == 0
    assert [answer.result(30) for answer in waiting] == [250, 250]
    assert mails.app.logged().count("handled mail from") == 7


@pytest.mark.parametrize("state_storage", ["sqlite", "django", "shelve", "postgresql", "mariadb"])
def test_slow_handler_that_locks_the_database_delays_writes_and_no_connections(slow, state_storage):
    """In a database server it holds a row. The receiver waits for no lock, and ordinary mail comes when it is free."""
    mails = slow(state_storage=state_storage)
    assert mails.send(BOB, "slow", "write at once").result(30) == 250
    answer = mails.begin(ALICE, "write")
    waiting = [mails.send(f"{number}@slow.example", "slow", f"write {number}") for number in range(20)]
    waiting += [mails.send(f"{number}@people.example", "quick", f"write {number}") for number in range(3)]
    with Raw(mails.app.port, "lmtp", seconds=5) as raw:
        for _ in range(20):
            assert raw.say(b"NOOP\r\n").startswith("250")
        with pytest.raises(TimeoutError):
            waiting[0].result(3)
        assert raw.say(b"NOOP\r\n").startswith("250")
    mails.go()
    assert {one.result(30) for one in (answer, *waiting)} == {250}


def test_mail_that_waits_too_long_or_behind_too_many_is_answered_451(slow):
    constants = [("receiver", "IDLE_SECONDS", 2), ("pool", "MAX_SLOW", 3)]
    mails = slow(HANDLER_THREADS=1, constants=constants)
    running = mails.begin(ALICE, "one")
    queued = [mails.send(BOB, "slow", f"slow {number}") for number in range(4)]
    assert [answer.result(30) for answer in queued] == [451] * 4
    assert not running.done()
    mails.go()
    assert running.result(30) == 250
    assert mails.states() == {(ALICE, "slow"): "ODD"}
    assert mails.send(BOB, "slow", "later").result(30) == 250


def test_stop_waits_for_running_handlers_and_answers_waiting_mail_451(slow, sink):
    mails = slow(HANDLER_THREADS=1)
    running = mails.begin(ALICE, "one")
    with Raw(mails.app.port, "lmtp") as queued, Raw(mails.app.port, "lmtp") as idle:
        assert queued.begin(BOB, mails.app.address("slow")).startswith("354")
        queued.socket.sendall(b"Subject: two\r\n\r\n.\r\n")
        assert idle.say(b"NOOP\r\n").startswith("250")  # so the mail was read before
        mails.app.process.send_signal(signal.SIGTERM)
        assert idle.answer().startswith("421")
        assert queued.answer().startswith("451 4.3.2")
        assert queued.answer().startswith("421")
    assert not running.done()
    mails.go()
    assert running.result(30) == 250
    assert mails.app.process.wait(30) == 0
    assert subjects(sink, 1) == [(ALICE, "one")]
    assert mails.states() == {(ALICE, "slow"): "ODD"}


@pytest.mark.parametrize("way", ["a stop that has waited enough", "two stops", "kill -9"])
@pytest.mark.parametrize("state_storage", ["sqlite", "postgresql", "django"])
def test_mail_that_is_cut_off_has_changed_nothing_and_is_handled_when_it_comes_again(slow, sink, way, state_storage):
    mails = slow(receiver=", stop_timeout=0.5", state_storage=state_storage)
    answer = mails.begin(ALICE, "write")
    if way == "kill -9":
        mails.app.kill()
    else:
        mails.app.process.send_signal(signal.SIGTERM)
        if way == "two stops":
            mails.app.wait_for_log("is going down")
            with suppress(ProcessLookupError):
                mails.app.process.send_signal(signal.SIGTERM)
        mails.app.process.wait(30)
    assert answer.exception(30) is not None
    assert mails.states() == {}
    assert sink.offered == 0

    mails.go()
    mails.app.start()
    assert mails.send(ALICE, "slow", "write").result(30) == 250
    assert subjects(sink, 1) == [(ALICE, "write")]
    assert mails.states() == {(ALICE, "slow"): "ODD"}
