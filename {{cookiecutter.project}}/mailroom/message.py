"""Read a mail, answer it and forward it; refuse one that would take minutes or gigabytes to read."""

import quopri
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from email.header import Header
from email.message import EmailMessage
from email.message import Message as Part
from email.parser import BytesParser
from email.policy import SMTP
from email.utils import formataddr, formatdate, make_msgid, parseaddr
from functools import cached_property, partial
from itertools import count
from typing import TYPE_CHECKING, Any

from salmon import encoding
from salmon.mail import MailRequest
from salmon.server import SMTPError

from mailroom import parts
from mailroom.bounces import Bounce
from mailroom.envelope import HEADER_END
from mailroom.parts import decoded_header, one_line, unquoted, without_surrogates
from mailroom.storage import Transaction

if TYPE_CHECKING:
    from mailroom.room import Mailroom

# What `email` reads at most of one mail.
MAX_LINES, OCTETS_A_LINE = 100_000, 10  # of these two limits the higher one: a million lines for 10 MB
MAX_COMPARISONS = 10  # for each of these lines: with the boundary of each part that it is in
MAX_NESTED = 100  # parts, with which Python can read a mail in any case
MAX_PIECES = 30_000  # parts and headers together

BATV = re.compile(r"^(prvs=[0-9a-z]{6,12}=|btv1==[^=@]+==)(?=[^@])")  # draft-levine-smtp-batv, and Oracle's
SRS = re.compile(r"srs0[=+-][^=@]+=[^=@]+=([^=@]+)=([^@]+)@(.+)")  # the Sender Rewriting Scheme

# RFC 5322, section 4.5: space before the colon, at which `email` would take the header for ended.
OBSOLETE_COLON = re.compile(rb"^([!-9;-~]+)[ \t]+:", re.MULTILINE)
# The boundary in use, where another one, or none, is declared.
BOUNDARY = re.compile(rb"^--([!#-~]{1,70})\s+content-", re.MULTILINE | re.IGNORECASE)

MESSAGE_ID = re.compile(r"<[!-;=?-~]{3,248}>")
EMPTY_LINE = re.compile(r"\n[ \t]*\n")
MAX_REFERENCES = 20
MAX_REFERENCES_OCTETS = 600  # with the mail that is answered, they fit on one line
MAX_LINE = 900  # octets; RFC 5322, section 2.1.1, allows 998
ENCODED = re.compile(rb"[^\t\n -~]|[^\n]{901}")  # what RFC 2045, section 2.7, does not allow in a text of 7 bits


