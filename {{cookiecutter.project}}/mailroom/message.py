"""Read a mail, and refuse one that would take minutes and gigabytes to read; answer it and pass it on."""

import re
from collections.abc import Iterable
from email import message_from_bytes
from email import parser as _  # noqa: F401  now, and not with the first mail, when files may be short
from email.message import EmailMessage
from email.message import Message as Part
from email.policy import compat32
from functools import cached_property
from typing import TYPE_CHECKING, Any

from salmon import encoding
from salmon.mail import MailRequest
from salmon.server import SMTPError

from mailroom.plain_text import one_line, without_surrogates
from mailroom.reply import make_reply, message_id
from mailroom.storage import Transaction

if TYPE_CHECKING:
    from mailroom.room import Mailroom

# What `email` may do to read one mail. It takes a lone CR for the end of a line as well.
MAX_LINES = 1_000_000  # or one for 20 octets of `max_message_size`
MAX_COMPARISONS = 20  # for each of these lines: with the boundary of each part that it is in
MAX_PARTS = 10_000
MAX_HEADERS = 50_000  # in all parts together
MAX_CONTENT_TYPE = 8_000  # the time for its parameters grows with the square

# RFC 5322, section 4.5: space before the colon, at which `email` would take the header for ended.
OBSOLETE_COLON = re.compile(rb"^([!-9;-~]+)[ \t]+:", re.MULTILINE)


class Message(MailRequest):
    """What a handler gets: a `salmon.mail.MailRequest` that can be answered and passed on.

    `From` and `To` are sender and recipient of the envelope in small letters, which states and limits go
    by. `envelope_sender` is as it came: to its own server, capitals may matter (RFC 5321, section 2.4).
    `Data` is the mail in octets.
    """

    def __init__(self, room: "Mailroom", peer: Any, sender: str, recipient: str, data: bytes) -> None:
        # Salmon's own reads the envelope as if it were headers, which takes a fifth of its time, and takes
        # the headers instead where there is no sender or `email` cannot read it.
        self.Peer, self.From, self.To, self.Data = peer, sender.lower(), recipient.lower(), data
        self.room = room
        self.envelope_sender = sender
        self.base = encoding.from_message(message_from_bytes(_without_obsolete_colons(data), _class=_Reading().part))
        for header, address in (("from", self.From or "mailer-daemon"), ("to", self.To)):
            if header not in self.base:
                self.base[header] = address
        self.bounce = None
        self.transaction: Transaction  # while it is handled
        self.unhandled = False
        self.replies = 0
        self.replies_left_out = 0

    def __getitem__(self, name: str) -> str | None:
        """Return a header as one line of text, None when there is none; as it came when it cannot be decoded."""
        try:
            value = super().__getitem__(name)
        except Exception:  # `email` and chardet raise whatever they like
            value = str(self.base.mime_part[name])
        return value if value is None else one_line(value)

    @property
    def text(self) -> str:
        """The text that a person wrote: the first part of `text/plain`, else of any text, else an empty one."""
        texts = [part for part in self.base.mime_part.walk() if part.get_content_maintype() == "text"]
        texts.sort(key=lambda part: part.get_content_subtype() != "plain")
        return _decoded(texts[0]) if texts else ""

    def body(self) -> str:
        """Return `text`."""
        return self.text

    @cached_property
    def is_automated(self) -> bool:
        """Whether a program sent this mail; it reaches stateless handlers only, and is not answered."""
        return self.room.machines.wrote(self)

    @property
    def connection(self) -> Any:
        """The connection to the database of the states, for own tables; see `mailroom.storage.Transaction`."""
        return self.transaction.connection

    def reply(self, template: str, sender: str, reply_to: str | None = None, **variables: Any) -> None:
        """Answer the sender with a template; the answer leaves when the mail has been handled.

        `template` names a file in the folder of templates, for example `welcome.msg`: its first line is the
        subject, its text begins after the first empty line. `sender` and `reply_to` are addresses, with or
        without a name. The rest are variables of the template, which knows `domain` as well. The answer goes
        to the envelope sender, with the null sender as its own. Automated mail is not answered (RFC 3834,
        section 2); beyond `replies_per_hour`, answers are left out. Raises `ValueError` for a template or
        an address that cannot be used.
        """
        data = make_reply(self, template, sender, reply_to, variables)
        if data is not None:
            self.room.relay.deliver(data, To=self.envelope_sender, From="<>")

    def send(self, mail: EmailMessage, to: str | Iterable[str] | None = None, sender: str | None = None) -> None:
        """Send an `email.message.EmailMessage` of your own; it leaves when the mail has been handled.

        Arguments and errors are those of `Mailroom.send`.
        """
        if "Message-ID" not in mail:
            mail["Message-ID"] = message_id(self, "send")
        self.room.send(mail, to=to, sender=sender)

    def forward(self, to: str, sender: str = "<>") -> None:
        """Pass the mail on to the address `to`, octet by octet, with the envelope sender `sender`."""
        self.room.relay.deliver(self, To=to, From=sender)

    def token(self, name: str) -> str:
        """Return a token for an address that only the sender can know, valid for three days.

        `name` says what it is for, such as a list. It has 26 small letters and digits.
        """
        return self.room.tokens.make(name, self.From)

    def has_token(self, token: str, name: str) -> bool:
        """Return whether `token` was made for this sender and `name`, and has not expired."""
        return self.room.tokens.is_valid(token, name, self.From)


