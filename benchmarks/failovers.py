"""Whole conversations over four workers, which are killed again and again, while PostgreSQL fails over twice.

`python -m benchmarks.failovers` takes a few minutes. It fails when a mail is lost, is handled twice, or is not answered,
and prints how long all took, and how often a client had to try again.

Each worker has the same two hosts, of which the one that can be written is used. The other one follows it, and a
commit waits for both. A failover kills it with SIGKILL, promotes the other one, and makes a new one that follows.
"""

import random
import re
import smtplib
import tempfile
import threading
import time
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path

import click

from benchmarks.measure import machine
from tests import baking
from tests.application import Application
from tests.postgresql import Server
from tests.sink import Sink
from tests.waiting import wait_until

WORKERS = 4
AT_ONCE = 8  # clients
PATIENCE = 300  # seconds until a mail must have been taken, or answered
SUBJECTS = [
    "Please confirm your subscription to news",
    "Welcome to news",
    "Your mail to news has arrived",
    "Goodbye from news",
]


class Workers:
    """Processes of one application, each in a folder of its own as on machines of their own; one that ends starts again."""

    def __init__(self, stack, folder, **settings):
        first = Application(baking.bake(folder, state_storage="postgresql"), **settings)
        baking.add_compiled_package(first.folder)
        first.is_warm = True
        self.all = [first.copy(folder / f"machine-{number}") for number in range(WORKERS)]
        for worker in self.all:
            stack.enter_context(worker)
            worker.start()
            worker.settings["RECEIVER_PORT"] = worker.port  # after a crash as well
        self.kills = 0
        self._are_over = threading.Event()
        keeping = threading.Thread(target=self._keep_running)
        keeping.start()
        stack.callback(keeping.join)
        stack.callback(self._are_over.set)

    def kill_one(self):
        random.choice(self.all).process.kill()
        self.kills += 1

    def _keep_running(self):
        while not self._are_over.wait(0.05):
            for worker in self.all:
                if worker.process.poll() is not None:
                    worker.launch()


class Senders:
    """Clients that hold conversations, and what came of each mail."""

    def __init__(self, workers, sink, count):
        self.workers = workers
        self.sink = sink
        self.count = count
        self.taken = 0
        self.results = Counter()  # of tries
        self.longest = 0
        self._free = threading.Semaphore(AT_ONCE)
        self._replies = defaultdict(dict)  # by recipient and subject, then by Message-ID
        self._read = 0
        self._reading = threading.Lock()

    def converse(self, number):
        """Subscribe, confirm, write and, every other one, unsubscribe; each mail comes after the answer to the last."""
        sender = f"{number}@people.example"
        self.deliver(sender, "news-subscribe")
        confirm = self.reply(sender, SUBJECTS[0])
        self.deliver(sender, re.search(r"^Reply-To: (\S+)@", confirm, re.MULTILINE)[1])
        self.reply(sender, SUBJECTS[1])
        self.deliver(sender, "news")
        self.reply(sender, SUBJECTS[2])
        if number % 2:
            self.deliver(sender, "news-unsubscribe")
            self.reply(sender, SUBJECTS[3])

    def deliver(self, sender, recipient):
        """Send one mail to any worker again and again until it is taken, as a mail server does."""
        headers = {"Message-ID": f"<{random.getrandbits(64)}@people.example>"}
        started = time.monotonic()
        while True:
            result = "no answer"
            with self._free, suppress(OSError, smtplib.SMTPException):
                result = random.choice(self.workers.all).send(sender, recipient, **headers)[0]
            self.results[result] += 1
            if result == 250:
                break
            if result not in (451, "no answer") or time.monotonic() > started + PATIENCE:
                raise AssertionError(f"{recipient} of {sender} was answered {result}")
            time.sleep(random.uniform(0.05, 0.3))
        self.longest = max(self.longest, time.monotonic() - started)
        self.taken += 1

    def reply(self, recipient, subject):
        """Wait for a reply; return its text."""
        replies = wait_until(lambda: self.replies()[recipient, subject], PATIENCE, lambda: f"{subject} for {recipient}")
        return next(iter(replies.values()))

    def replies(self):
        """Return all replies so far."""
        with self._reading:
            for reply in self.sink.replies[self._read :]:
                text = reply.data.decode("ascii").replace("\r\n", "\n")
                subject, number = (
                    re.search(rf"^{it}: (.*)$", text, re.MULTILINE)[1] for it in ("Subject", "Message-ID")
                )
                for recipient in reply.recipients:
                    self._replies[recipient, subject][number] = text
                self._read += 1
            return self._replies


