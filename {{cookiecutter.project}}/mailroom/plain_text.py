"""Write a plain text mail in octets, as SMTP transmits it (RFC 5322, RFC 2045).

`email.message` would take longer for a reply than everything else that is done for a mail.
"""

import quopri
import re
from collections.abc import Mapping
from email.header import Header

# Characters and long lines that RFC 5322 and RFC 2045, section 2.7, do not allow in a text of 7 bits.
ENCODED = re.compile(rb"[^\t\n -~]|[^\n]{901}")


def plain_text(headers: Mapping[str, str | Header | None], text: str) -> bytes:
    """Return a mail with these headers and this text.

    A header is a text, or an `email.header.Header` if it is not ASCII or longer than a line; an empty one is left out.
    No text can begin another header.
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
    """Return headers as a mail has them, without the empty ones."""
    lines = [f"{name}: {_encoded(value)}\r\n" for name, value in headers.items() if value]
    return "".join(lines).encode("ascii")


def one_line(text: str) -> str:
    """Return `text` as one line for a header: without control characters and lone surrogates."""
    if not text.isprintable():
        text = "".join(c if c.isprintable() else " " for c in without_surrogates(text))
    return " ".join(text.split())


def without_surrogates(text: str) -> str:
    """Return `text` with a question mark for each lone surrogate, which UTF-8 cannot encode."""
    return text.encode("utf-8", "replace").decode()


def _encoded(value: str | Header) -> str:
    return one_line(value) if isinstance(value, str) else value.encode(linesep="\r\n")
