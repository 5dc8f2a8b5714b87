"""A pytest plugin: clear states and mail before each test, and play the transcripts in `conversations/` as tests."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from salmon.routing import Router

from mailroom.room import current
from mailroom.testing.transcript import Difference, Transcript


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: object) -> None:
    """Clear states, own tables, outgoing mail and counted replies before every test, of unittest too."""
    Router.clear_states()
    relay: Any = current().relay  # an `Outbox`
    relay.sent.clear()
    current().reply_limit.clear()


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> "TranscriptFile | None":
    if file_path.suffix == ".txt" and file_path.parent.name == "conversations":
        return TranscriptFile.from_parent(parent, path=file_path)
    return None


class TranscriptFile(pytest.File):
    """A transcript of `mailroom.testing.transcript`."""

    def collect(self) -> Iterator[pytest.Item]:
        yield TranscriptItem.from_parent(self, name="goes_as_written")


class TranscriptItem(pytest.Item):
    """One test: each mail has the result that the transcript says."""

    def runtest(self) -> None:
        for _ in Transcript(self.path.name, self.path.read_text("utf-8")).play():
            pass

    def repr_failure(self, excinfo: Any, style: Any = None) -> Any:
        return str(excinfo.value) if excinfo.errisinstance(Difference) else super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Path, None, str]:
        return self.path, None, f"{self.path.name} goes as written"
