"""Conversations in plain text: test, demonstration and manual at once. The application's README describes the lines."""

import re
import textwrap
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TextIO

import click

from mailroom import room
from mailroom.message import Message
from mailroom.parts import one_line
from mailroom.testing import Exchange, exchange, make_mail, state_at

MAIL = re.compile(r"(\S+)\s+->\s+(\S+)")
REPLY = re.compile(r"(?:(\S+)\s+)?<-(?:\s+(.*))?")
STATE = re.compile(r"\[(?:([^\s:\]]+):\s*)?(\w+)\]")
REFUSAL = re.compile(r"[45]\d\d\b.*")
HEADER = re.compile(r"([!-9;-~]+):\s*(.*)")
NAME = re.compile(r"\{([a-z_][a-z0-9_]*)\}")
Names = dict[str, str]  # the value of each {name}


class Difference(click.ClickException):
    """A line of a transcript cannot be read, or the mail has another result; the text names the line and the result."""


@dataclass
class Line:
    """A line of the file, with the indented and empty lines below it; of a mail also notes and expected result."""

    number: int
    text: str
    below: "list[Line]" = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    expected: "list[Line]" = field(default_factory=list)


class Transcript:
    """The conversation in `text`; error messages call it `name`. Raises `Difference` for a line that cannot be read."""

    def __init__(self, name: str, text: str) -> None:
        self.name = name
        self.mails: list[Line] = []
        notes: list[str] = []
        above: Line | None = None
        for number, content in enumerate(text.expandtabs().splitlines(), 1):
            line = Line(number, content.rstrip())
            if line.text[:1] in ("", " "):
                if above:
                    above.below.append(line)
                elif line.text:
                    raise self._broken(line, "belongs to no mail")
                continue
            is_mail, is_reply = MAIL.fullmatch(line.text), REPLY.fullmatch(line.text)
            above = line if is_mail or is_reply else None
            if is_mail:
                line.notes, notes = notes, []
                self.mails.append(line)
            elif is_reply or STATE.fullmatch(line.text) or REFUSAL.fullmatch(line.text):
                if not self.mails:
                    raise self._broken(line, "comes before the first mail")
                self.mails[-1].expected.append(line)
            elif line.text.startswith("#"):
                notes.append(line.text.lstrip("# "))
            else:
                raise self._broken(line, "is none of: # a note, a@b.example -> address, <- Header: text, [STATE], 550")
        if not self.mails:
            raise Difference(f"{name} has no mail; a mail begins like: alice@people.example -> news-subscribe")

    def play(self) -> Iterator[tuple[Line, Exchange]]:
        """Deliver the mails and yield `(mail, exchange)` for each; raise `Difference` at the first unexpected result."""
        names = {"domain": room.current().domain}
        for mail in self.mails:
            result = exchange(*self._read(mail, names))
            yield mail, result
            self._compare(mail, result, names)

    def _read(self, line: Line, names: Names) -> tuple[str, str, bytes]:
        """Return sender, recipient and octets of the mail that begins at a line."""
        sender, recipient = (_fill(part, names) for part in line.text.split()[::2])
        if unknown := NAME.search(sender + recipient):
            raise self._broken(line, f"has {unknown[0]}, which has no value: no reply before has shown it")
        recipient = room.current().address(recipient)
        above, below = self._headers_and_text(line.below)
        headers = [(name, _fill(value, names)) for _, name, value in above]
        text = textwrap.dedent("\n".join(part.text for part in below)).strip("\n") or "Hello."
        try:
            return sender, recipient, make_mail(sender, recipient, headers, _fill(text, names) + "\n")
        except ValueError as error:
            raise self._broken(line, f"cannot be sent: {error}") from error

    def _headers_and_text(self, below: list[Line]) -> tuple[list[tuple[Line, str, str]], list[Line]]:
        """Return the `(line, name, value)` of each header, and the lines of the text after them."""
        headers: list[tuple[Line, str, str]] = []
        for position, line in enumerate(below):
            if not line.text.strip():
                return headers, below[position + 1 :]
            header = HEADER.fullmatch(line.text.strip())
            if not header:
                raise self._broken(line, "is no header; text comes after an empty line")
            headers.append((line, header[1], header[2]))
        return headers, []

    def _compare(self, mail: Line, result: Exchange, names: Names) -> None:
        sent = list(result.sent)
        for line in mail.expected:
            if state := STATE.fullmatch(line.text):
                address, wanted = state.groups()
                actual = state_at(room.current().address(address), result.sender) if address else result.after
                if actual != wanted:
                    raise self._differs(line, result, [f"[{address}: {actual}]"] if address else None)
            elif sent and REPLY.fullmatch(line.text):
                self._compare_reply(line, *sent.pop(0), result, names)
            elif not (result.refusal or "").startswith(line.text):
                raise self._differs(line, result)
        if sent or (result.refusal and not any(REFUSAL.fullmatch(line.text) for line in mail.expected)):
            raise self._differs(mail, result)

    def _compare_reply(self, line: Line, to: str, reply: Message, result: Exchange, names: Names) -> None:
        wanted_to, _, first = line.text.partition("<-")
        if not _matches(wanted_to.strip(), to, names):
            raise self._differs(line, result)
        headers, text = self._headers_and_text([Line(line.number, first), *line.below] if first else line.below)
        for place, name, value in headers:
            actual = [header for other, header in reply.base.items() if other.lower() == name.lower()]
            if not any(_matches(value, header, names) for header in actual):
                if place.number == line.number:  # this is probably another reply: show all of it
                    raise self._differs(line, result)
                raise self._differs(place, result, [f"{name}: {header}" for header in actual])
        rest = iter(reply.text.splitlines())
        for wanted in text:
            if wanted.text and not any(_matches(wanted.text.strip(), actual.strip(), names) for actual in rest):
                raise self._differs(wanted, result, reply.text.splitlines())

    def _broken(self, line: Line, why: str) -> Difference:
        return Difference(f"{self.name}, line {line.number}: {line.text.strip()!r} {why}")

    def _differs(self, line: Line, result: Exchange, actual: list[str] | None = None) -> Difference:
        expected = line.text.strip() or "(nothing)"
        if MAIL.fullmatch(line.text):
            expected += "    (and nothing that is not written below it)"
        lines = "\n".join(actual or outcome(result) or ["nothing"])
        return Difference(
            f"{self.name}, line {line.number} does not hold:\n\n    {expected}\n\n"
            "This came instead:\n\n" + textwrap.indent(lines, "    ")
        )


