"""A mail as a handler gets it, and which mails nobody should try to read: some would take minutes and gigabytes."""

import re
from email import message_from_bytes
from email.message import Message

from salmon import encoding
from salmon.mail import MailRequest
from salmon.server import SMTPError

from app.mail.plain_text import one_line
from config import settings

# What `email` may do to read one mail. It takes a lone CR for the end of a line as well.
MOST_LINES = max(1_000_000, settings.max_message_size // 20)
MOST_COMPARISONS = 20 * MOST_LINES  # of a line with the boundary of each part that it is in
MOST_PARTS = 10_000
MOST_HEADERS = 50_000  # in all parts together
LONGEST_CONTENT_TYPE = 8_000  # the time for its parameters grows with the square

# RFC 5322, section 4.5: space before the colon, at which `email` would take the header for ended.
OBSOLETE_COLON = re.compile(rb"^([!-9;-~]+)[ \t]+:", re.MULTILINE)


class Request(MailRequest):
    """A `salmon.mail.MailRequest` whose sender and recipient are those of the envelope, in small letters.

    Salmon's own reads them as if they were headers, which takes a fifth of its time, and takes the
    headers instead where there is no sender or `email` cannot read it.

    `envelope_sender` is as it came: to its own server, capitals may matter (RFC 5321, section 2.4).
    """

    def __init__(self, peer, sender, recipient, data):
        self.Peer, self.From, self.To, self.Data = peer, sender.lower(), recipient.lower(), data
        self.envelope_sender = sender
        self.base = encoding.from_message(message_from_bytes(_without_obsolete_colons(data), _class=_Reading().part))
        for header, address in (("from", self.From or "mailer-daemon"), ("to", self.To)):
            if header not in self.base:
                self.base[header] = address
        self.bounce = None
        self.unhandled = False
        self.replies = 0

    def __getitem__(self, name):
        """Return a header as one line of text, None when there is none; as it came when it cannot be decoded."""
        try:
            value = super().__getitem__(name)
        except Exception:  # `email` and chardet raise whatever they like
            value = str(self.base.mime_part[name])
        return value if value is None else one_line(value)

    def body(self):
        """Return the text that a person wrote: the first part of `text/plain`, else of any text, else an empty one."""
        texts = [part for part in self.base.mime_part.walk() if part.get_content_maintype() == "text"]
        texts.sort(key=lambda part: part.get_content_subtype() != "plain")
        return _decoded(texts[0]) if texts else ""


def read(peer, sender, recipient, data):
    """Return the `Request` of a mail; raise `salmon.server.SMTPError` 554 when it cannot be read.

    The arguments are those of `app.mail.delivery.deliver`.
    """
    lines = data.count(b"\n") + data.count(b"\r")
    if lines > MOST_LINES or lines * data.lower().count(b"multipart/") > MOST_COMPARISONS:
        raise _too_much("lines")
    try:
        return Request(peer, sender, recipient, data)
    except SMTPError:
        raise
    except Exception as error:
        raise SMTPError(554, "5.6.0 The message cannot be read") from error


def _decoded(part):
    octets = part.get_payload(decode=True) or b""
    try:
        return octets.decode(part.get_content_charset("utf-8"))
    except (LookupError, ValueError, TypeError):  # a charset that is unknown, untrue, or broken itself
        return octets.decode("utf-8", "replace")


def _without_obsolete_colons(data):
    end = data.find(b"\n\n")
    header = data[: end + 1] if end >= 0 else data
    if b" :" in header or b"\t:" in header:
        return OBSOLETE_COLON.sub(rb"\1:", header) + data[len(header) :]
    return data


class _Reading:
    """What is left for one mail of the parts and headers that it may have."""

    def __init__(self):
        self.parts = MOST_PARTS
        self.headers = MOST_HEADERS

    def part(self, policy):
        self.parts -= 1
        if self.parts < 0:
            raise _too_much("parts")
        return _Part(policy, self)


class _Part(Message):
    """A mail or a part of one, that knows when it is too much."""

    def __init__(self, policy, reading):
        super().__init__(policy)
        self._reading = reading

    def set_raw(self, name, value):
        self._reading.headers -= 1
        if self._reading.headers < 0:
            raise _too_much("headers")
        super().set_raw(name, value)

    def get_boundary(self, failobj=None):
        if len(str(self.get("Content-Type", ""))) > LONGEST_CONTENT_TYPE:
            raise _too_much("parameters")
        return super().get_boundary(failobj)


def _too_much(what):
    return SMTPError(554, f"5.6.0 The message has too many {what}")
