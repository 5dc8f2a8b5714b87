"""How long it takes to have an application: beside an empty template and `salmon gen`, and until its first reply."""

import json
import shutil
import smtplib
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from unittest import mock

from benchmarks import applications, sink
from benchmarks.applications import LIST
from benchmarks.measure import in_turn, ratio, table
from tests.application import SALMON, Application
from tests.baking import TEMPLATE

EMPTY = "cookiecutter, an empty template"


def run(folder, quick, say):
    """Measure below `folder`; `say` gets each table as text. Returns the figures of the charts."""
    rounds = 1 if quick else 21
    empty = folder / "empty"
    (empty / "{{cookiecutter.project}}").mkdir(parents=True)
    (empty / "{{cookiecutter.project}}" / "README").write_text("{{ cookiecutter.project }}\n")
    (empty / "cookiecutter.json").write_text(json.dumps({"project": "empty"}))
    contestants = {EMPTY: _baking(folder, empty, "README")}
    for choice in applications.choices()[: 1 if quick else None]:
        contestants[f"ours with {choice}"] = _baking(folder, TEMPLATE, "operate.py", f"state_storage={choice}")
    contestants["salmon gen"] = _generating(folder)
    figures = in_turn(contestants, rounds)
    base = figures[EMPTY]
    rows = []
    for name, seconds in figures.items():
        more = statistics.median(took - other for took, other in zip(seconds, base, strict=True))
        rows.append(
            [name, f"{statistics.median(seconds) * 1000:.0f}", f"{more * 1000:+.0f}", f"{ratio(seconds, base):.2f}"]
        )
    say(table("One generation", ["", "ms", "more than empty", "times empty"], rows))
    if quick or not shutil.which("uv"):
        say("From nothing to the first answered mail: not measured, being quick or without uv\n")
    else:
        say(_first_reply(folder / "first", 3))
    chart = {name: statistics.median(seconds) * 1000 for name, seconds in figures.items()}
    return {"One generation": {"figures": chart, "unit": "ms"}}


def _timed(folder, command, made):
    """Return the seconds of a command that makes the file `made`, each time in another folder below `folder`.

    All are kept: for minutes after files were removed, ext4 takes ten times as long to make new ones.
    """
    scratch = Path(tempfile.mkdtemp(dir=folder))
    started = time.perf_counter()
    subprocess.run(command, cwd=scratch, check=True, stdout=subprocess.DEVNULL)
    took = time.perf_counter() - started
    if not (scratch / made).is_file():
        raise RuntimeError(f"{command} made no {made}")
    return took


def _baking(folder, template, file, *answers):
    command = [sys.executable, "-m", "cookiecutter", "--no-input", str(template), "project=made", *answers]
    return lambda: _timed(folder, command, f"made/{file}")


def _generating(folder):
    return lambda: _timed(folder, [SALMON, "gen", "made"], "made/README")


def _first_reply(folder, rounds):
    """Return how long it takes from nothing to the first answered mail, and what of it is what."""
    steps = {"generate": [], "install, with uv's cache": [], "start": [], "the first reply": []}
    for number in range(rounds):
        scratch = folder / str(number)
        scratch.mkdir(parents=True)
        with ExitStack() as stack:
            replies_at = stack.enter_context(sink.running("smtp"))
            times = [time.perf_counter()]
            command = [sys.executable, "-m", "cookiecutter", "--no-input", str(TEMPLATE), "project=first"]
            subprocess.run(command, cwd=scratch, check=True)
            times.append(time.perf_counter())
            subprocess.run(["uv", "sync", "--quiet", "--no-dev"], cwd=scratch / "first", check=True)
            times.append(time.perf_counter())
            # In the environment that was made for it, not in that of the benchmarks.
            stack.enter_context(mock.patch("tests.application.SALMON", str(scratch / "first/.venv/bin/salmon")))
            application = stack.enter_context(Application(scratch / "first", RELAY_PORT=replies_at.port)).start()
            times.append(time.perf_counter())
            with smtplib.LMTP("127.0.0.1", application.port, timeout=60) as client:
                client.sendmail("alice@people.example", [LIST], "Subject: hello\r\n\r\nHello.\r\n")
            times.append(time.perf_counter())
            if replies_at.taken(1) != {"alice@people.example": 1}:
                raise RuntimeError("the first mail was not answered")
        for step, before, after in zip(steps.values(), times, times[1:], strict=False):
            step.append(after - before)
    rows = [[name, f"{statistics.median(seconds):.2f}"] for name, seconds in steps.items()]
    rows.append(["in all", f"{statistics.median(map(sum, zip(*steps.values(), strict=True))):.2f}"])
    return table("From nothing to the first answered mail", ["", "s"], rows)
