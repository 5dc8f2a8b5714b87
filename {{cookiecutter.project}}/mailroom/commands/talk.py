"""`operate.py talk`: a conversation with the application, without a mail server."""

import email
import os
import smtplib
import sys
from email.policy import default
from email.utils import getaddresses
from pathlib import Path

import click
from salmon.routing import Router, StateStorage

from app.mail.relay import Outbox
from app.model.mail_states import MailStates
from config import settings
from operations.exchange import envelope_sender, exchange, make_mail, state_at, with_domain
from operations.machine import place
from operations.transcript import Difference, Recorder, Transcript, text_of

HOME = Path(__file__).parent.parent
DEMO = "tests/conversations/subscribe.txt"
INDENT = " " * 11
LINES = 4


class HostAndPort(click.ParamType):
    """`HOST:PORT`, as a pair."""

    name = "HOST:PORT"

    def convert(self, value, parameter, context):
        host, _, port = value.rpartition(":")
        if not host or not port.isdecimal() or int(port) > 65535:
            self.fail(f"{value!r} must be a host and a port; for example 127.0.0.1:8823", parameter, context)
        return host.strip("[]"), int(port)


@click.command()
@click.option("--demo", is_flag=True, help=f"Play {DEMO}.")
@click.option("--script", type=click.File(encoding="utf-8"), help="Play a transcript; - is the standard input.")
@click.option("--eml", type=click.File("rb"), help="Send the mail in a file.")
@click.option("--from", "sender", metavar="ADDRESS", help="Who writes; <> is the null sender.")
@click.option("--to", "recipient", metavar="ADDRESS", help="To whom; without a domain, to us.")
@click.option(
    "--record",
    type=click.File("a", encoding="utf-8", lazy=True),
    help="Write a transcript at the end of a file.",
)
@click.option(
    "--states",
    type=click.Choice(["none", "copy", "real"]),
    default="none",
    help="none: everybody is at the START; copy: where they really are, but nothing is kept; real: it is kept.",
)
@click.option("--against", type=HostAndPort(), help="Talk to the server that runs there, over the wire.")
@click.option("--sink", is_flag=True, help="Listen where that server sends its replies, RELAY_HOST and RELAY_PORT.")
def talk(demo, script, eml, sender, recipient, record, states, against, sink):
    """Write to the application as anybody, and see what becomes of each mail.

    Everything happens in memory: nothing is kept, nothing is sent, nothing has to run.

    \b
    python operate.py talk                        # write mails yourself
    python operate.py talk --record holiday.txt   # and write down what happens
    python operate.py talk --script holiday.txt   # does it still happen like that?
    python operate.py talk --demo                 # a first conversation
    python operate.py talk --eml mail.eml --to news --states copy
    python operate.py talk --script holiday.txt --against 127.0.0.1:8823 --sink

    How to write a transcript stands in operations/transcript.py. The exit status is 1 when the
    conversation does not go as written.

    A server that is talked to over the wire keeps states and sends replies. They are compared
    where they can be seen: the states never, the replies with --sink.
    """
    played = [name for name, given in {"--demo": demo, "--script": script, "--eml": eml}.items() if given]
    if len(played) > 1:
        raise click.UsageError(f"{played[0]} and {played[1]} do not go together; give one of them")
    if record and played:
        raise click.UsageError("--record writes down what is typed; leave out --demo, --script and --eml")
    if sink and not against:
        raise click.UsageError("--sink needs the server that sends; for example --against 127.0.0.1:8823 --sink")
    if states != "none" and against:
        raise click.UsageError(f"--states {states} is for a conversation without --against")
    sys.stdout.reconfigure(errors="replace")
    os.chdir(HOME)
    deliver, look = (over_the_wire(against, sink), None) if against else in_memory(states)
    try:
        if eml:
            send(eml, sender, recipient, deliver)
        elif demo or script or not sys.stdin.isatty():
            play(open(DEMO, encoding="utf-8") if demo else script or sys.stdin, deliver, look)
        else:
            converse(sender, recipient, deliver, record)
    except (OSError, smtplib.SMTPException) as error:
        if not against:
            raise click.ClickException(str(error)) from error
        raise click.ClickException(f"--against {against[0]}:{against[1]} does not talk with us: {error}") from error


def in_memory(states):
    """Return what delivers a mail and what looks at a state, within this process."""
    if states == "none":
        import config.testing  # noqa: F401
    else:
        from operations.attach import attached

        storage = attached().storage
        Router.STATE_STORE = MailStates(storage if states == "real" else Copy(storage))
        settings.relay = Outbox()
    return exchange, state_at


def over_the_wire(against, sink):
    """Return what delivers a mail to the server at `against`, which sends its replies to us with `sink`."""
    from operations.against import Server, Sink

    try:
        return Server(
            settings.receiver_protocol, against, sink and Sink(settings.relay_host, settings.relay_port)
        ).exchange
    except OSError as error:
        raise click.ClickException(
            f"--sink cannot listen at {settings.relay_host}:{settings.relay_port}: {error}"
        ) from error