class Message(MailRequest):
    """What a handler gets: a `salmon.mail.MailRequest` that replies, sends and forwards.

    `From` and `To` are the sender and recipient of the envelope in lower case, by which states and limits go; `From`
    is without the tag of BATV, which changes with each mail. `envelope_sender` is as it came: to its own server, case
    may matter (RFC 5321, section 2.4). `Data` is the mail, octet by octet.
    """

    def __init__(self, room: "Mailroom", peer: Any, sender: str, recipient: str, data: bytes) -> None:
        # Salmon's own reads the envelope as if it were headers, which takes a fifth of its time, and takes
        # the headers instead where there is no sender or `email` cannot read it.
        self.Peer, self.From, self.To, self.Data = peer, person(sender, room.forwarders), recipient.lower(), data
        self.room = room
        self.envelope_sender = sender
        self.base = _Base(_parsed(data))
        for header, address in (("from", self.From or "mailer-daemon"), ("to", self.To)):
            if header not in self.base:
                self.base[header] = address
        self.bounce: Bounce | None = None
        self.transaction: Transaction  # while it is handled
        self.unhandled = False
        self.replies_left_out = 0

    @cached_property
    def text(self) -> str:
        """The text that a person wrote, in lines that end with `\\n`: no attachment, and no attached mail.

        It is plain text, or made of HTML (of its first half a million characters) where there is none.
        """
        texts = [parts.text(part).strip("\n") for part in self._texts_and_files[0]]
        return "".join(f"{text}\n" for text in texts if text.strip())

    @cached_property
    def unquoted_text(self) -> str:
        """`text` without quoted mail and signature, as far as they are known, to look for a word such as "yes"."""
        return unquoted(self.text)

    @property
    def attachments(self) -> list[parts.Attachment]:
        """The files in the mail, each a `mailroom.parts.Attachment`; attached mail is one of them."""
        return [parts.attachment(part) for part in self._texts_and_files[1]]

    @cached_property
    def _texts_and_files(self) -> tuple[list[Part], list[Part]]:
        return parts.texts_and_files(self.base.mime_part)

    def is_bounce(self, threshold: float = 0.3) -> bool:
        """Return whether this is a bounce; then `bounce` is a `mailroom.bounces.Bounce`, which says who failed."""
        if self.bounce is None:
            self.bounce = Bounce(self)
        return bool(self.bounce.probable(threshold))

    def body(self) -> str:
        return self.text

    @cached_property
    def is_automated(self) -> bool:
        """Whether a program sent this mail; it reaches stateless handlers only, and is not answered."""
        return self.room.machines.wrote(self)

    @property
    def connection(self) -> Any:
        """The connection to the database of the states, for own tables; see `mailroom.storage.Transaction`."""
        return self.transaction.connection

    def reply(
        self,
        template: str,
        sender: str,
        reply_to: str | None = None,
        headers: Mapping[str, str] | None = None,
        attachments: Iterable[tuple[Any, ...]] = (),
        **variables: Any,
    ) -> None:
        """Reply to the envelope sender, with the null sender; the reply leaves when the mail has been handled.

        `template` names a file in the folder of templates, for example `welcome.msg`: its first line is the
        subject, its text begins after the first empty line. A `welcome.html` beside it goes along as HTML.
        `sender` and `reply_to` are addresses, with or without a name. `attachments` are those of a mail, or tuples of
        name, media type and octets. `variables` are those of the templates, which know `domain` as well. Automated
        mail gets no reply (RFC 3834, section 2); beyond `replies_per_hour`, replies are left out. Raises `ValueError`
        for a template or an address that cannot be used.
        """
        if self.is_automated:
            return
        room = self.room
        text = room.templates.get_template(template).render(variables)
        first_line, empty_line, text = EMPTY_LINE.sub("\n\n", text, count=1).partition("\n\n")
        if not empty_line:
            raise ValueError(f"{template} has no empty line between its subject and its text")
        name = template.removesuffix(".msg") + ".html"
        html = room.templates.get_template(name).render(variables) if name in room.html_templates else None
        answered = _message_ids(self, "Message-ID")[:1]
        fields = {
            "From": _mailbox(sender),
            "To": self.envelope_sender,
            "Reply-To": reply_to and _mailbox(reply_to),
            "Subject": first_line,
            "Date": formatdate(),
            "Message-ID": make_msgid(domain=room.domain),
            "Auto-Submitted": "auto-replied",
            "X-Auto-Response-Suppress": "All",  # Exchange does not look at Auto-Submitted
            "In-Reply-To": " ".join(answered),
            "References": " ".join([*_thread(self), *answered]),
            **(headers or {}),
        }
        data = _octets(fields, text.rstrip("\n") + "\n", html, list(attachments))
        room.relay.deliver(data, To=self.envelope_sender, From="<>")

    def send(self, mail: EmailMessage, to: str | Iterable[str] | None = None, sender: str | None = None) -> None:
        """Send a mail of your own when this one has been handled; arguments and errors are those of `Mailroom.send`."""
        self.room.send(mail, to=to, sender=sender)

    def forward(self, to: str, sender: str = "<>") -> None:
        """Pass the mail on, octet by octet; a missing Date, Message-ID and Auto-Submitted are put before it."""
        headers = "".join(f"{name}: {value}\r\n" for name, value in self.room.missing_headers(self.base.mime_part))
        self.room.relay.deliver(headers.encode() + self.Data, To=to, From=sender)

    def token(self, name: str) -> str:
        """Return 26 small letters and digits that only the sender can know, valid for three days and for `name`."""
        return self.room.tokens.make(name, self.From)

    def has_token(self, token: str, name: str) -> bool:
        """Return whether `token` was made for this sender and `name`, and has not expired."""
        return self.room.tokens.is_valid(token, name, self.From)


