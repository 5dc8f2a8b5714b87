"""Limit replies, so that two programs do not answer each other for ever."""

import threading
import time
from collections import Counter, deque
from collections.abc import Callable

HOUR = 3600
MAX_REPLIES = 100_000  # the most that are counted, which bounds the memory
DOMAIN = 50  # a domain gets this many times the replies of an address


class ReplyLimit:
    """Count the replies of the last hour to each address and each domain, in this worker's memory.

    The limit of a domain is for programs that write from a new address each time. It is wide, because all customers of
    a large provider share a domain.
    """

    def __init__(self, replies_per_hour: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.replies_per_hour = replies_per_hour
        self.clock = clock
        self._sent: deque[tuple[float, str]] = deque()  # when and to whom, for each reply of the last hour
        self._numbers: Counter[str] = Counter()
        self._one_thread = threading.Lock()

    def is_reached(self, address: str, more: int = 0) -> bool:
        """Return whether `address` or its domain would get too many replies with those of the last hour and `more`."""
        with self._one_thread:
            while self._sent and (self._sent[0][0] <= self.clock() - HOUR or len(self._sent) > MAX_REPLIES):
                _, answered = self._sent.popleft()
                for counted in (answered, _domain(answered)):
                    self._numbers[counted] -= 1
                    if not self._numbers[counted]:
                        del self._numbers[counted]
        limits = {address: self.replies_per_hour, _domain(address): self.replies_per_hour * DOMAIN}
        return any(self._numbers[counted] + more >= limit for counted, limit in limits.items())

    def count(self, address: str, replies: int) -> None:
        with self._one_thread:
            self._sent.extend([(self.clock(), address)] * replies)
            self._numbers.update([address, _domain(address)] * replies)

    def clear(self) -> None:
        self._sent.clear()
        self._numbers.clear()


def _domain(address: str) -> str:
    """Return the domain of an address, with an `@`, which tells it from an address."""
    return "@" + address.rpartition("@")[2]
