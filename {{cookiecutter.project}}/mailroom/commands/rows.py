"""Rows as text: a JSON object a line, in ASCII, so that every string gets through every pipe."""

import json

FIELDS = {"key": (str, type(None)), "sender": (str, type(None)), "state": str}
LONGEST = 1 << 20  # octets of a line; what is longer is no row of ours


def to_line(row):
    """Return the line for a `(key, sender, state)` row, without its end."""
    return json.dumps(dict(zip(FIELDS, row, strict=True)))


def from_lines(file):
    """Yield the `(key, sender, state)` rows in the lines of a binary file, one at a time.

    Raises `ValueError` with the number of a line that is no row.
    """
    lines = iter(lambda: file.readline(LONGEST), b"")
    for number, line in enumerate(lines, start=1):
        try:
            yield _row(json.loads(line))
        except (ValueError, RecursionError) as error:
            example = to_line(("app.handlers.subscription:news", "alice@people.example", "SUBSCRIBED"))
            raise ValueError(f"line {number} must be a row; for example {example}") from error


def _row(fields):
    if not isinstance(fields, dict) or fields.keys() != FIELDS.keys():
        raise ValueError
    # Salmon may know no sender, and a key may be anything; a state is always the name of a function.
    for name, kinds in FIELDS.items():
        if not isinstance(fields[name], kinds):
            raise ValueError
    return fields["key"], fields["sender"], fields["state"]


def shown(text):
    """Return `text` fit for a terminal: a sender is whatever a stranger has sent."""
    return text if text and text.isprintable() else ascii(text)