class Recorder:
    """Write a conversation to `file`, mail by mail, as a transcript."""

    def __init__(self, file: TextIO) -> None:
        self.file = file
        self._names: dict[str, str] = {}  # {address: "{name}"}

    def record(self, result: Exchange, headers: Iterable[tuple[str, str]] = (), text: str = "") -> None:
        """Write the mail of an `Exchange`, whose `headers` and `text` these are, and its result."""
        recipient = result.recipient.removesuffix(f"@{room.current().domain}")
        lines = [f"{result.sender or '<>'} -> {self._names.get(result.recipient, recipient)}"]
        lines += [f"    {name}: {value}" for name, value in headers]
        lines += textwrap.indent("\n" + text, "    ").splitlines() if text else []
        for _, mail in result.sent:
            if mail["Reply-To"]:
                self._names.setdefault(mail["Reply-To"], f"{{reply_to_{len(self._names) + 1}}}")
        for line in outcome(result):
            header, _, value = line.rpartition(": ")
            lines.append(f"{header}: {self._names[value]}" if value in self._names else line)
        lines.sort(key=lambda line: not line.startswith("#"))  # a note comes before its mail
        self.file.write("\n".join(lines) + "\n\n")
        self.file.flush()


def outcome(result: Exchange, length: int = 0) -> list[str]:
    """Return the result of a mail as lines of a transcript; `length` lines of each text that was sent are among them."""
    lines = [result.refusal] if result.refusal else []
    for to, mail in result.sent:
        lines.append(one_line(f"{to} <- Subject: {mail['Subject'] or ''}"))
        if mail["Reply-To"]:
            lines.append(f"   Reply-To: {mail['Reply-To']}")
        text = [f"   {one_line(line)}" for line in mail.text.splitlines() if line.strip()]
        lines += ["", *text[:length]] if length else []
    if result.after:
        lines.append(f"[{result.after}]")
    if result.note:
        lines.append(f"# {one_line(result.note)}")
    return lines


def _fill(text: str, names: Names) -> str:
    """Return `text` with the values of the names that have one."""
    return NAME.sub(lambda name: names.get(name[1], name[0]), text)


def _matches(expected: str, actual: str, names: Names) -> bool:
    """Return whether a text is as expected, and give the names in it that have no value yet what they stand for."""
    text = _fill(expected, names)
    pattern = re.escape(text)
    for name in NAME.findall(text):
        written = re.escape(f"{{{name}}}")
        pattern = pattern.replace(written, f"(?P<{name}>.+?)", 1).replace(written, f"(?P={name})")
    found = re.fullmatch(pattern, actual)
    names.update(found.groupdict() if found else {})
    return bool(found)
