"""What a get and a set take, by how many senders there are, and how threads and processes share a storage.

Contestants run in processes of their own and are asked in turn, many times for a short while. A storage of
ours and its floor share a process and are asked one right after the other: between processes, and between
one second and the next, this differs more than they do. What a storage answers is compared with what it was
told: every get, and at the end what the threads and processes set.
"""

import statistics
from contextlib import ExitStack

from benchmarks import applications
from benchmarks.measure import in_turn, ratio, table
from benchmarks.store_process import Process
from benchmarks.stores import CLASSES, stores
from tests import baking
from tests.postgresql import Server

KINDS = ["get", "set, old sender", "set, new sender"]
FLOORS = {"ours: sqlite": "bare sqlite3", "ours: postgresql": "bare psycopg", "ours: django": "bare sqlite3"}
TOGETHER = ["ours: sqlite", "ours: postgresql"]  # in the process of their floor, which bears one of ours


def run(folder, quick, say):
    """Measure below `folder`; `say` gets each table as text. Returns the figures of the charts."""
    sizes, rounds, seconds = ([1000], 1, 0.02) if quick else ([10**3, 10**4, 10**5, 10**6], 25, 0.05)
    charts = {}
    with ExitStack() as stack:
        folders = {choice: baking.bake(folder, project=f"{choice}-app", state_storage=choice) for choice in _ours()}
        for baked in folders.values():
            baking.add_compiled_package(baked)
        places = _Places(folder, stack, "postgresql" in folders)
        for senders in sizes:
            figures = _times(folders, places, senders, rounds, seconds)
            title = f"{senders:,} senders"
            say(_shown(title, figures))
            chart = {name: statistics.median(kinds["get"]) for name, kinds in figures.items()}
            charts[f"A get at {title}"] = {"figures": chart, "unit": "µs", "logarithmic": True}
            chart = {name: statistics.median(kinds["set, old sender"]) for name, kinds in figures.items()}
            charts[f"A set at {title}"] = {"figures": chart, "unit": "µs", "logarithmic": True}
        crowds, rounds, seconds = ([(1, 1), (2, 1)], 1, 0.04) if quick else ([(1, 1), (1, 8), (2, 1), (4, 1)], 7, 0.4)
        say(_crowds(folders, places, crowds, rounds, seconds))
    return charts


class _Places:
    """Where storages keep their states: new paths, new databases of one server."""

    def __init__(self, folder, stack, with_server):
        self._folder = folder
        # As durable as the others: a commit is on disk before it returns.
        self._server = stack.enter_context(Server(folder, fsync="on")) if with_server else None
        self._number = 0

    def new(self, store):
        self._number += 1
        return self._server.new_database() if store.server else str(self._folder / f"states-{self._number}")


def _ours():
    return [choice for choice in applications.choices() if choice in CLASSES]


def _times(folders, places, senders, rounds, seconds):
    """Return µs a call by contestant and kind, a list of rounds each."""
    with ExitStack() as stack:
        groups = {}
        for name, store in stores(folders).items():
            if senders <= store.most_senders:
                group = FLOORS[name] if name in TOGETHER else name
                groups.setdefault(group, {})[name] = places.new(store)
        processes = {}
        for group in groups.values():
            processes |= dict.fromkeys(group, Process(folders, group, stack))
        for name, process in processes.items():
            process.call(name, "fill", senders)
        figures = {name: {} for name in processes}
        for kind in KINDS:
            calls = {name: _measuring(process, name, kind, seconds) for name, process in processes.items()}
            for name, times in in_turn(calls, rounds).items():
                figures[name][kind] = times
    return figures


def _measuring(process, name, kind, seconds):
    return lambda: process.call(name, "measure", kind, seconds)


def _shown(title, figures):
    rows = []
    for name, kinds in figures.items():
        floor = figures.get(FLOORS.get(name))
        cells = []
        for kind in KINDS:
            cells += [
                _number(statistics.median(kinds[kind])),
                f"{ratio(kinds[kind], floor[kind]):.2f}" if floor else "",
            ]
        rows.append([name, *cells])
    return table(
        f"{title}: µs a call, and times the floor", ["", *(cell for kind in KINDS for cell in (kind, "x"))], rows
    )


def _crowds(folders, places, crowds, rounds, seconds):
    """Return the calls a second of `crowds`, numbers of processes and threads, and how evenly they are shared."""
    rows = []
    with ExitStack() as stack:
        contestants = {}
        for name, store in stores(folders).items():
            place = places.new(store)
            count = max(processes for processes, _ in crowds) if store.shared else 1
            workers = [Process(folders, {name: place}, stack) for _ in range(count)]
            workers[0].call(name, "fill", 1000)
            contestants[name] = workers
        figures = {}
        for processes, threads in crowds:
            calls = {
                name: _crowding(workers[:processes], name, threads, seconds)
                for name, workers in contestants.items()
                if processes <= len(workers)
            }
            for name, rates in in_turn(calls, rounds).items():
                figures[name, processes, threads] = rates
        for name in contestants:
            cells = []
            for crowd in crowds:
                rates = figures.get((name, *crowd))
                least = statistics.median(share for _, share in rates) if rates else 0
                cells += [f"{statistics.median(rate for rate, _ in rates):,.0f}", f"{least:.0%}"] if rates else ["", ""]
            rows.append([name, *cells])
    heads = [head for p, t in crowds for head in (f"{p} process{'es' * (p > 1)}, {t} thread{'s' * (t > 1)}", "least")]
    title = "Calls a second of a crowd, three gets and a set in turn, and what the slowest did of an equal share"
    return table(title, ["", *heads], rows)


def _crowding(workers, name, threads, seconds):
    def crowd():
        for number, worker in enumerate(workers):
            worker.begin(name, "crowd", f"crowd{number}", threads, seconds)
        counts = [count for worker in workers for count in worker.end()]
        return sum(counts) / seconds, min(counts) * len(counts) / max(1, sum(counts))

    return crowd


def _number(microseconds):
    return f"{microseconds:.1f}" if microseconds < 100 else f"{microseconds:,.0f}"
