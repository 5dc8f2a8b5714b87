#!/usr/bin/env python3
"""See, try and mend the application: run `python operate.py --help`. Add commands here with `@operate.command()`."""

from mailroom.commands import operate

if __name__ == "__main__":
    operate()
