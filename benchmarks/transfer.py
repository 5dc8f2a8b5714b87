"""What it takes to move states: `operate.py states import`, `export` and `count` of the application with SQLite."""

import filecmp
import json
import statistics
import sys
import time

from benchmarks.measure import table
from tests import baking
from tests.application import Application
from tests.memory import greatest_memory


def run(folder, quick, say):
    """Measure below `folder`; `say` gets each table as text. Returns the figures of the charts."""
    count, rounds = (1000, 1) if quick else (10**6, 3)
    rows = folder / "rows.jsonl"
    with open(rows, "w") as file:
        for number in range(count):
            row = {
                "key": "app.handlers.subscription:news",
                "sender": f"b{number:07}@people.example",
                "state": "SUBSCRIBED",
            }
            file.write(json.dumps(row) + "\n")
    steps = {
        "import, all new": ["import", str(rows)],
        "import --replace, all there": ["import", "--replace", str(rows)],
        "export": ["export"],
        "count": ["count"],
    }
    figures = {name: [] for name in steps}
    for number in range(rounds):
        application = Application(baking.bake(folder, project=f"transfer{number}", state_storage="sqlite"))
        for name, step in steps.items():
            figures[name].append(_measured(application, step, folder / "out"))
            if name == "export" and not filecmp.cmp(folder / "out", rows, shallow=False):
                raise RuntimeError("the rows that come out are not those that went in")
    lines = [
        [
            name,
            f"{statistics.median(seconds for seconds, _ in taken):.1f}",
            f"{max(memory for _, memory in taken):.0f}",
        ]
        for name, taken in figures.items()
    ]
    say(table(f"operate.py states, {count:,} rows on SQLite", ["", "s", "MiB at most"], lines))
    return {}


def _measured(application, step, out):
    """Return the seconds and the most MiB of memory of `operate.py states` with these arguments."""
    with open(out, "wb") as stdout:
        started = time.perf_counter()
        command = [sys.executable, "operate.py", "states", *step]
        memory = greatest_memory(command, cwd=application.folder, env=application.environment, stdout=stdout)
        return time.perf_counter() - started, memory / 1024
