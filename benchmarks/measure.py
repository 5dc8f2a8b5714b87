"""How things are measured: in turn, several times, the median; and where that was."""

import os
import platform
import sqlite3
import statistics
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = ["salmon-mail", "cookiecutter", "diskcache", "sqlitedict", "psycopg", "SQLAlchemy", "Django"]


def in_turn(contestants, rounds):
    """Call every contestant once in each round, after a round that does not count.

    `contestants` is a dictionary of names and functions that return a figure. Returns a dictionary
    of names and lists of figures; those at the same place were taken one right after the other.
    """
    for contestant in contestants.values():
        contestant()
    figures = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, contestant in contestants.items():
            figures[name].append(contestant())
    return figures


def ratio(figures, others):
    """Return the median of the ratios, round by round: what slowed the machine down slowed both."""
    return statistics.median(figure / other for figure, other in zip(figures, others, strict=True))


def machine():
    """Return a line or two about what this is: machine, load, versions."""
    processor = next(
        (line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")),
        platform.processor() or platform.machine(),
    )
    packages = ", ".join(f"{name} {found}" for name in PACKAGES if (found := _version(name)))
    return (
        f"{os.cpu_count()} x {processor}, {platform.system()} {platform.release()}, load {os.getloadavg()[0]:.1f}\n"
        f"Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}, {packages}"
    )


def table(title, columns, rows):
    """Return rows of text as a table: the first column to the left, the others to the right."""
    lines = [columns, *rows]
    widths = [max(len(line[place]) for line in lines) for place in range(len(columns))]
    shown = [
        "  ".join(cell.ljust(width) if not place else cell.rjust(width) for place, (cell, width) in columns_of)
        for columns_of in (list(enumerate(zip(line, widths, strict=True))) for line in lines)
    ]
    return "\n".join([title, *(f"  {line.rstrip()}" for line in shown), ""])


def _version(name):
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _lines(path):
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []
