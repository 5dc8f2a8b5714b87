"""A mail on its way out: who gets it, from whom, and its octets."""

from __future__ import annotations

import re
from collections.abc import Iterable
from copy import copy
from dataclasses import dataclass
from email.message import Message
from email.utils import getaddresses
from typing import Any

BARE = re.compile(r'(?:"(?:\\.|[^"\\])*"|[^\s<>,"])+|<>')  # an address without a name, or the null sender

# A lone CR is text, and stays; but before a dot, servers have taken it for the end of the mail (SMTP smuggling, 2023).
LINE_END = re.compile(rb"\r\n|\r(?=\.)|\n")

MAX_RECIPIENTS = 50  # in one SMTP transaction; a relay takes 100 at least (RFC 5321, section 4.5.3.1.8)
SECONDS, OCTETS_A_SECOND = 40, 50_000  # how long the relay may take for a mail

HEADER_END = re.compile(rb"\n\r?\n")
MESSAGE_ID = re.compile(rb"^message-id:\s*(<[!-;=?-~]{1,250}>)", re.IGNORECASE | re.MULTILINE)


@dataclass(frozen=True)
class Envelope:
    """Envelope sender, recipients, and the message in octets, its lines ended by CRLF."""

    sender: str
    recipients: tuple[str, ...]
    data: bytes

    def commands(self, options: str = "") -> list[bytes]:
        """Return the commands before the content; raise `ValueError` for an address that cannot be sent."""
        paths = [f"<{address.strip('<>')}>" for address in (self.sender, *self.recipients)]
        commands = [f"MAIL FROM:{paths[0]}{options}", *(f"RCPT TO:{path}" for path in paths[1:]), "DATA"]
        if not all(map(str.isprintable, commands)):
            raise ValueError(f"an address that cannot be sent: {self.sender!r} or one of {self.recipients!r}")
        return [command.encode("ascii") for command in commands]


def message_id(data: bytes) -> str:
    """Return the Message-ID in a mail's octets for the log; never raise, whatever they are."""
    end = HEADER_END.search(data)
    found = MESSAGE_ID.search(data, 0, end.start() + 2 if end else len(data))
    return found[1].decode("ascii") if found else "unknown"


def describe(sender: str, recipient: str, data: bytes) -> str:
    """Return how the log names a mail that came in."""
    return f"mail from {sender!r} to {recipient!r}, Message-ID {message_id(data)}"


def seconds_for(octets: int) -> float:
    """Return how long the relay may take for a mail of that many octets."""
    return SECONDS + octets / OCTETS_A_SECOND


def make_envelope(message: Any, to: str | Iterable[str] | None = None, sender: str | None = None) -> Envelope:
    """Return the `Envelope` of a message: an `email.message.Message`, Salmon's, or octets.

    Without `to` an `email.message.Message` goes to its To, Cc and Bcc, and the header Bcc is removed. `sender` is the
    envelope sender, `<>` for the null sender. Raises `ValueError` where there is no address, or one that cannot be sent.
    """
    if to is None and isinstance(message, Message):
        to = [str(value) for name in ("To", "Cc", "Bcc") for value in message.get_all(name, ())]
    elif to is None:  # `To` of a mail that came in is its recipient
        to = getattr(message, "To", None) or message["To"]
    sender = sender or getattr(message, "From", None) or message["From"]
    envelope = Envelope(_addresses(sender)[0], tuple(dict.fromkeys(_addresses(to))), _octets(message))
    envelope.commands()  # raises now, and not when others of this mail have left
    return envelope


def _addresses(value: str | Iterable[str]) -> tuple[str, ...]:
    """Return the bare addresses in a header's text or a list of such texts; raise `ValueError` when there is none."""
    if isinstance(value, str) and BARE.fullmatch(value):
        return (value,)  # as it is: Python 3.13.0 does not read a@[127.0.0.1]
    texts = [value] if isinstance(value, str) else list(value)
    addresses = tuple(address for _, address in getaddresses(texts) if address)
    if not addresses:
        raise ValueError(f"no address in {value!r}")
    return addresses


def _octets(message: Any) -> bytes:
    """Return the message with CRLF line ends; one that came in (`MailRequest`) octet by octet, for its signatures."""
    if isinstance(message, Message):
        message = copy(message)
        del message["Bcc"]  # the copies are blind
    data: Any = getattr(message, "Data", message)
    if hasattr(data, "as_bytes"):
        data = data.as_bytes(policy=data.policy.clone(cte_type="7bit", linesep="\r\n"))
    if not isinstance(data, bytes):
        data = str(data).encode("utf-8", "surrogateescape")
    return LINE_END.sub(b"\r\n", data)
