"""Conversations in plain text: test, demonstration and manual at once.

    # Alice joins.                                 a note for the reader
    alice@people.example -> news-subscribe         a mail; an address without a domain is ours, <> is the null sender
        Subject: Hello                             its headers, an empty line and its text, where they matter;
                                                   all of it indented
        I want to join.
    <- Subject: Please confirm your subscription   the reply: headers, an empty line, lines of its text
       Reply-To: {confirm}                         {name} stands for anything at first, then for the same again
    bob@people.example <- Subject: Alice is here   a mail to somebody else, or to several with commas
    [CONFIRMING]                                   the sender's state now; [dev: START] is the one at another address
    550                                            or: the mail is refused with this code, or code and text

All mails that go out are written down, in their order: without a `<-`, none does.
"""

import re
import textwrap
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from email.message import EmailMessage
from typing import TextIO

from mailroom import parts, room
from mailroom.plain_text import one_line
from mailroom.testing.exchange import Exchange, exchange, make_mail, state_at

MAIL = re.compile(r"(\S+)\s+->\s+(\S+)")
REPLY = re.compile(r"(\S+\s+)?<-(?:\s+(.*))?")
STATE = re.compile(r"\[(?:([^\s:\]]+):\s*)?(\w+)\]")
REFUSAL = re.compile(r"[45]\d\d\b.*")
HEADER = re.compile(r"([!-9;-~]+):\s*(.*)")
NAME = re.compile(r"\{([a-z_][a-z0-9_]*)\}")
Names = dict[str, str]  # what each {name} stands for


class Difference(Exception):
    """A line of a transcript does not hold, or cannot be read; the text names the line and the actual result."""


@dataclass
class Line:
    """A line: its number and text in the file, and the lines below that belong to it."""

    number: int
    text: str
    below: "list[Line]" = field(default_factory=list)


@dataclass
class Mail:
    """A mail of a transcript: its line, the comments before it, and what is expected."""

    line: Line
    notes: list[str]
    expected: list[Line] = field(default_factory=list)


class Transcript:
    """The conversation in `text`; messages call it `name`. Raises `Difference` for a line that cannot be read."""

    def __init__(self, name: str, text: str) -> None:
        self.name = name
        self.mails: list[Mail] = []
        self._notes: list[str] = []
        self._open: Line | None = None
        for number, line in enumerate(text.expandtabs().splitlines(), 1):
            self._read(Line(number, line.rstrip()))
        if not self.mails:
            raise Difference(f"{name} has no mail; one begins like: alice@people.example -> news-subscribe")

    def play(self) -> Iterator[tuple[Mail, Exchange]]:
        """Yield `(mail, exchange)` for each mail; raise `Difference` at the first line that does not hold."""
        names = {"domain": room.current().domain}
        for mail in self.mails:
            result = exchange(*self._written(mail.line, names))
            yield mail, result
            self._compare(mail, result, names)

    def _read(self, line: Line) -> None:
        if not line.text or line.text[0] == " ":
            if self._open:
                self._open.below.append(line)
            elif line.text:
                raise self._broken(line, "belongs to no mail")
            return
        self._open = None
        if line.text[0] == "#":
            self._notes.append(line.text.lstrip("# "))
        elif MAIL.fullmatch(line.text):
            self.mails.append(Mail(line, self._notes))
            self._notes, self._open = [], line
        elif not (REPLY.fullmatch(line.text) or STATE.fullmatch(line.text) or REFUSAL.fullmatch(line.text)):
            raise self._broken(line, "is none of: # a note, a@b.example -> address, <- Header: text, [STATE], 550")
        elif not self.mails:
            raise self._broken(line, "comes before the first mail")
        else:
            self.mails[-1].expected.append(line)
            self._open = line if REPLY.fullmatch(line.text) else None

    def _written(self, line: Line, names: Names) -> tuple[str, str, bytes]:
        """Return sender, recipient and octets of the mail that begins in a line."""
        sender, recipient = (_fill(part, names) for part in line.text.split()[::2])
        unknown = NAME.search(sender + recipient)
        if unknown:
            raise self._broken(line, f"has {unknown[0]}, which no reply that was seen has given a value")
        recipient = room.current().address(recipient)
        above, below = self._headers_and_text(line.below)
        headers = [(name, _fill(value, names)) for _, name, value in above]
        text = textwrap.dedent("\n".join(part.text for part in below)).strip("\n") or "Hello."
        try:
            return sender, recipient, make_mail(sender, recipient, headers, _fill(text, names) + "\n")
        except ValueError as error:
            raise self._broken(line, f"makes no mail: {error}") from error

    def _headers_and_text(self, below: list[Line]) -> tuple[list[tuple[Line, str, str]], list[Line]]:
        """Return the `(line, name, value)` of the headers in indented lines, and the lines of the text after them."""
        headers: list[tuple[Line, str, str]] = []
        for position, line in enumerate(below):
            if not line.text.strip():
                return headers, below[position + 1 :]
            header = HEADER.fullmatch(line.text.strip())
            if not header:
                raise self._broken(line, "is no header; text comes after an empty line")
            headers.append((line, header[1], header[2]))
        return headers, []

    def _compare(self, mail: Mail, result: Exchange, names: Names) -> None:
        sent = list(result.sent)
        refused = False
        for line in mail.expected:
            state = STATE.fullmatch(line.text)
            if state:
                address, wanted = state.groups()
                now = state_at(room.current().address(address), result.sender) if address else result.after
                if now != wanted:
                    raise self._differs(line, result, [f"[{address}: {now}]"] if address else None)
            elif REFUSAL.fullmatch(line.text):
                refused = True
                if not (result.refusal or "250").startswith(line.text):
                    raise self._differs(line, result)
            elif sent:
                self._compare_reply(line, *sent.pop(0), result, names)
            else:
                raise self._differs(line, result)
        if sent or (result.refusal and not refused):
            raise self._differs(mail.line, result)

    def _compare_reply(self, line: Line, to: str, reply: EmailMessage, result: Exchange, names: Names) -> None:
        wanted_to, _, first = line.text.partition("<-")
        if not _matches(wanted_to.strip(), to, names):
            raise self._differs(line, result)
        headers, text = self._headers_and_text([Line(line.number, first), *line.below] if first else line.below)
        for place, name, value in headers:
            actual = [one_line(str(header)) for header in reply.get_all(name, [])]
            if not any(_matches(value, header, names) for header in actual):
                if place.number == line.number:  # most likely another reply altogether
                    raise self._differs(line, result)
                raise self._differs(place, result, [f"{name}: {header}" for header in actual])
        lines = iter(text_of(reply).splitlines())
        for wanted in text:
            if wanted.text and not any(_matches(wanted.text.strip(), one.strip(), names) for one in lines):
                raise self._differs(wanted, result, text_of(reply).splitlines())

    def _broken(self, line: Line, why: str) -> Difference:
        return Difference(f"{self.name}, line {line.number}: {line.text.strip()!r} {why}")

    def _differs(self, line: Line, result: Exchange, instead: list[str] | None = None) -> Difference:
        lines = instead or outcome(result) or ["nothing"]
        expected = line.text if line.text.strip() else "(nothing)"
        if MAIL.fullmatch(line.text):
            expected += "    (and nothing that is not written below it)"
        return Difference(
            f"{self.name}, line {line.number} does not hold:\n\n    {expected.strip()}\n\n"
            "This came instead:\n\n" + textwrap.indent("\n".join(lines), "    ")
        )


