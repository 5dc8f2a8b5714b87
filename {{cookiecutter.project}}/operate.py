#!/usr/bin/env python3
"""Inspect, try and repair the application: run `python operate.py --help`. Add commands here with `@operate.command()`."""

from mailroom.commands import operate

if __name__ == "__main__":
    operate()
