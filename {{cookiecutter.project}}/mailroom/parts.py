"""Find the text of a mail and the files in it, and decode them as mail programs do, whatever a mail says of itself.

Nothing here raises.
"""

import encodings
import mimetypes
import pkgutil
import quopri
import re
from base64 import b64decode
from email.message import Message as Part
from encodings.aliases import aliases
from html import unescape
from itertools import groupby
from operator import itemgetter
from typing import Any, NamedTuple

import chardet
import html_text
import quotequail
from quotequail import _patterns as patterns

MAX_PARAMETERS = 8_000  # characters; the time to read them grows with the square
MAX_NAME = 200  # octets; file systems allow 255
META = re.compile(rb"<meta[^>]{0,200}?charset=[\"']?([\w-]+)", re.IGNORECASE)

# What becomes of the texts in a part: read; left out, since another version is read; or attached.
READ, SPARE, FILE = "read", "spare", "file"

# Python's text encodings, by their names without separators; its others take a minute (punycode), or are for
# other things than mail (rot13, zlib).
CODEC = re.compile(r"ascii|big5|cp\d|euc_|gb|hp_roman8|hz|iso\d|johab|koi8|kz\d|latin|mac_|ptcp|shift|tis_|utf_")
NAMES = [*aliases.items(), *((module.name, module.name) for module in pkgutil.iter_modules(encodings.__path__))]
CODECS = {re.sub(r"\W|_", "", name): codec for name, codec in NAMES if CODEC.match(codec)}
CODECS |= {"iso88598i": "iso8859_8", "windows874": "cp874"}
# Mail programs decode these supersets instead: encoding.spec.whatwg.org, section 4.2, and the decoders there.
SUPERSETS = {"big5": "big5hkscs", "euc_jp": "euc_jis_2004", "euc_kr": "cp949", "gb2312": "gb18030", "gbk": "gb18030"}
SUPERSETS |= {"iso8859_1": "cp1252", "iso8859_9": "cp1254", "iso8859_11": "cp874", "latin_1": "cp1252"}
SUPERSETS |= {"shift_jis": "cp932", "tis_620": "cp874"}
MAX_GUESSED = 5_000  # octets, of which chardet guesses the charset
LEAST_CONFIDENCE = 0.15  # of chardet 7; below it are short texts, most of them in windows-1252

# RFC 2047, section 2. A word ends before the next one begins, so that the time grows with the length only.
ENCODED_WORD = re.compile(r"=\?([^?\s]+)\?([bq])\?((?:[^=]|=(?!\?[^=]))*?)\?=", re.IGNORECASE)

MAX_TEXT = 500_000  # characters; 9 million of HTML take html_text 13 seconds and 800 MB
# Pictures within the HTML, and what lxml does not accept.
UNREADABLE = re.compile(r"data:[^\"'<>\s]{1000,}|[\0-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]+")
TAG = re.compile(r"<[^<>]*>")

MAX_LINES, MAX_UNQUOTED = 300, 30_000  # of the text, characters; the time of quotequail grows with the square
# As programs and telephones add them; RFC 3676, section 4.3.
SIGNATURE = re.compile(
    r"^(-- ?|(sent (from|with|via)|gesendet (von|mit)|von meinem|envoy\S+ (de|depuis)|enviado (desde|de|do)"
    r"|inviato da|verzonden (vanaf|met)|skickat fr\S+|sendt fra|get outlook) [^\n]{0,60})$",
    re.IGNORECASE | re.MULTILINE,
)
# What quotequail does not know: Gmail's line in any language, with a year, a time, an address and a colon;
# Zoho's line; and "Sent" and "Subject" of Outlook in more languages.
GMAIL = re.compile(r"^(?=.{,400}$)(?=.*\d{4})(?=.*\d:\d\d)(?=.*<\s*[^<>\s]+@[^<>\s]+\s*>).*[:\uff1a]$", re.MULTILINE)
ZOHO = re.compile(r"\*?-{2,} ?(on .{,300} wrote|original message) ?-{2,}\*?$", re.IGNORECASE)
patterns.COMPILED_PATTERN_MAP["forward"] += [GMAIL, ZOHO]
OUTLOOK = "data inviato oggetto sendt emne wysłano temat odesláno předmět gönderildi konu lähetetty aihe elküldve tárgy"
patterns.HEADER_MAP.update({name: name for name in f"{OUTLOOK} 送信日時 件名 发送时间 主题".split()})
# One to three lines with an address or a number, and a colon at the end: "Alice schrieb am 1. Mai um 12:00:".
INTRODUCTION = r"^(?!>)(?=[^\n]*[@\d])[^\n]{1,300}(?:\n(?!>)[^\n]{1,300}){0,2}(?<=:)\s*"
QUOTED = re.compile(rf"(?:{INTRODUCTION})?(?:^>[^\n]*\n?)+|{INTRODUCTION}\Z", re.MULTILINE)


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


