"""Detect automated mail and limit replies, so that two programs do not write to each other for ever."""

import re
import time
from collections import Counter, deque
from collections.abc import Callable

from salmon.mail import MailRequest

HOUR = 3600
MAX_REPLIES = 100_000  # that are remembered
HEADERS = ("list-", "x-autoreply", "x-autorespond")
COMMENT = re.compile(r"\([^()]*\)")


def header(message: MailRequest, name: str) -> str:
    """Return a header of a `salmon.mail.MailRequest` as it came, empty when there is none.

    Salmon decodes headers when they are read, and a broken one raises.
    """
    return str(message.base.mime_part.get(name, ""))


def is_from_machine(message: MailRequest) -> bool:
    """Return whether a program sent this mail: answers to it help nobody, and can go on for ever.

    That is a null sender, `Auto-Submitted` other than `no` (RFC 3834, sections 2 and 5), any `List-`
    header (RFC 2369, RFC 2919), `Precedence: bulk`, `list` or `junk`, a report (RFC 6522), or a header
    that responders set before there were rules.
    """
    return (
        (message.From or "").partition("@")[0] in ("", "mailer-daemon")
        or any(word != "no" for word in _words(message, "Auto-Submitted"))
        or any(word in ("bulk", "list", "junk", "auto_reply") for word in _words(message, "Precedence"))
        or any(name.lower().startswith(HEADERS) for name in message.base.mime_part.keys())
        or message.base.mime_part.get_content_type() == "multipart/report"
    )


def _words(message: MailRequest, name: str) -> list[str]:
    """Return the values of all headers `name` without comments and parameters, in small letters."""
    values = [str(value) for value in message.base.mime_part.get_all(name, ())]
    for _ in range(10):  # comments in comments (RFC 5322, section 3.2.2)
        values = [COMMENT.sub("", value) for value in values]
    return [value.partition(";")[0].strip().lower() for value in values]


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
