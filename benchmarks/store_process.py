"""Storages that are open in a process of their own, and the calls that are measured there."""

import multiprocessing
import random
import threading
import time

from benchmarks.stores import stores

KEY = "app.handlers.subscription:news"
STATES = ["CONFIRMING", "SUBSCRIBED"]
CONVERSATION = 4  # calls: of a mail that reads three times and changes the state once


class Process:
    """A process that has the storages of `places` open, by name. Methods of `_Worker` are called there."""

    def __init__(self, folders, places, stack):
        here, there = multiprocessing.Pipe()
        context = multiprocessing.get_context("forkserver")
        self._connection = here
        process = context.Process(target=_work, args=(folders, places, there), daemon=True)
        process.start()
        there.close()
        stack.callback(process.join)
        stack.callback(here.close)
        self.end()  # one after the other: what is below a storage may not bear to be made by two at once

    def begin(self, name, method, *arguments):
        self._connection.send((name, method, arguments))

    def end(self):
        answer = self._connection.recv()
        if isinstance(answer, Exception):
            raise answer
        return answer

    def call(self, name, method, *arguments):
        self.begin(name, method, *arguments)
        return self.end()


def _work(folders, places, connection):
    workers = {name: _Worker(stores(folders)[name].open(place)) for name, place in places.items()}
    connection.send("they are open")
    while True:
        try:
            name, method, arguments = connection.recv()
        except EOFError:
            return
        try:
            connection.send(getattr(workers[name], method)(*arguments))
        except Exception as error:
            connection.send(RuntimeError(f"{name}: {error!r}"))


class _Worker:
    """A storage, and what it was told."""

    def __init__(self, storage):
        self.storage = storage
        self.states = []
        self.takes = {}
        self.new = 0

    def fill(self, senders):
        self.states = [STATES[number % 2] for number in range(senders)]
        for first in range(0, senders, 50_000):
            some = range(first, min(first + 50_000, senders))
            self.storage.fill([(KEY, _sender(number), self.states[number]) for number in some])

    def measure(self, kind, seconds):
        """Return µs a call, from as many calls as take about so many seconds."""
        count = max(1, min(20_000, int(seconds / self.takes.get(kind, seconds))))
        numbers = [random.randrange(len(self.states)) for _ in range(count)]
        took = {"get": self._get, "set, old sender": self._set_old, "set, new sender": self._set_new}[kind](numbers)
        self.takes[kind] = took / count
        return took / count * 1e6

    def _get(self, numbers):
        senders, get = [_sender(number) for number in numbers], self.storage.get
        started = time.perf_counter()
        answers = [get(KEY, sender) for sender in senders]
        took = time.perf_counter() - started
        if answers != [self.states[number] for number in numbers]:
            raise ValueError("a get does not answer what was set")
        return took

    def _set_old(self, numbers):
        rows = []
        for number in numbers:  # each another one than before: SQLite does not write what stands there already
            self.states[number] = STATES[self.states[number] == STATES[0]]
            rows.append((_sender(number), self.states[number]))
        return self._set(rows)

    def _set_new(self, numbers):
        rows = [(f"new{self.new + place}@people.example", STATES[0]) for place in range(len(numbers))]
        self.new += len(numbers)
        return self._set(rows)

    def _set(self, rows):
        set_ = self.storage.set
        started = time.perf_counter()
        for sender, state in rows:
            set_(KEY, sender, state)
        took = time.perf_counter() - started
        for sender, state in dict(rows[-20:]).items():
            if self.storage.get(KEY, sender) != state:
                raise ValueError("a set is not there afterwards")
        return took

    def crowd(self, name, threads, seconds):
        """Return how many calls each of so many threads did in that time, and check what they set."""
        counts, errors = [0] * threads, []
        end = time.perf_counter() + seconds

        def converse(place):
            state = ""
            sender = f"{name}.{place}@people.example"
            try:
                self.storage.set(KEY, sender, "START0")
                while time.perf_counter() < end:
                    for _ in range(CONVERSATION - 1):
                        state = self.storage.get(KEY, sender)
                    if state != f"START{counts[place]}":
                        raise ValueError(f"{sender} is in {state} after {counts[place]} sets")
                    counts[place] += 1
                    self.storage.set(KEY, sender, f"START{counts[place]}")
            except Exception as error:
                errors.append(error)

        crowd = [threading.Thread(target=converse, args=(place,)) for place in range(threads)]
        for thread in crowd:
            thread.start()
        for thread in crowd:
            thread.join()
        if errors:
            raise errors[0]
        return [count * CONVERSATION for count in counts]


def _sender(number):
    return f"person{number}@people.example"