def read(room: "Mailroom", peer: Any, sender: str, recipient: str, data: bytes) -> Message:
    """Return the `Message` of a mail; raise `salmon.server.SMTPError` 554 when it cannot be read.

    The arguments are a `Mailroom` and those of its method `deliver`.
    """
    lines = data.count(b"\n") + data.count(b"\r")
    limit = max(MAX_LINES, room.max_message_size // 20)
    if lines > limit or lines * data.lower().count(b"multipart/") > limit * MAX_COMPARISONS:
        raise _too_much("lines")
    try:
        return Message(room, peer, sender, recipient, data)
    except (SMTPError, MemoryError, ImportError, OSError):  # trouble of this machine is 451
        raise
    except Exception as error:
        raise SMTPError(554, "5.6.0 The message cannot be read") from error


def _decoded(part: Part) -> str:
    octets: Any = part.get_payload(decode=True) or b""
    try:
        return without_surrogates(octets.decode(part.get_content_charset("utf-8")))
    except (LookupError, ValueError, TypeError):  # a charset that is unknown, untrue, or broken itself
        return str(octets, "utf-8", "replace")


def _without_obsolete_colons(data: bytes) -> bytes:
    end = data.find(b"\n\n")
    header = data[: end + 1] if end >= 0 else data
    if b" :" in header or b"\t:" in header:
        return OBSOLETE_COLON.sub(rb"\1:", header) + data[len(header) :]
    return data


class _Reading:
    """Count down the parts and headers that one mail may have."""

    def __init__(self) -> None:
        self.parts = MAX_PARTS
        self.headers = MAX_HEADERS

    def part(self, policy: Any = compat32) -> "_Part":
        self.parts -= 1
        if self.parts < 0:
            raise _too_much("parts")
        return _Part(policy, self)


class _Part(Part):
    """A mail or a part of one, which refuses more than `_Reading` allows."""

    def __init__(self, policy: Any, reading: "_Reading") -> None:
        super().__init__(policy)
        self._reading = reading

    def set_raw(self, name: str, value: Any) -> None:
        self._reading.headers -= 1
        if self._reading.headers < 0:
            raise _too_much("headers")
        super().set_raw(name, value)

    def get_boundary(self, failobj: Any = None) -> Any:
        if len(str(self.get("Content-Type", ""))) > MAX_CONTENT_TYPE:
            raise _too_much("parameters")
        return super().get_boundary(failobj)


def _too_much(what: str) -> SMTPError:
    return SMTPError(554, f"5.6.0 The message has too many {what}")
