"""`operate.py talk`: a conversation with the application, without a mail server."""

import sys

import click

from operations.exchange import exchange, make_mail, place, with_domain
from operations.transcript import Difference, Transcript, text_of

DEMO = "tests/conversations/subscribe.txt"
INDENT = " " * 11
LINES = 4


@click.command()
@click.option("--demo", is_flag=True, help=f"Play {DEMO}.")
@click.option("--script", type=click.File(encoding="utf-8"), help="Play a transcript, and check it.")
def talk(demo, script):
    """Write to the application as anybody, and see what becomes of each mail.

    Everything happens in memory: nothing is kept, nothing is sent, nothing runs.

    \b
    python operate.py talk                       # write mails yourself
    python operate.py talk --demo                # a first conversation
    python operate.py talk --script holiday.txt  # a conversation that you have written down

    Files in tests/conversations show how one is written. The exit status is 1 when it does not go as written.
    """
    sys.stdout.reconfigure(errors="replace")
    import config.testing  # noqa: F401  states in memory, replies kept

    if demo:
        script = open(DEMO, encoding="utf-8")
    if script or not sys.stdin.isatty():
        play(script or sys.stdin)
    else:
        converse()


def play(script):
    """Show the conversation in an open file; end the process with 1 when it does not go as written."""
    try:
        transcript = Transcript(script.name, script.read())
        for mail, came in transcript.play():
            for note in mail.notes:
                click.secho(f"\n{note}", bold=True)
            show(came)
    except (Difference, UnicodeDecodeError) as error:
        click.secho(f"\n{error}", fg="red", err=True)
        sys.exit(1)
    click.secho(f"\nThe conversation went as {script.name} says.", fg="green")


def converse():
    """Ask for mails and show what becomes of them, until the input ends."""
    click.echo("Write to the application; nothing is kept or sent. Ctrl-D ends.")
    sender, recipient = "alice@people.example", "news-subscribe"
    while True:
        try:
            click.echo()
            sender = click.prompt("From", sender)
            recipient = click.prompt("To", recipient)
            subject = click.prompt("Subject", "hello")
            text = click.prompt("Text", "Hello.")
        except click.Abort:
            click.echo()
            return
        address = with_domain(recipient)
        came = exchange(sender, address, make_mail(sender, address, [("Subject", subject)], text + "\n"))
        show(came)
        replies = [mail for recipients, mail in came.sent if sender in recipients]
        recipient = next((str(mail["Reply-To"] or mail["From"]) for mail in reversed(replies)), recipient)


def show(came):
    """Print a mail and what became of it."""
    click.echo()
    click.secho(f"{came.sender or '<>'} -> {came.recipient}", bold=True)
    for handler in came.handlers:
        _row("handler", f"{click.style(handler.__name__, fg='cyan')}  {place(handler)}")
    if came.after:
        moved = came.before != came.after
        after = click.style(came.after, fg="green") if moved else came.after
        _row("state", f"{came.before} -> {after}" if moved else f"{after}, as before")
    if came.refusal:
        _row("refused", click.style(came.refusal, fg="red"))
    if came.note:
        _row("", came.note) if came.refusal else _row("ignored", came.note)
    for recipients, mail in came.sent:
        to = [] if came.sender in recipients else [f"to {', '.join(recipients)}: "]
        _row("sends" if to else "replies", "".join(to) + click.style(_plain(mail["Subject"]), fg="yellow"))
        if mail["Reply-To"]:
            click.echo(f"{INDENT}Reply-To: {_plain(mail['Reply-To'])}")
        text = [line for line in text_of(mail).splitlines() if line.strip()]
        for line in text[:LINES]:
            click.secho(f"{INDENT}| {_plain(line)}", dim=True)
        if len(text) > LINES:
            click.secho(f"{INDENT}| ...", dim=True)


def _row(label, text):
    click.echo(f"  {label:<9}{text}")


def _plain(text):
    """Return one line for a terminal: what a mail says must not move the cursor."""
    return "".join(character if character.isprintable() else " " for character in str(text).expandtabs())
