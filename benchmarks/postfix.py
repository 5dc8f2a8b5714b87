"""How fast a real Postfix gets rid of a queue: one connection, our application beside `salmon gen`.

The mails wait in Postfix's queue until all are there. Then it is told to deliver, and the time is
taken until the queue is empty. Replies are counted at a sink of their own.
"""

import statistics
import time
from collections import Counter
from contextlib import ExitStack

from benchmarks import sink
from benchmarks.applications import LIST, Ours, SalmonGen
from benchmarks.client import DATA
from benchmarks.measure import in_turn, ratio, table
from tests import baking, postfix

SENDERS = [f"person{number}@people.example" for number in range(100)]


class WaitingPostfix(postfix.Postfix):
    """Takes mail from its own network, and keeps it until it is told to deliver."""

    def __init__(self, deploy, lmtp_port):
        super().__init__(deploy)
        self.lmtp_port = lmtp_port

    def _write_configuration(self):
        super()._write_configuration()
        with open(self.folder / "etc" / "main.cf", "a") as main:
            main.write("smtpd_client_restrictions = check_client_access static:HOLD\n")
            main.write("lmtp_destination_concurrency_limit = 1\n")

    def fill(self, senders):
        """Put a mail of each of `senders` into the queue."""
        with self.client(stranger=False) as client:
            for number, sender in enumerate(senders):
                client.sendmail(sender, [LIST], DATA.format(sender=sender, recipient=LIST, number=number))
        self._run("postsuper", "-H", "ALL")
        self.wait_until_deferred(len(senders))

    def empty(self):
        """Deliver all that waits; return the seconds that took."""
        started = time.perf_counter()
        self.flush()
        self.wait_until_empty(300)
        return time.perf_counter() - started


def run(folder, quick, say):
    """Measure below `folder`; `say` gets each table as text. Returns the figures of the charts."""
    if not postfix.IS_THERE:
        say(f"Through Postfix: not measured; {postfix.REASON}\n")
        return {}
    count, rounds = (10, 1) if quick else (200, 5)
    deploy = baking.bake(folder, project="deployed") / "deploy"
    charts = {}
    with ExitStack() as stack:
        replies_at = stack.enter_context(sink.running("smtp"))
        for replies, how in [(True, "a reply a mail"), (False, "no reply")][: 1 if quick else None]:
            base = f"salmon gen, {how}"
            applications = {
                base: SalmonGen(folder, replies_at.port, replies=replies),
                f"ours with sqlite, {how}": Ours(folder, "sqlite", replies_at.port, replies=replies),
            }
            sends = {
                name: _sending(application, deploy, replies, replies_at, count, stack)
                for name, application in applications.items()
            }
            figures = in_turn(sends, rounds)
            title = f"Through Postfix, one connection, {how}"
            rows = [
                [name, f"{statistics.median(rates):.0f}", f"{ratio(rates, figures[base]):.1f}"]
                for name, rates in figures.items()
            ]
            say(table(title, ["", "mails/s", "times salmon gen"], rows))
            rates = {name: statistics.median(rates) for name, rates in figures.items()}
            charts[title] = {"figures": rates, "unit": "mails a second"}
    return charts


def _sending(application, deploy, replies, replies_at, count, stack):
    """Start an application and its Postfix; return a function that sends mails and returns mails a second."""
    senders = [SENDERS[number % len(SENDERS)] for number in range(count)]
    application.prepare(SENDERS)
    running = stack.enter_context(application.run())
    queue = stack.enter_context(WaitingPostfix(deploy, running.ports[0]))

    def send():
        queue.fill(senders)
        seconds = queue.empty()
        wanted = Counter(senders) if replies else Counter()
        if (taken := replies_at.taken(wanted.total())) != wanted:
            raise RuntimeError(f"{wanted.total()} replies wanted, {taken.total()} came: {application}\n{queue.log()}")
        return count / seconds

    return send
