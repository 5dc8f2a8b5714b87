"""`operate.py talk`: deliver mail to the application as any sender, without a server, and show the result."""

import email
import inspect
import os
import re
import sys
from email.message import Message
from email.utils import getaddresses
from types import SimpleNamespace
from typing import IO, Any, BinaryIO, TextIO

import click
from salmon.routing import Router

from mailroom.commands.booted import boot, examples
from mailroom.receiver import MAILBOX
from mailroom.room import current
from mailroom.storage.joined import JoinedStorage
from mailroom.storage.sqlite import SQLiteStorage
from mailroom.testing import Exchange, Outbox, exchange, make_mail
from mailroom.testing.transcript import Recorder, Transcript, outcome

DEMO = "tests/conversations/subscribe.txt"
TRANSCRIPT = click.File(encoding="utf-8", errors="replace")
LINES = 4  # of the text of a reply
COLORS = {"<": "yellow", "[": "green", "#": "cyan", "4": "red", "5": "red"}  # by the first character of a line


@click.command()
@click.option("--demo", is_flag=True, help=f"Play {DEMO}.")
@click.option("--script", type=TRANSCRIPT, help="Play a transcript; - is the standard input.")
@click.option("--eml", type=click.File("rb"), help="Deliver the mail in a file.")
@click.option("--from", "sender", metavar="ADDRESS", help="The sender; <> is the null sender.")
@click.option("--to", "recipient", metavar="ADDRESS", help="The recipient; the domain may be omitted.")
@click.option("--record", metavar="FILE", type=click.Path(resolve_path=True), help="Append the conversation to FILE.")
@click.option(
    "--states",
    type=click.Choice(["none", "copy", "real"]),
    default="none",
    help="none: all senders are in START; copy: a copy of what is stored; real: what is stored.",
)
def talk(
    demo: bool,
    script: TextIO | None,
    eml: BinaryIO | None,
    sender: str | None,
    recipient: str | None,
    record: str | None,
    states: str,
) -> None:
    """Write mails to the application as any sender, and see the result of each.

    This needs no running server. It sends nothing, and keeps nothing without --states real.

    \b
    python operate.py talk                        # write mails yourself
    python operate.py talk --record holiday.txt   # and record the conversation as a transcript
    python operate.py talk --script holiday.txt   # play it again, and compare
    python operate.py talk --demo                 # play a first conversation
    python operate.py talk --eml mail.eml --to news --states copy

    README.md describes transcripts. The exit status is 1 when a mail is refused, or has another result than the
    transcript says.
    """
    played = [name for name, given in {"--demo": demo, "--script": script, "--eml": eml}.items() if given]
    if len(played) > 1:
        raise click.UsageError(f"{played[0]} and {played[1]} do not go together; give one of them")
    if not played and not sys.stdin.isatty():
        played, script = ["the standard input, a transcript,"], sys.stdin
    if record and played:
        raise click.UsageError(f"--record is for mails that you type; {played[0]} does not go with it")
    if (sender or recipient) and played and not eml:
        raise click.UsageError(f"--from and --to are for --eml and for mails that you type; {played[0]} has its own")
    stdout: Any = sys.stdout
    stdout.reconfigure(errors="replace")  # of a terminal that cannot show all that is in a mail
    if states == "none":
        boot("config.testing")
    else:
        settings = boot()
        settings.relay = settings.room.relay = Outbox()
        if states == "copy":
            stored, changed = settings.room.storage, dict[Any, str]()
            copy = SimpleNamespace(
                get=lambda *cell: changed.get(cell) or stored.get(*cell),
                set=lambda key, sender, state: changed.update({(key, sender): state}),
            )
            Router.STATE_STORE = JoinedStorage(copy, stored.in_memory())
            if isinstance(stored, SQLiteStorage):  # copy its own tables as well
                Router.STATE_STORE.database.fill(stored)
    if eml:
        send(eml, sender, recipient)
    elif script or demo:
        play(script or TRANSCRIPT.convert(DEMO, None, None))
    else:
        file: Any = record and click.File("a", encoding="utf-8").convert(record, None, None)
        converse(sender, recipient, Recorder(file) if file else None)


def send(file: BinaryIO, sender: str | None, recipient: str | None) -> None:
    """Deliver the mail in an open file; exit with 1 when it is refused. An address that is None is read from headers."""
    data = re.sub(rb"(?<!\r)\n", b"\r\n", file.read())  # as over the wire
    mail = email.message_from_bytes(data)
    recipient = recipient or _first_address(mail, "Delivered-To", "To")
    if not recipient:
        raise click.UsageError(f"--eml {file.name} names no recipient; give --to, for example --to news")
    sender = sender or _first_address(mail, "Return-Path", "From")
    if sender != "<>" and not MAILBOX.fullmatch(sender):
        rule = "is no sender's address; give --from, for example --from alice@people.example"
        raise click.UsageError(f"--eml {file.name}: {sender!r} {rule}")
    result = exchange(sender, current().address(recipient), data)
    show(result)
    if result.refusal:
        sys.exit(1)


def play(script: IO[str]) -> None:
    """Play the transcript in an open file; end the command at the first unexpected result."""
    for mail, result in Transcript(script.name, script.read()).play():
        for note in mail.notes:
            click.secho(f"\n{note}", bold=True)
        show(result)
    click.secho(f"\nThe conversation went as {script.name} says.", fg="green")


def converse(sender: str | None, recipient: str | None, recorder: Recorder | None) -> None:
    """Ask for mails and show the result of each, until the input ends."""
    sender = sender or "alice@people.example"
    recipient = recipient or next(iter(examples()), None)
    click.echo("Write mails to the application; Ctrl-D ends.")
    while True:
        try:
            click.echo()
            sender = click.prompt("From", sender)
            recipient = click.prompt("To", recipient)
            subject = click.prompt("Subject", "hello")
            lines = [click.prompt("Text, up to a line with a dot", "Hello.")]
            while lines != ["Hello."] and lines[-1] != ".":
                lines.append(click.prompt("", "", prompt_suffix="", show_default=False))
        except click.Abort:
            click.echo()
            return
        address = current().address(recipient)
        headers = [("Subject", subject)] if subject != "hello" else []
        text = "\n".join(lines).removesuffix("\n.") + "\n"
        try:
            data = make_mail(sender, address, headers, text)
        except ValueError as error:
            click.echo(f"Error: {error}; for example alice@people.example", err=True)
            continue
        result = exchange(sender, address, data)
        show(result)
        if recorder:
            recorder.record(result, headers, "" if text == "Hello.\n" else text)
        replies = [mail for to, mail in result.sent if not to]
        recipient = next((mail["Reply-To"] or mail["From"] for mail in reversed(replies)), recipient)


def show(result: Exchange) -> None:
    """Print a mail and its result as a transcript has them, with its handlers and the first lines of each text."""
    click.secho(f"\n{result.sender or '<>'} -> {result.recipient}", bold=True)
    for handler in result.handlers:
        code = inspect.unwrap(handler).__code__
        click.secho(f"# {handler.__name__}, {os.path.relpath(code.co_filename)}:{code.co_firstlineno}", fg="cyan")
    for line in outcome(result, LINES):
        click.secho(line, fg=COLORS.get(line[:1]))


def _first_address(mail: Message, *names: str) -> str:
    """Return the first address in these headers, `<>` for the null sender; empty when there is none."""
    values = [str(value).strip() for name in names for value in mail.get_all(name, [])]
    addresses = [value if value == "<>" else address for value in values for _, address in getaddresses([value])]
    return next(filter(None, addresses), "")