class Recorder:
    """Write a conversation to `file`, mail by mail, as a transcript."""

    def __init__(self, file: TextIO) -> None:
        self.file = file
        self._names: dict[str, str] = {}

    def record(self, result: Exchange, headers: Iterable[tuple[str, str]] = (), text: str = "") -> None:
        """Write an `Exchange`; `headers` and `text` are what its mail said."""
        recipient = result.recipient.removesuffix(f"@{room.current().domain}")
        lines = [f"{result.sender or '<>'} -> {self._names.get(result.recipient, recipient)}"]
        lines += [f"    {name}: {value}" for name, value in headers]
        lines += textwrap.indent("\n" + text, "    ").splitlines() if text else []
        for _, mail in result.sent:
            if mail["Reply-To"]:
                self._names.setdefault(str(mail["Reply-To"]), "{" + f"reply_to_{len(self._names) + 1}" + "}")
        for line in outcome(result):
            header, _, value = line.rpartition(": ")
            lines.append(f"{header}: {self._names[value]}" if value in self._names else line)
        lines.sort(key=lambda line: not line.startswith("#"))  # a note explains what follows
        self.file.write("\n".join(lines) + "\n\n")
        self.file.flush()


def outcome(result: Exchange) -> list[str]:
    """Return the result of a mail as lines of a transcript."""
    lines = [result.refusal] if result.refusal else []
    for to, mail in result.sent:
        lines.append(f"{to} <- Subject: {one_line(str(mail['Subject'] or ''))}".lstrip())
        if mail["Reply-To"]:
            lines.append(f"   Reply-To: {one_line(str(mail['Reply-To']))}")
    if result.after:
        lines.append(f"[{result.after}]")
    if result.note:
        lines.append(f"# {one_line(result.note)}")
    return lines


def text_of(mail: EmailMessage) -> str:
    """Return the text that a person sees in a mail."""
    return "".join(map(parts.text, parts.texts_and_files(mail)[0]))


def _fill(text: str, names: Names) -> str:
    return NAME.sub(lambda name: names.get(name[1], name[0]), text)


def _matches(expected: str, actual: str, names: Names) -> bool:
    """Return whether a text is as expected; a name without a value gets the one it stands for here."""
    pattern, end, new = "", 0, set()
    for name in NAME.finditer(expected):
        pattern += re.escape(expected[end : name.start()])
        end = name.end()
        if name[1] in names:
            pattern += re.escape(names[name[1]])
        else:
            pattern += f"(?P={name[1]})" if name[1] in new else f"(?P<{name[1]}>.+?)"
            new.add(name[1])
    found = re.fullmatch(pattern + re.escape(expected[end:]), actual)
    if found:
        names.update(found.groupdict())
    return bool(found)
