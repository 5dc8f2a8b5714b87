"""Mails a second, end to end: our application with each storage, `salmon gen`, and a server that does nothing.

All get the same mails, in turn, over connections that stay open. What the sink of the replies has
counted is compared with what was sent, each time, and the states are looked at afterwards.
"""

import json
import statistics
import subprocess
import sys
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks import applications, sink
from benchmarks.applications import LIST, Ours, SalmonGen
from benchmarks.client import Client
from benchmarks.measure import in_turn, ratio, table
from tests.application import speak_smtp

SUBSCRIBE = "news-subscribe@example.com"
SENDERS = [f"person{number}@people.example" for number in range(100)]

OURS = {LIST: "SUBSCRIBED", SUBSCRIBE: "CONFIRMING"}
GENS = {LIST: "NEW_USER", SUBSCRIBE: "NEW_USER"}
FLOOR = "nothing: answers 250 and forgets"
BASE = "salmon gen, a reply a mail"
PROCESSING = Path(__file__).with_name("processing.py")


@dataclass
class Contestant:
    """A server that runs. `keeps` says in what state a mail to an address must leave its sender, if in any."""

    application: object
    running: object
    replies: bool
    keeps: dict
    slow: bool = False  # gets a tenth of the mails, for each takes it milliseconds
    wanted: dict = field(default_factory=dict)

    def sends(self, client, mails, replies_at, slow=False):
        """Return a function that sends mails and returns what came of it; `mails(divisor)` makes them."""

        def send():
            batch = mails(10 if self.slow or slow else 1)
            wanted = Counter(sender for sender, _ in batch) if self.replies else Counter()
            started = time.perf_counter()
            sent = client.send(batch)
            taken = replies_at.taken(wanted.total())
            sent.seconds = time.perf_counter() - started  # until the last reply has come
            if taken != wanted:
                raise RuntimeError(f"{wanted.total()} replies wanted, {taken.total()} came: {self.application}")
            if self.keeps:
                self.wanted.update((sender, self.keeps[recipient]) for sender, recipient in batch)
            return sent

        return send

    def check(self):
        """See that every sender is where they must be."""
        states = self.application.states() if self.keeps else {}
        for sender, state in self.wanted.items():
            if states.get(sender) != state:
                raise RuntimeError(f"{sender} is in {states.get(sender)} and not in {state}: {self.application}")


def run(folder, quick, say):
    """Measure below `folder`; `say` gets each table as text. Returns the figures of the charts."""
    count, rounds = (20, 1) if quick else (500, 9)
    folder = Path(folder)
    charts = {}
    with ExitStack() as servers, ExitStack() as stack:
        replies_at = servers.enter_context(sink.running("smtp"))
        contestants = _start(folder, replies_at, quick, servers, stack)

        def compare(title, names, mails, protocol="lmtp", connections=1, pipelined=False):
            with ExitStack() as clients:
                sends = {}
                for name in names:
                    client = Client(protocol, contestants[name].running.ports, connections, pipelined)
                    slow = pipelined and name.startswith("salmon gen")  # 40 ms each
                    sends[name] = contestants[name].sends(clients.enter_context(client), mails, replies_at, slow)
                figures = in_turn(sends, rounds)
            say(shown(title, figures, BASE if BASE in figures else names[0]))
            rates = {name: statistics.median(sent.rate for sent in sents) for name, sents in figures.items()}
            charts[title] = {"figures": rates, "unit": "mails a second"}

        lmtp = [name for name in contestants if "SMTP" not in name]
        compare("LMTP, 1 connection", lmtp, from_subscribers(count))
        compare("LMTP, 8 connections", lmtp, from_subscribers(count), connections=8)
        compare("LMTP, 1 connection, pipelined as Postfix does", lmtp, from_subscribers(count), pipelined=True)
        smtp = [name for name in contestants if "SMTP" in name]
        compare("SMTP, 1 connection", smtp, from_subscribers(count), "smtp")
        compare("SMTP, 8 connections", smtp, from_subscribers(count), "smtp", 8)
        keep = [n for n in lmtp if n == BASE or contestants[n].replies and contestants[n].keeps]
        compare("LMTP, 1 connection, every mail from a new sender: a new state each", keep, from_strangers(count))
        memory = [[name, f"{contestants[name].running.memory():.0f} MiB"] for name in contestants if name in lmtp[1:]]
        say(table("Memory at the end", ["", "most"], memory))
        stack.close()
        for contestant in contestants.values():
            contestant.check()
    say(_processing(contestants, rounds))
    return charts


