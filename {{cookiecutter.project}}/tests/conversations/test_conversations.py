"""Each transcript beside this file goes as it is written; `operations/transcript.py` says how to write one."""

from pathlib import Path

import pytest

from operations.transcript import Difference, Transcript

TRANSCRIPTS = sorted(Path(__file__).parent.glob("*.txt"))


@pytest.mark.parametrize("path", TRANSCRIPTS, ids=lambda path: path.name)
def test_it_goes_as_written(path):
    difference = None
    try:
        for _ in Transcript(path.name, path.read_text("utf-8")).play():
            pass
    except Difference as found:
        difference = str(found)
    if difference:
        pytest.fail(difference, pytrace=False)
