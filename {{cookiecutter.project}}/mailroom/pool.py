"""Handle mail in threads; the mails of one sender wait for each other without one."""

import threading
from collections import deque
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from typing import Any

# Mails that are here at once. A quarter of a receiver's 512 connections is always there for others.
MAX_SLOW = 256
MAX_ORDINARY = 128
MAX_OF_ONE_SENDER = 100


class Pool:
    """Threads for at most `size` slow mails at a time, and for as many others, which do not wait for slow ones.

    They end with the process, whatever they do.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._changed = threading.Condition()
        self._queues: dict[Hashable, deque[tuple[Future[Any], Callable[[], Any], bool]]] = {}  # by sender
        self._ready: tuple[deque[Hashable], ...] = deque(), deque()  # senders whose next mail is ordinary, or slow
        self._mails = [0, 0]  # ordinary, slow
        self._threads = self._idle = self._slow = 0

    def has(self, sender: Hashable) -> bool:
        """Return whether a mail of this sender is here, so that the next one must come after it."""
        return sender in self._queues

    def submit(self, sender: Hashable, work: Callable[[], Any], is_slow: bool) -> Future[Any] | None:
        """Return the `Future` of `work()`, which comes after that of the same sender; None when too much waits."""
        with self._changed:
            is_full = self._mails[is_slow] >= (MAX_SLOW if is_slow else MAX_ORDINARY)
            if is_full or len(self._queues.get(sender, ())) >= MAX_OF_ONE_SENDER:
                return None
            if sum(map(len, self._ready)) >= self._idle and self._threads < 2 * self.size:
                try:
                    threading.Thread(target=self._run, name=f"handler-{self._threads + 1}", daemon=True).start()
                    self._threads += 1
                except RuntimeError:  # the operating system has no more
                    if not self._threads:
                        return None
            future: Future[Any] = Future()
            queue = self._queues.setdefault(sender, deque())
            queue.append((future, work, is_slow))
            self._mails[is_slow] += 1
            if len(queue) == 1:
                self._ready[is_slow].append(sender)
                self._changed.notify()
            return future

    def _run(self) -> None:
        while True:
            self._handle(self._next())

    def _next(self) -> Hashable:
        """Wait for a mail that may be handled; return its sender."""
        with self._changed:
            while True:
                for is_slow, senders in enumerate(self._ready):
                    if senders and self._slow + is_slow <= self.size:
                        self._slow += is_slow
                        return senders.popleft()
                self._idle += 1
                self._changed.wait()
                self._idle -= 1

    def _handle(self, sender: Hashable) -> None:
        queue = self._queues[sender]
        future, work, is_slow = queue[0]
        result = error = None
        try:
            result = work() if future.set_running_or_notify_cancel() else None
        except BaseException as raised:
            error = raised
        with self._changed:
            queue.popleft()
            self._mails[is_slow] -= 1
            self._slow -= is_slow
            if queue:
                self._ready[queue[0][2]].append(sender)
            else:
                del self._queues[sender]
            self._changed.notify()  # this thread may take the one, and another one what may begin now
        if error:
            future.set_exception(error)
        elif not future.cancelled():
            future.set_result(result)
