"""Tests of the storages: contract, crowds, crashes, forks and failures."""

import os
from pathlib import Path

# For programs that import `mailroom` in a process of their own.
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3] / "{{cookiecutter.project}}")}
PROGRAMS = Path(__file__).parent / "programs.py"