def decoded(octets: bytes, charset: str | None = None) -> str:
    """Return the text in `octets`, with U+FFFD for each character that cannot be decoded.

    An unknown `charset` and US-ASCII count as none: the text is then UTF-8, or what chardet guesses.
    """
    codec = _codec(charset)
    if codec in (None, "ascii") and b"\x1b$" in octets:
        codec = "iso2022_jp"  # RFC 1468: Japanese from before MIME
    if codec in (None, "ascii"):
        try:
            return octets.decode().removeprefix("\ufeff")
        except UnicodeDecodeError:
            guess = chardet.detect(octets[:MAX_GUESSED])
            codec = (_codec(guess["encoding"]) if guess["confidence"] > LEAST_CONFIDENCE else None) or "cp1252"
    if codec == "iso2022_jp":  # mail has the characters of NEC in it, which Python knows in JIS X 0213
        octets, codec = octets.replace(b"\x1b$B", b"\x1b$(Q"), "iso2022_jp_2004"
    text = octets.decode(SUPERSETS.get(codec, codec), "replace")
    return without_surrogates(text).removeprefix("\ufeff")


def _codec(charset: str | None) -> str | None:
    return CODECS.get(re.sub(r"\W|_|^x-", "", (charset or "")[:40].lower()))


def decoded_header(value: str) -> str:
    """Return the text of a header in one line; `email` keeps it with encoded words, and surrogates for 8-bit octets."""
    first, *rest = ENCODED_WORD.split(value[:MAX_TEXT])
    words: list[tuple[str | None, bytes]] = [(None, _octets(first))]
    for charset, encoding, word, between in zip(*[iter(rest)] * 4, strict=True):
        if encoding in "qQ":
            octets = quopri.decodestring(_octets(word), header=True)
        else:  # base64, also without padding or cut off
            digits = re.sub("[^A-Za-z0-9+/]", "", word)
            octets = b64decode(digits[: len(digits) - (len(digits) % 4 == 1)] + "==")
        words.append((charset.partition("*")[0].lower(), octets))  # RFC 2231, section 5: a language may follow
        if between.strip():  # space between encoded words is none: RFC 2047, section 6.2
            words.append((None, _octets(between)))
    words.append((None, _octets(value[MAX_TEXT:])))
    # Joined before they are decoded: programs split a character between two words.
    groups = groupby(words, itemgetter(0))
    return one_line("".join(decoded(b"".join(octets for _, octets in group), charset) for charset, group in groups))


def one_line(text: str) -> str:
    """Return `text` as one line for a header: without control characters and lone surrogates."""
    if not text.isprintable():
        text = "".join(c if c.isprintable() else " " for c in without_surrogates(text))
    return " ".join(text.split())


def without_surrogates(text: str) -> str:
    """Return `text` with a question mark for each lone surrogate, which UTF-8 cannot encode."""
    return text.encode("utf-8", "replace").decode()


def _octets(value: str) -> bytes:
    return value.encode("utf-8", "surrogateescape")


def text_of_html(html: str) -> str:
    """Return the text of HTML, in lines as a browser shows it."""
    html = UNREADABLE.sub("", html)[:MAX_TEXT]
    try:
        text: str = html_text.extract_text(html)
    except ValueError:  # a control character as `&#1;`
        text = ""
    return text or unescape(TAG.sub(" ", html)).strip()  # libxml2 gives up at 256 tags within tags


def unflowed(text: str, delete_space: bool = False) -> str:
    """Return text of `format=flowed` with its lines joined to paragraphs (RFC 3676, section 4)."""
    pieces = []
    open_depth = None  # of quoting, while the last line flows into the next one
    for line in text.split("\n"):
        content = line.lstrip(">")
        depth = len(line) - len(content)
        content = content.removeprefix(" ")
        signature = content == "-- "
        if depth != open_depth or signature:
            pieces.append("\n" + "> " * depth)
        flows = content.endswith(" ") and not signature
        pieces.append(content[:-1] if flows and delete_space else content)
        open_depth = depth if flows else None
    return "".join(pieces).removeprefix("\n")


def unquoted(text: str) -> str:
    """Return `text` without the quoted mail and the signature."""
    text = GMAIL.sub(r"\n\g<0>", text[:MAX_TEXT])  # quotequail joins lines, and would take the one above as well
    found = quotequail.unwrap("\n".join(text.split("\n", MAX_LINES)[:MAX_LINES])[:MAX_UNQUOTED]) or {}
    top = QUOTED.sub("\n", found.get("text_top") or "")
    if top.strip():
        text = f"{top}\n{found.get('text_bottom') or ''}"
    lines = SIGNATURE.split(QUOTED.sub("\n", text).strip(), 1)[0].split("\n")
    while lines and not lines[-1].strip("-_=*~#> \t"):  # the line above a quoted mail
        lines.pop()
    return "\n".join(lines).strip()