class Copy(StateStorage):
    """The states in `storage`, which never learns what is changed here."""

    def __init__(self, storage):
        self.storage = storage
        self.changed = {}

    def get(self, key, sender):
        return self.changed.get((key, sender)) or self.storage.get(key, sender)

    def set(self, key, sender, state):
        self.changed[key, sender] = state


def send(file, sender, recipient, deliver):
    """Send the mail in an open file, from and to whom its headers say when that is not given; 1 when it is refused."""
    data = file.read()
    mail = email.message_from_bytes(data, policy=default)
    if sender is None:
        sender = _first_address(mail, "Return-Path", "From")
    recipient = recipient or _first_address(mail, "Delivered-To", "To")
    if not recipient:
        raise click.UsageError(f"--eml {file.name} has no To; give --to, for example --to news")
    came = deliver(envelope_sender(sender), with_domain(recipient), data)
    show(came)
    if came.refusal:
        sys.exit(1)


def play(script, deliver, look):
    """Play the transcript in an open file; end the process with 1 where it does not go as written."""
    try:
        transcript = Transcript(script.name, script.read())
        for mail, came in transcript.play(deliver, look):
            for note in mail.notes:
                click.secho(f"\n{note}", bold=True)
            show(came)
    except (Difference, UnicodeDecodeError) as error:
        sys.stdout.flush()
        click.secho(f"\n{error}", fg="red", err=True)
        sys.exit(1)
    click.secho(f"\nThe conversation went as {script.name} says.", fg="green")


def converse(sender, recipient, deliver, record):
    """Ask for mails and show what becomes of them, until the input ends."""
    recorder = record and Recorder(record)
    sender = sender or "alice@people.example"
    recipient = recipient or f"{settings.lists[0]}-subscribe"
    click.echo("Who writes what to whom? Ctrl-D ends.")
    while True:
        try:
            click.echo()
            sender = click.prompt("From", sender)
            recipient = click.prompt("To", recipient)
            subject = click.prompt("Subject", "hello")
            text = ask_for_text()
        except click.Abort:
            click.echo()
            return
        address = with_domain(recipient)
        headers = [("Subject", subject)] if subject != "hello" else []
        try:
            data = make_mail(envelope_sender(sender), address, headers, text)
        except ValueError as error:
            click.echo(f"Error: {error}; for example alice@people.example", err=True)
            continue
        came = deliver(envelope_sender(sender), address, data)
        show(came)
        if recorder:
            recorder.record(came, headers, "" if text == "Hello.\n" else text)
        replies = [mail for to, mail in came.sent or () if not to]
        recipient = next((str(mail["Reply-To"] or mail["From"]) for mail in reversed(replies)), recipient)


def ask_for_text():
    """Return lines up to one with a single dot; the first may be left empty for a text of its own."""
    lines = [click.prompt("Text, up to a line with a dot", "Hello.")]
    while lines != ["Hello."] and lines[-1] != ".":
        lines.append(click.prompt("", "", prompt_suffix="", show_default=False))
    return "\n".join(lines).removesuffix("\n.") + "\n"


def show(came):
    """Print a mail and what became of it."""
    click.echo()
    click.secho(f"{came.sender or '<>'} -> {came.recipient}", bold=True)
    for handler in came.handlers:
        _row("handler", f"{click.style(handler.__name__, fg='cyan')}  {place(handler)}")
    if came.after:
        moved = came.before != came.after
        _row(
            "state", f"{came.before} -> {click.style(came.after, fg='green')}" if moved else f"{came.after}, as before"
        )
    if came.refusal:
        _row("refused", click.style(came.refusal, fg="red"))
    if came.note:
        _row("" if came.refusal else "ignored", came.note)
    for to, mail in came.sent or ():
        _row(
            "to" if to else "reply",
            (f"{_plain(to)}  " if to else "") + click.style(_plain(mail["Subject"]), fg="yellow"),
        )
        if mail["Reply-To"]:
            click.echo(f"{INDENT}Reply-To: {_plain(mail['Reply-To'])}")
        text = [line for line in text_of(mail).splitlines() if line.strip()]
        for line in text[:LINES] + (["..."] if len(text) > LINES else []):
            click.secho(f"{INDENT}| {_plain(line)}", dim=True)


def _row(label, text):
    click.echo(f"  {label:<9}{text}")


def _plain(text):
    """Return one line for a terminal: what a mail says must not move the cursor."""
    return "".join(character if character.isprintable() else " " for character in str(text or "").expandtabs())


def _first_address(mail, *names):
    """Return the first address in the first of these headers that the mail has, empty without any."""
    for name in names:
        for _, address in getaddresses([str(value) for value in mail.get_all(name, [])]):
            return address
    return ""
