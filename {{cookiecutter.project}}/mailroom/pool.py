"""Handle mail in threads; the mails of one sender wait for each other without one."""

import threading
from collections import deque
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any

MAX_WAITING = 256  # mails; half of a receiver's connections are always there for others
MAX_OF_ONE_SENDER = 100


class Pool:
    """At most `size` threads, which end with the process, whatever they do."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._one_thread = threading.Lock()
        self._queues: dict[Hashable, deque[tuple[Future[Any], Callable[[], Any]]]] = {}  # by sender
        self._ready: SimpleQueue[Hashable] = SimpleQueue()  # senders whose next mail may be handled
        self._waiting = self._threads = 0

    def has(self, sender: Hashable) -> bool:
        """Return whether a mail of this sender is here, so that the next one must come after it."""
        return sender in self._queues

    def submit(self, sender: Hashable, work: Callable[[], Any]) -> Future[Any] | None:
        """Return the `Future` of `work()`, which comes after that of the same sender; None when too much waits.

        `work` must not raise anything.
        """
        with self._one_thread:
            if self._waiting >= MAX_WAITING or len(self._queues.get(sender, ())) >= MAX_OF_ONE_SENDER:
                return None
            future: Future[Any] = Future()
            queue = self._queues.setdefault(sender, deque())
            queue.append((future, work))
            self._waiting += 1
            if len(queue) == 1:
                self._ready.put(sender)
            if self._threads < min(self._waiting, self.size):
                self._threads += 1
                threading.Thread(target=self._run, name=f"handler-{self._threads}", daemon=True).start()
            return future

    def _run(self) -> None:
        while True:
            sender = self._ready.get()
            queue = self._queues[sender]
            future, work = queue[0]
            result = work() if future.set_running_or_notify_cancel() else None
            with self._one_thread:
                queue.popleft()
                self._waiting -= 1
                if queue:
                    self._ready.put(sender)
                else:
                    del self._queues[sender]
            if not future.cancelled():
                future.set_result(result)
