"""Detect automated mail, and limit replies: two programs could write to each other for ever."""

import re
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import mailroom.message
from mailroom.parts import decoded_header

SENDER = ":sender"  # not a header: the envelope sender
PARTS = ":parts"  # not a header: the types of the parts of a mail, such as `text/plain message/rfc822`
MAX_VALUE = 1000  # characters of a value that are looked at; the time for some patterns grows with the square

HOUR = 3600
MAX_REPLIES = 100_000  # the most that are counted, which bounds the memory
DOMAIN = 50  # a domain gets this many times the replies of an address

LISTS = "List-Id List-Post List-Help List-Subscribe List-Owner List-Archive Mailing-List X-Mailing-List X-BeenThere"
RESPONDERS = "X-Autoreply X-Autoreply-From X-Mail-Autoreply X-Autorespond X-Autoresponder"
NOBODY = (
    r"(mailer[-_]?daemon|post_?master"
    r"|([^@<>\s]*[-_.+])?(no|not|donot|do-not|dont|never)[-_.]?reply([-_.+][^@<>\s]*)?)"
)
PROGRAM = (
    r"(root|www-?data|apache|httpd|daemon|nobody|imss|staff|[^@<]*(smtp|virus)[^@<]*|(sys|system )?admin(istrator)?)"
)
BOUNCE = (
    r"(undeliver|(delivery|returned|fail\w*) .*(mail|message|noti\w+|status|failure|warning)"
    r"|(mail|message) .*(deliver|returned|fail|error))"
)
REPLY = r"(reply|antwort|antwoord|réponse|respuesta|risposta|resposta|svar|vastaus|odpo\w+|válasz|yanıt|ответ)"
ABSENCE = (
    rf"(auto-?(reply|response)\b|autosvar:|automat\w+ {REPLY}\s?:|{REPLY} automat\w+\s?:|自動応答|自动答复|(?-i:AUTO:)"
    r"|vacation \w*re(ply|sp)|out of (the )?office( \w*re(ply|sp)|:))"
)


class Sign(NamedTuple):
    """A sign of automated mail: one of these headers, with a value in which the pattern is found.

    `headers` are names with spaces between; also `:sender`, the envelope sender, and `:parts`, the types of the
    parts. `pattern` is a regular expression; case and comments (RFC 5322, section 3.2.2) make no difference.
    `source` says how the sign is known. Mail is automated when its signs weigh 1 together; one that people send as
    well weighs less.
    """

    headers: str
    pattern: str
    source: str
    weight: float = 1


SIGNS = (
    Sign(SENDER, "^$", "RFC 3834, section 2: the null sender, which bounces have (RFC 5321, section 4.5.5)"),
    Sign(SENDER, rf"^{NOBODY}(@|$)", "RFC 3834, section 2; nobody reads no-reply"),
    Sign(SENDER, r"^owner-|[-+](owner|request|bounces)([-+=][^@]*)?@", "RFC 3834, section 2: lists"),
    Sign("From", rf"(^|[<\s])\"?{NOBODY}\"?(@|>|\s|$)(?!.*<)", "forwarded bounces and reports"),
    Sign("From", r"^\s*$|<\s*>", "forwarded bounces: the null sender as a header"),
    Sign("Sender", r"(^|<)\s*(owner-|[^@<>]*-(bounces|owner|request)@)", "Majordomo and Mailman"),
    Sign("Auto-Submitted", r"^\s*(?!no\s*(;|$))\S", "RFC 3834, section 5"),
    Sign("Precedence", r"^\s*(bulk|list|junk|auto_reply)\b", "RFC 3834, section 2"),
    Sign(LISTS, "", "RFC 2369, RFC 2919, ezmlm; not List-Unsubscribe, which services add to what people write"),
    Sign(RESPONDERS, "", "programs from before RFC 3834"),
    Sign("X-MLServer", "", "fml"),
    Sign("X-Failed-Recipients", "", "Exim"),
    Sign("X-Trusted-Delivery", "", "Bluebottle, which asks senders to prove that they are people"),
    Sign("X-Apple-Action", "vacation", "iCloud"),
    Sign("X-Cron-Env", "", "cron"),
    Sign("TLS-Report-Domain", "", "RFC 8460, section 5.3"),
    Sign("Content-Type", r"^\s*multipart/report\b", "RFC 6522"),
    Sign("Subject", r"^(\[preview\] |dmarc aggregate )?report domain:", "RFC 7489, section 7.2.1.1"),
    Sign("Subject", rf"^\W*{BOUNCE}", "bounces without RFC 3464", 0.5),
    Sign("Subject", "^complaint about message from", "Outlook.com's feedback loop", 0.5),
    Sign("Subject", rf"(^|\] ){ABSENCE}", "absence notes", 0.75),
    Sign("Subject", r"^auto:.*\bout of (the )?office\b", "absence notes of Notes", 0.5),
    Sign("X-Auto-Response-Suppress", r"\ball\b", "[MS-OXCMAIL], section 2.2.3.2.14; people's as well", 0.25),
    Sign("Return-Path", r"^\s*<>", "the null sender, of a mail that was forwarded", 0.5),
    Sign("From", rf"(^|<)\s*\"?{PROGRAM}\"?@", "accounts of programs", 0.5),
    Sign(PARTS, "^message/rfc822$", "Outlook.com's feedback loop", 0.5),
    Sign(PARTS, "message/(delivery-status|feedback-report)", "RFC 3464, RFC 5965", 0.5),
)

COMMENT = re.compile(r"\([^()]*\)")


class Machines:
    """Detect automated mail by `SIGNS`, and by `more` of them: tuples with the fields of `Sign`."""

    def __init__(self, more: Iterable[tuple[Any, ...]] = ()) -> None:
        self._signs: dict[str, list[tuple[re.Pattern[str], Sign]]] = {}
        for sign in (*SIGNS, *(Sign(*row) for row in more)):
            for header in sign.headers.lower().split():
                self._signs.setdefault(header, []).append((re.compile(sign.pattern, re.IGNORECASE), sign))

    def wrote(self, message: "mailroom.message.Message") -> bool:
        values = self._values(message)
        found = {sign for name, value in values for pattern, sign in self._signs[name] if pattern.search(value)}
        return sum(sign.weight for sign in found) >= 1

    def _values(self, message: "mailroom.message.Message") -> Iterator[tuple[str, str]]:
        yield SENDER, message.From
        part = message.base.mime_part
        for header, text in part.raw_items():
            name = header.lower()
            if name in self._signs:
                value = str(text)[:MAX_VALUE]
                if name == "subject" and ("=?" in value or not value.isascii()):
                    value = decoded_header(value)
                for _ in range(10 if "(" in value else 0):  # comments in comments
                    value = COMMENT.sub("", value)
                yield name, value
        if part.is_multipart():
            yield PARTS, " ".join(inner.get_content_type() for inner in part.get_payload())


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
