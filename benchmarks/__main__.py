"""One command that measures on this machine and prints what came out: `python -m benchmarks --help`."""

import importlib
import tempfile
from pathlib import Path

import click

from benchmarks.chart import bars
from benchmarks.measure import machine
from tests import warm
from tests.application import Application

# Generation comes first: for minutes after files were deleted, as each part does at its end, ext4 is slow to make some.
PARTS = ["generation", "storages", "mail", "postfix", "workers", "transfer"]


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.argument("parts", nargs=-1, type=click.Choice(PARTS), metavar="[PART]...")
@click.option("--quick", is_flag=True, help="A minute: too short to trust its figures.")
@click.option("--charts", type=click.Path(file_okay=False, path_type=Path), help="Draw SVG files into this folder.")
@click.option("--folder", type=click.Path(exists=True, file_okay=False), help="Where the files go while it measures.")
def main(parts, quick, charts, folder):
    """Measure how fast the generated applications are, beside what their user would have instead.

    PART is generation, storages, mail, postfix, workers or transfer (of states); without one, all
    are measured. Every figure is the median of several runs, the contestants take turns, and their
    answers are checked. The disk of --folder counts, for the states are written there.
    """
    Application.is_warm = quick
    click.echo(machine() + "\n")
    for part in parts or PARTS:
        click.echo(f"## {part}\n")
        with tempfile.TemporaryDirectory(dir=folder, prefix="benchmarks-") as scratch:
            figures = importlib.import_module(f"benchmarks.{part}").run(Path(scratch), quick, click.echo)
            warm.end()
        if charts:
            charts.mkdir(parents=True, exist_ok=True)
            for title, chart in figures.items():
                name = "-".join(part for part in "".join(c if c.isalnum() else " " for c in title.lower()).split())
                (charts / f"{name}.svg").write_text(bars(title, **chart))


if __name__ == "__main__":
    main(prog_name="python -m benchmarks")