@click.command()
@click.option("--senders", default=200, show_default=True)
def main(senders):
    """Run it."""
    click.echo(machine())
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="failovers-")))
        sink = stack.enter_context(Sink())
        first = stack.enter_context(Server(folder / "first"))
        name = first.new_database().rpartition("/")[2]
        second = stack.enter_context(Server(folder / "second", standby_of=first))
        wait_for_both(first)
        hosts = "&".join(f"host={server.host}:{server.port}" for server in (first, second))
        workers = Workers(
            stack,
            folder,
            STATE_DATABASE=f"postgresql://mail@/{name}?{hosts}&target_session_attrs=read-write",
            SECRET_KEY="benchmarks" * 4,
            RELAY_PORT=sink.port,
        )
        clients = Senders(workers, sink, senders)
        started = time.monotonic()
        with ThreadPoolExecutor(senders) as pool:
            conversations = [pool.submit(clients.converse, number) for number in range(senders)]

            def goes_on(share):
                """Kill workers until that share of the mails was taken, or a conversation has failed."""
                while clients.taken < share * 3.5 * senders and not all(it.done() for it in conversations):
                    time.sleep(random.uniform(0.1, 0.4))
                    workers.kill_one()

            goes_on(0.25)
            first.kill()
            second.promote()
            third = Server(folder / "third", standby_of=second)
            third.port = third.settings["port"] = first.port
            stack.enter_context(third)
            wait_for_both(second)
            goes_on(0.6)
            second.kill()
            third.promote()
            goes_on(0.95)
            for conversation in conversations:
                conversation.result()
        seconds = time.monotonic() - started
        check(clients, third, name)
    click.echo(
        f"{senders} conversations of {clients.taken} mails in {seconds:.0f} s, {workers.kills} kills of a worker, 2 failovers\n"
        f"answers: {dict(clients.results)}; until a mail was taken: {clients.longest:.1f} s at most\n"
        f"replies: {len(sink.replies)}, of which {len(sink.replies) - clients.taken} left twice, with the same Message-ID\n"
        "lost: 0, handled twice: 0"
    )


def wait_for_both(server):
    """Let commits on a server wait for the one that follows it, from now on."""
    with server.connect() as connection:
        wait_until(lambda: connection.execute("SELECT 1 FROM pg_stat_replication WHERE state = 'streaming'").fetchall())
        connection.execute("ALTER SYSTEM SET synchronous_standby_names = '*'")
        connection.execute("SELECT pg_reload_conf()")


def check(clients, server, name):
    """Fail unless each mail was handled exactly once."""
    with server.connect(name) as connection:
        wait_until(lambda: connection.execute("SELECT count(*) FROM outbox").fetchone() == (0,), PATIENCE)
        states = dict(connection.execute("SELECT sender, state FROM states").fetchall())
        posts = Counter(sender for (sender,) in connection.execute("SELECT sender FROM posts").fetchall())
    everybody = [f"{number}@people.example" for number in range(clients.count)]
    expected = {(one, subject): 1 for one in everybody for subject in SUBJECTS[:3]}
    expected |= {(one, SUBJECTS[3]): 1 for one in everybody[1::2]}
    assert {it: len(ids) for it, ids in clients.replies().items() if ids} == expected
    assert posts == dict.fromkeys(everybody, 1)
    assert states == dict.fromkeys(everybody[::2], "SUBSCRIBED")


if __name__ == "__main__":
    main()