def read(room: "Mailroom", peer: Any, sender: str, recipient: str, data: bytes) -> Message:
    """Return the `Message` of a mail; raise `salmon.server.SMTPError` 554 when it cannot be read."""
    lines = data.count(b"\n") + data.count(b"\r") - data.count(b"\r\n")
    limit = max(MAX_LINES, room.max_message_size // OCTETS_A_LINE)
    if lines > limit or lines * data.lower().count(b"multipart/") > limit * MAX_COMPARISONS:
        raise SMTPError(554, "5.6.0 The message has too many lines")
    try:
        return Message(room, peer, sender, recipient, data)
    except (SMTPError, MemoryError, ImportError, OSError):  # failures of this machine are answered 451
        raise
    except Exception as error:
        if isinstance(error, RecursionError) and data.lower().count(b"content-type:") < MAX_NESTED:
            raise  # it was not this mail that was nested too deeply
        raise SMTPError(554, "5.6.0 The message cannot be read") from error


def person(sender: str, forwarders: Collection[str]) -> str:
    """Return the address of a person in an envelope sender, as states and limits know it.

    BATV leaves a person in their domain. SRS names another one, and anybody can write it: it is taken off for
    `forwarders` only.
    """
    address = sender.lower()
    srs = SRS.fullmatch(address)
    if srs and srs[3] in forwarders:
        address = f"{srs[2]}@{srs[1]}"
    return BATV.sub("", address)


def _parsed(data: bytes) -> Part:
    end = HEADER_END.search(data)
    header = data[: end.start()] if end else data
    if b" :" in header or b"\t:" in header:
        data = OBSOLETE_COLON.sub(rb"\1:", header) + data[len(header) :]
    mail = BytesParser(partial(_Part, count())).parsebytes(data)
    if mail.get_content_maintype() == "multipart" and not mail.is_multipart() and (found := BOUNDARY.search(data)):
        declared = f'Content-Type: {mail.get_content_type()}; boundary="{found[1].decode()}"\n'
        mail = BytesParser(partial(_Part, count())).parsebytes(declared.encode("utf-8", "surrogateescape") + data)
    return mail


class _Base(encoding.MailBase):
    """Salmon's view of a mail or of a part of one, which reads headers and texts as `Message` does."""

    def __init__(self, part: Part, parent: "_Base | None" = None) -> None:
        super().__init__(part, parent)
        self.parts = [_Base(inner, self) for inner in parts.inner(part)]

    def __getitem__(self, name: str) -> str | None:
        return decoded_header(parts.raw_header(self.mime_part, name)) if name in self.mime_part else None

    def items(self) -> list[tuple[str, str]]:
        items = self.mime_part.raw_items()
        return [(encoding.normalize_header(name), decoded_header(str(value))) for name, value in items]

    @property
    def body(self) -> str | bytes:
        is_text = self.mime_part.get_content_maintype() == "text"
        return parts.text(self.mime_part) if is_text else parts.octets(self.mime_part)


class _Part(Part):
    """A mail or a part of one; `pieces` counts the parts and headers of the whole mail."""

    def __init__(self, pieces: Iterator[int], policy: Any) -> None:
        super().__init__(policy)
        self._pieces = pieces
        self._count()

    def set_raw(self, name: str, value: Any) -> None:
        self._count()
        super().set_raw(name, value)

    def _count(self) -> None:
        if next(self._pieces) > MAX_PIECES:
            raise SMTPError(554, "5.6.0 The message has too many parts or headers")

    def get_boundary(self, failobj: Any = None) -> Any:
        if len(str(self.get("Content-Type", ""))) > parts.MAX_PARAMETERS:
            raise SMTPError(554, "5.6.0 The message has too many parameters")
        boundary = super().get_boundary(failobj)
        return boundary and re.sub(r"[\r\n]", "", boundary)  # RFC 5322, section 2.2.3


def _octets(
    headers: Mapping[str, str | Header | None], text: str, html: str | None, attachments: list[tuple[Any, ...]]
) -> bytes:
    if html is None and not attachments:
        return plain_text(headers, text)
    content = EmailMessage(SMTP.clone(cte_type="7bit"))
    content.set_content(without_surrogates(text))
    if html is not None:
        content.add_alternative(without_surrogates(html), "html")
    for name, kind, data, *_ in attachments:
        main, _, sub = kind.partition("/")
        if main in ("message", "multipart"):  # which the library, and RFC 2046, do not let be encoded
            main, sub = "application", "octet-stream"
        content.add_attachment(data, main, sub, filename=one_line(name))
    return _fields(headers) + content.as_bytes()


def plain_text(headers: Mapping[str, str | Header | None], text: str) -> bytes:
    """Return a mail of plain text; `EmailMessage` would take longer for it than everything else takes."""
    body = without_surrogates(text).replace("\r\n", "\n").encode("utf-8")
    content = {
        "MIME-Version": "1.0",
        "Content-Type": 'text/plain; charset="utf-8"',
        "Content-Transfer-Encoding": "7bit",
    }
    if ENCODED.search(body):
        body, content["Content-Transfer-Encoding"] = quopri.encodestring(body), "quoted-printable"
    return _fields({**headers, **content}) + b"\r\n" + body.replace(b"\n", b"\r\n")


def _fields(headers: Mapping[str, str | Header | None]) -> bytes:
    """Return headers as they stand in a mail, without the empty ones; nothing in a text can begin another header."""
    lines = [f"{name}: {_encoded(name, value)}\r\n" for name, value in headers.items() if value]
    return "".join(lines).encode("ascii")


def _encoded(name: str, value: str | Header) -> str:
    if isinstance(value, str):
        value = one_line(value)
        if value.isascii() and len(value) <= MAX_LINE:
            return value
        value = Header(value, "utf-8", header_name=name)  # RFC 2047
    return value.encode(linesep="\r\n")


def _message_ids(message: Message, name: str) -> list[str]:
    return MESSAGE_ID.findall(str(message.base.mime_part.get(name, "")))


def _thread(message: Message) -> list[str]:
    """Return the last of the mails that the mail itself refers to."""
    thread = _message_ids(message, "References")[-MAX_REFERENCES:]
    if not thread:  # RFC 5322, section 3.6.4: then the one mail that it answers
        answered = _message_ids(message, "In-Reply-To")
        thread = answered if len(answered) == 1 else []
    while sum(map(len, thread)) + len(thread) > MAX_REFERENCES_OCTETS:
        del thread[0]
    return thread


def _mailbox(text: str) -> str | Header:
    """Return an address with or without a name, the name encoded as RFC 2047 asks."""
    text = one_line(text)
    if text.isascii() and "<" not in text:
        return text
    name, address = parseaddr(text)
    if "@" not in address:
        raise ValueError(f"no address in {text!r}; a name with other characters than letters needs quotes")
    if name.isascii() and len(text) <= MAX_LINE:
        return formataddr((name, address))
    mailbox = Header(name, "utf-8", header_name="Reply-To")
    mailbox.append(f"<{address}>", "us-ascii")
    return mailbox
