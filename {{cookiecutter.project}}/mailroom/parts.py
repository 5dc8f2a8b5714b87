"""Find the text of a mail and the files in it among its parts (RFC 2045, RFC 2046)."""

import mimetypes
import re
from email.message import Message as Part
from typing import Any, NamedTuple

from mailroom.text import decoded, decoded_header, one_line, text_of_html, unflowed

MAX_PARAMETERS = 8_000  # characters; the time to read them grows with the square
MAX_NAME = 200  # octets; file systems allow 255
META = re.compile(rb"<meta[^>]{0,200}?charset=[\"']?([\w-]+)", re.IGNORECASE)

# What becomes of the texts in a part: read; left out, since another version is read; or attached.
READ, SPARE, FILE = "read", "spare", "file"


class Attachment(NamedTuple):
    """A file in a mail: a name that is safe for a file, though not unique; its media type, and its octets.

    `inline` is true for what is shown within the text, such as a picture. What Python's library cannot open
    comes as it is: S/MIME (`application/pkcs7-mime`), TNEF (`application/ms-tnef`), PGP (`application/octet-stream`).
    """

    name: str
    type: str
    data: bytes
    inline: bool = False


def texts_and_files(mail: Part) -> tuple[list[Part], list[Part]]:
    """Return the parts that people read, and those that are attached, both in their order."""
    texts: list[Part] = []
    files: list[Part] = []
    todo = [(mail, READ)]
    while todo:
        part, role = todo.pop()
        is_file = part.get_content_disposition() == "attachment" or (part is not mail and bool(_file_name(part)))
        if part.is_multipart() and part.get_content_maintype() == "multipart":
            todo.extend(reversed(_roles(part, role)))
        elif not _is_text(part) or is_file or role is FILE:
            files.append(part)
        elif role is READ:
            texts.append(part)
    return texts, files


def _roles(part: Part, role: str) -> list[tuple[Part, str]]:
    """Return the parts in a multipart that has this role, each with its own."""
    parts, kind = inner(part), part.get_content_subtype()
    if kind == "alternative":
        best = max(parts, key=_worth, default=None)
        return [(part, role if part is best else SPARE) for part in parts]
    if kind in ("related", "signed", "report"):  # the first part is the text
        return [(part, FILE if place else role) for place, part in enumerate(parts)]
    return [(part, role) for part in parts]


def inner(part: Part) -> list[Part]:
    payload: Any = part.get_payload() if part.is_multipart() else []
    return list(payload)


def _worth(part: Part) -> int:
    """Rank a version of a text: plain text first, then HTML or a multipart that may hold it, then a blank one."""
    if part.get_content_type() == "text/plain":
        return 2 if octets(part).strip() else 0
    return 1 if _is_text(part) else 0


def _is_text(part: Part) -> bool:
    """Return whether people read this part; a multipart without parts has lost its boundary."""
    return part.get_content_type() in ("text/plain", "text/html") or part.get_content_maintype() == "multipart"


def octets(part: Part) -> bytes:
    """Return what a part holds, without its transfer encoding; of an attached mail, the mail."""
    try:
        if part.is_multipart():
            return b"\n".join(child.as_bytes() for child in inner(part))
        return bytes(part.get_payload(decode=True) or b"")
    except Exception:  # `email` raises many exceptions about what it cannot write
        return b""


def text(part: Part) -> str:
    """Return the text that a person sees in a part, with `\\n` at the ends of lines."""
    data, charset = octets(part), parameter(part, "charset")
    if part.get_content_type() == "text/html":
        if not charset and (found := META.search(data, 0, 2000)):
            charset = found[1].decode("ascii", "replace")
        return text_of_html(decoded(data, charset))
    lines = decoded(data, charset).replace("\r\n", "\n").replace("\r", "\n")
    if parameter(part, "format").lower() == "flowed":
        return unflowed(lines, parameter(part, "delsp").lower() == "yes")
    return lines


def attachment(part: Part) -> Attachment:
    kind, disposition = part.get_content_type(), part.get_content_disposition()
    name = one_line(re.split(r"[/\\]", _file_name(part))[-1])
    name = re.sub(r'[<>:"|?*]', "_", name).encode()[-MAX_NAME:].decode("utf-8", "ignore").strip(" .")
    inline = disposition == "inline" or (disposition is None and "Content-ID" in part)
    return Attachment(name or f"attachment{mimetypes.guess_extension(kind) or '.bin'}", kind, octets(part), inline)


def _file_name(part: Part) -> str:
    return parameter(part, "filename", "Content-Disposition") or parameter(part, "name")


def raw_header(part: Part, name: str) -> str:
    """Return a header as it came, with surrogates for 8-bit octets (`email` puts U+FFFD there); empty when missing."""
    return next((str(value) for key, value in part.raw_items() if key.lower() == name.lower()), "")


def parameter(part: Part, name: str, header: str = "Content-Type") -> str:
    """Return a parameter of a header as text, empty when there is none, or none that can be read."""
    value: Any = raw_header(part, header)
    if len(value) > MAX_PARAMETERS or name not in value.lower():
        return ""
    if not value.isascii():
        part = Part()
        part[header] = decoded(value.encode("utf-8", "surrogateescape"))
    try:
        value = part.get_param(name, "", header)
    except Exception:  # `email` raises many exceptions about RFC 2231
        return ""
    if isinstance(value, tuple):  # RFC 2231: charset, language, text
        return decoded(value[2].encode("latin-1", "replace"), value[0])
    return decoded_header(value)