def _start(folder, replies_at, quick, servers, stack):
    port = replies_at.port
    made = {
        BASE: (SalmonGen(folder, port, replies=True), True, {}),
        "salmon gen, no reply": (SalmonGen(folder, port), False, {}),
        "salmon gen with ShelveStorage, a reply a mail": (SalmonGen(folder, port, True, True), True, GENS),
        "salmon gen with ShelveStorage, no reply": (SalmonGen(folder, port, shelf=True), False, GENS),
        "salmon gen tuned by hand, a reply a mail": (SalmonGen(folder, port, replies=True, tuned=True), True, {}),
        "salmon gen tuned by hand, no reply": (SalmonGen(folder, port, tuned=True), False, {}),
    }
    for choice in ["sqlite"] if quick else applications.choices():
        where = applications.where_states_are(choice, folder, servers)
        made[f"ours with {choice}, a reply a mail"] = (Ours(folder, choice, port, **where), True, OURS)
    made["ours with sqlite, no reply"] = (Ours(folder, "sqlite", port, replies=False), False, OURS)
    smtp = Ours(folder, "sqlite", port, name="smtp")
    speak_smtp(smtp.folder)
    if quick:
        made = {name: contestant for name, contestant in made.items() if "tuned" not in name and "no reply" not in name}
    contestants = {FLOOR: Contestant(None, stack.enter_context(sink.running("lmtp")), False, {})}
    contestants["SMTP: " + FLOOR] = Contestant(None, stack.enter_context(sink.running("smtp")), False, {})
    for name, (application, replies, keeps) in (made | {"SMTP: ours with sqlite": (smtp, True, OURS)}).items():
        application.prepare(SENDERS)
        running = stack.enter_context(application.run())
        contestants[name] = Contestant(application, running, replies, keeps, slow="helve" in name)
    return contestants


def from_subscribers(count):
    return lambda divisor: [(SENDERS[number % len(SENDERS)], LIST) for number in range(max(10, count // divisor))]


def from_strangers(count, recipient=SUBSCRIBE):
    name, numbers = recipient.partition("@")[0], iter(range(10**9))
    return lambda divisor: [
        (f"{name}{next(numbers)}@people.example", recipient) for _ in range(max(10, count // divisor))
    ]


def shown(title, figures, base):
    rows = []
    for name, sents in figures.items():
        latencies = sorted(1000 * latency for sent in sents for latency in sent.latencies)
        rates = [sent.rate for sent in sents]
        times = ratio(rates, [sent.rate for sent in figures[base]])
        middle, late = latencies[len(latencies) // 2], latencies[len(latencies) * 99 // 100]
        rows.append([name, f"{statistics.median(rates):.0f}", f"{times:.2f}", f"{middle:.2f}", f"{late:.2f}"])
    return table(title, ["", "mails/s", f"times {base.partition(',')[0]}", "median ms", "99 % ms"], rows)


def _processing(contestants, rounds):
    """Return what a mail takes within one process, without the wire, beside Salmon's own parsing and routing."""
    application = contestants["ours with sqlite, a reply a mail"].application
    done = subprocess.run(
        [sys.executable, str(PROCESSING), str(rounds), *SENDERS],
        cwd=application.folder,
        env=application.environment(),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    figures = json.loads(done.stdout)
    base = next(iter(figures))
    rows = [
        [name, f"{statistics.median(times):.0f}", f"{ratio(times, figures[base]):.2f}"]
        for name, times in figures.items()
    ]
    return table("Processing of a mail, without the wire", ["", "µs", "times Salmon"], rows)
