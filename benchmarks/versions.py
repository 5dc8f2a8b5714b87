"""Compare this version with an earlier one, with states in SQLite: `python -m benchmarks.versions --help`."""

import io
import subprocess
import tarfile
import tempfile
from contextlib import ExitStack
from pathlib import Path

import click

from benchmarks import sink
from benchmarks.applications import Ours
from benchmarks.client import Client
from benchmarks.mail import OURS, SENDERS, Contestant, from_strangers, from_subscribers, shown
from benchmarks.measure import in_turn, machine
from tests.baking import TEMPLATE

WAYS = {
    "1 connection": {"connections": 1},
    "1 connection, pipelined": {"connections": 1, "pipelined": True},
    "8 connections": {"connections": 8},
}
QUIET = "quiet@example.com"
HANDLER = """
from salmon.routing import route


@route("quiet@(host)")
def START(message, host=None):
    return SEEN


@route("quiet@(host)")
def SEEN(message, host=None):
    return SEEN
"""


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option("--commit", default="95efb60", show_default=True, help="Another version; this is the last of 0.1.")
@click.option("--rounds", default=9, show_default=True)
@click.option("--count", default=500, show_default=True, help="Mails a round.")
@click.option("--folder", type=click.Path(exists=True, file_okay=False), help="Where the files go while it measures.")
def main(commit, rounds, count, folder):
    """Send the same mails to an application of this version and to one of an earlier commit, in turn."""
    click.echo(machine() + "\n")
    with tempfile.TemporaryDirectory(dir=folder, prefix="benchmarks-") as scratch, ExitStack() as stack:
        replies_at = stack.enter_context(sink.running("smtp"))
        answering, quiet = {}, {}
        for name, template in {commit: checked_out(commit, Path(scratch, "template")), "here": TEMPLATE}.items():
            application = Ours(scratch, "sqlite", replies_at.port, name=name, template=template)
            add_quiet_handler(application.folder)
            application.prepare(SENDERS)
            running = stack.enter_context(application.run())
            answering[name] = Contestant(application, running, True, OURS)
            quiet[name] = Contestant(application, running, False, {QUIET: "SEEN"})
        kinds = {
            "A new state and no reply": (quiet, from_strangers(count, QUIET)),
            "A new state and a reply": (answering, from_strangers(count)),
            "A reply": (answering, from_subscribers(count)),
        }
        for title, (contestants, mails) in kinds.items():
            for how, options in WAYS.items():
                with ExitStack() as clients:
                    sends = {}
                    for name, contestant in contestants.items():
                        client = clients.enter_context(Client("lmtp", contestant.running.ports, **options))
                        sends[name] = contestant.sends(client, mails, replies_at)
                    click.echo(shown(f"{title}, {how}", in_turn(sends, rounds), commit))
        stack.close()
        for contestant in (*answering.values(), *quiet.values()):
            contestant.check()


def checked_out(commit, folder):
    """Return `folder`, with the files of a commit of this repository."""
    done = subprocess.run(["git", "archive", commit], cwd=TEMPLATE, stdout=subprocess.PIPE, check=True)
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as files:
        files.extractall(folder)
    return folder


def add_quiet_handler(folder):
    """Let mail to `QUIET` change the state of its sender, and do nothing else."""
    Path(folder, "app/handlers/quiet.py").write_text(HANDLER)
    settings = Path(folder, "config/settings.py")
    others, module = '"app.handlers.postmaster"', '"app.handlers.quiet"'
    text = settings.read_text()
    assert others in text
    settings.write_text(text.replace(others, f"{others}, {module}"))


if __name__ == "__main__":
    main()
