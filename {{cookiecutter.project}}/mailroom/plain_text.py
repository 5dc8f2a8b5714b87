"""Write a mail of plain text in octets, as it goes over the wire (RFC 5322, RFC 2045).

`email.message` takes longer for a reply than all the rest of a mail takes.
"""

import quopri
import re
from collections.abc import Mapping
from email.header import Header

# What RFC 5322 and RFC 2045, section 2.7, do not let through as it is: other characters, long lines.
ENCODED = re.compile(rb"[^\t\n -~]|[^\n]{901}")


def plain_text(headers: Mapping[str, str | Header | None], text: str) -> bytes:
    """Return a mail with these headers and this text.

    `headers` is a dictionary of texts, or `email.header.Header`s where a text is not ASCII or
    longer than a line; the empty ones are left out. Nothing in a text can begin another header.
    """
    body = without_surrogates(text).replace("\r\n", "\n").encode("utf-8")
    encoding = "7bit"
    if ENCODED.search(body):
        body, encoding = quopri.encodestring(body), "quoted-printable"
    content = {
        "MIME-Version": "1.0",
        "Content-Type": 'text/plain; charset="utf-8"',
        "Content-Transfer-Encoding": encoding,
    }
    return fields({**headers, **content}) + b"\r\n" + body.replace(b"\n", b"\r\n")


def fields(headers: Mapping[str, str | Header | None]) -> bytes:
    """Return headers as they stand in a mail, the empty ones left out."""
    lines = [f"{name}: {_encoded(value)}\r\n" for name, value in headers.items() if value]
    return "".join(lines).encode("ascii")


def one_line(text: str) -> str:
    """Return `text` fit for a header: no line ends, no other control characters, no lone surrogates."""
    if not text.isprintable():
        text = "".join(c if c.isprintable() else " " for c in without_surrogates(text))
    return " ".join(text.split())


def without_surrogates(text: str) -> str:
    """Return `text` with a question mark for each lone surrogate, which has no UTF-8."""
    return text.encode("utf-8", "replace").decode()


def _encoded(value: str | Header) -> str:
    return one_line(value) if isinstance(value, str) else value.encode(linesep="\r\n")
