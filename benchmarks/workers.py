"""What more workers bring: 1, 2 and 4 processes of our application on one storage.

Each worker listens on a port of its own, and the connections are spread over them as a mail server
or a balancer in front spreads them. Every mail is answered, and the answers are counted.
"""

import os
import statistics
import time
from collections import Counter
from contextlib import ExitStack

from benchmarks import applications, sink
from benchmarks.applications import LIST, Ours
from benchmarks.client import Client
from benchmarks.measure import in_turn, ratio, table

SUBSCRIBE = "news-subscribe@example.com"
CHOICES = ["sqlite", "postgresql", "django"]
WORKERS = [1, 2, 4]
CONNECTIONS = 8


def run(folder, quick, say):
    """Measure below `folder`; `say` gets each table as text. Returns the figures of the charts."""
    count, rounds = (80, 1) if quick else (1600, 9)
    charts = {}
    for choice in [choice for choice in CHOICES[: 1 if quick else None] if choice in applications.choices()]:
        for title, recipient, state in (
            ("a new state in every mail", SUBSCRIBE, "CONFIRMING"),
            ("mails that change no state", LIST, "SUBSCRIBED"),
        )[: 1 if quick else None]:
            name = f"Workers on {choice}, {title}"
            crowds = WORKERS[: 2 if quick else None]
            figures = _rates(folder / f"{choice}-{state}", choice, crowds, recipient, state, count, rounds)
            say(_shown(name, figures))
            chart = {f"ours, {workers} workers": statistics.median(rates) for workers, rates in figures.items()}
            charts[name] = {"figures": chart, "unit": "mails a second"}
    return charts


def _rates(folder, choice, crowds, recipient, state, count, rounds):
    """Return mails a second by the number of workers, a list of rounds each."""
    folder.mkdir()
    with ExitStack() as stack:
        replies_at = stack.enter_context(sink.running("smtp"))
        where = applications.where_states_are(choice, folder, stack)
        application = Ours(folder, choice, replies_at.port, **where)
        known = [f"person{number}@people.example" for number in range(100)]
        application.prepare(known)
        numbers = iter(range(10**9))
        wanted = {}

        def sending(client):
            def send():
                new = [f"new{next(numbers)}@people.example" for _ in range(count if recipient == SUBSCRIBE else 0)]
                senders = new or [known[number % len(known)] for number in range(count)]
                started = time.perf_counter()
                client.send([(sender, recipient) for sender in senders])
                taken = replies_at.taken(len(senders))
                seconds = time.perf_counter() - started  # until the last reply has come
                if taken != Counter(senders):
                    raise RuntimeError(f"not every mail got its one reply: {choice}")
                wanted.update(dict.fromkeys(senders, state))
                return len(senders) / seconds

            return send

        with ExitStack() as running:
            sends = {}
            for workers in crowds:
                ports = running.enter_context(application.run(workers)).ports
                sends[workers] = sending(running.enter_context(Client("lmtp", ports, CONNECTIONS, pipelined=True)))
            figures = in_turn(sends, rounds)
        states = application.states()
        if any(states.get(sender) != state for sender, state in wanted.items()):
            raise RuntimeError(f"not every sender is {state} in the end: {choice}")
    return figures


def _shown(title, figures):
    rows = [
        [str(workers), f"{statistics.median(rates):.0f}", f"{ratio(rates, figures[1]):.2f}"]
        for workers, rates in figures.items()
    ]
    title += f"; {os.cpu_count()} processors, which the client and the sink of the replies share"
    return table(title, ["workers", "mails/s", "times one"], rows)
