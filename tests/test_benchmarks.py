"""The benchmarks run, check the answers that they get, and print and draw what came out. How fast is not tested."""

import os
import subprocess
import sys
from xml.etree import ElementTree

import pytest

from tests import warm
from tests.baking import TEMPLATE, without_pytest

PARTS = {
    "storages": ["1,000 senders", "ours: sqlite", "bare sqlite3"],
    "mail": [
        "LMTP, 8 connections",
        "SMTP, 1 connection",
        "ours with sqlite, a reply a mail",
        "Salmon: parse and route",
    ],
    "postfix": ["Through Postfix"],
    "transfer": ["operate.py states", "export"],
    "workers": ["Workers on sqlite", "times one"],
    "generation": ["One generation", "ours with sqlite", "salmon gen"],
}


@pytest.mark.parametrize("part", PARTS)
def test_benchmark_runs_and_prints(part, tmp_path):
    charts = tmp_path / "charts"
    command = [sys.executable, "-m", "benchmarks", part, "--quick", "--folder", str(tmp_path), "--charts", str(charts)]
    done = warm.run(command, TEMPLATE, without_pytest(os.environ), timeout=280)

    assert done.returncode == 0, done.stderr
    for text in PARTS[part]:
        assert text in done.stdout
    for chart in charts.iterdir():
        assert ElementTree.parse(chart).getroot().tag.endswith("svg")


def test_unknown_benchmark_is_refused_in_one_line():
    done = subprocess.run([sys.executable, "-m", "benchmarks", "speed"], cwd=TEMPLATE, capture_output=True, text=True)

    assert done.returncode == 2
    assert "speed" in done.stderr and "Traceback" not in done.stderr
