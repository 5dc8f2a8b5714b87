"""Write the reply to a mail, marked so that no program replies to it."""

import quopri
import re
from collections.abc import Iterable, Mapping
from email.header import Header
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import formataddr, formatdate, make_msgid, parseaddr
from typing import Any

import mailroom.message
from mailroom.text import one_line, without_surrogates

MESSAGE_ID = re.compile(r"<[!-;=?-~]{3,248}>")
EMPTY_LINE = re.compile(r"\n[ \t]*\n")
MAX_REFERENCES = 20
MAX_REFERENCES_OCTETS = 600  # with the mail that is answered, they fit on one line
MAX_LINE = 900  # octets; RFC 5322, section 2.1.1, allows 998
ENCODED = re.compile(rb"[^\t\n -~]|[^\n]{901}")  # what RFC 2045, section 2.7, does not allow in a text of 7 bits


def make_reply(
    message: "mailroom.message.Message",
    template: str,
    sender: str,
    reply_to: str | None,
    more_headers: Mapping[str, str],
    attachments: Iterable[tuple[Any, ...]],
    variables: dict[str, Any],
) -> bytes:
    """Return the octets of an answer to a `Message`; arguments and errors are those of `Message.reply`."""
    room = message.room
    text = room.templates.get_template(template).render(variables)
    first_line, empty_line, text = EMPTY_LINE.sub("\n\n", text, count=1).partition("\n\n")
    if not empty_line:
        raise ValueError(f"{template} has no empty line between its subject and its text")
    answered = _message_ids(message, "Message-ID")[:1]
    headers = {
        "From": _mailbox(sender),
        "To": message.envelope_sender,
        "Reply-To": reply_to and _mailbox(reply_to),
        "Subject": first_line,
        "Date": formatdate(),
        "Message-ID": make_msgid(domain=room.domain),
        "Auto-Submitted": "auto-replied",
        "X-Auto-Response-Suppress": "All",  # Exchange does not look at Auto-Submitted
        "In-Reply-To": " ".join(answered),
        "References": " ".join([*_thread(message), *answered]),
        **more_headers,
    }
    text = text.rstrip("\n") + "\n"
    html = template.removesuffix(".msg") + ".html"
    attachments = list(attachments)
    if html not in room.html_templates and not attachments:
        return plain_text(headers, text)
    content = EmailMessage(SMTP.clone(cte_type="7bit"))
    content.set_content(without_surrogates(text))
    if html in room.html_templates:
        content.add_alternative(without_surrogates(room.templates.get_template(html).render(variables)), "html")
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


def _message_ids(message: "mailroom.message.Message", name: str) -> list[str]:
    return MESSAGE_ID.findall(str(message.base.mime_part.get(name, "")))


def _thread(message: "mailroom.message.Message") -> list[str]:
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
