"""Limit replies, so that two programs do not write to each other for ever."""

import time
from collections import Counter, deque
from collections.abc import Callable

HOUR = 3600
MAX_REPLIES = 100_000  # that are remembered


class ReplyLimit:
    """Count the replies to each address within the last hour, in this worker's memory.

    Of a flood, it remembers the last `MAX_REPLIES`.
    """

    def __init__(self, replies_per_hour: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.replies_per_hour = replies_per_hour
        self.clock = clock
        self._sent: deque[tuple[float, str]] = deque()  # when and to whom, for each reply of the last hour
        self._numbers: Counter[str] = Counter()

    def is_reached(self, address: str, more: int = 0) -> bool:
        """Return whether `address` has had `replies_per_hour` replies in the last hour, with `more` to come."""
        while self._sent and (self._sent[0][0] <= self.clock() - HOUR or len(self._sent) > MAX_REPLIES):
            _, answered = self._sent.popleft()
            self._numbers[answered] -= 1
            if not self._numbers[answered]:
                del self._numbers[answered]
        return self._numbers[address] + more >= self.replies_per_hour

    def count(self, address: str, replies: int) -> None:
        """Count that many `replies` to `address`."""
        self._sent.extend([(self.clock(), address)] * replies)
        self._numbers.update([address] * replies)

    def clear(self) -> None:
        """Forget all that was counted."""
        self._sent.clear()
        self._numbers.clear()
