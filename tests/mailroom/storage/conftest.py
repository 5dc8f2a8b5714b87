"""What the tests of `SQLiteStorage` share."""

import pytest

from mailroom.storage.sqlite import SQLiteStorage


@pytest.fixture
def open_storage(path):
    """A function: one more `SQLiteStorage` on the same file, closed at the end of the test."""
    opened = []

    def open_storage(**options):
        opened.append(SQLiteStorage(path, **options))
        opened[-1].open()
        return opened[-1]

    yield open_storage
    for storage in opened:
        storage.close()


@pytest.fixture
def storage(open_storage):
    """A `SQLiteStorage` on a fresh file."""
    return open_storage()


@pytest.fixture
def run_all(start):
    """A function: run programs side by side to their ends, `(name, arguments...)` each; return what each printed.

    Those that call `_wait_for_the_others` go on `at_once`.
    """

    def run_all(*programs, seconds=120, at_once=False):
        processes = [start(*program) for program in programs]
        if at_once:
            assert [process.stdout.readline() for process in processes] == ["ready\n"] * len(processes)
            for process in processes:
                process.stdin.write("\n")
                process.stdin.flush()
        outcomes = [process.communicate(timeout=seconds) for process in processes]
        for process, (_, errors) in zip(processes, outcomes, strict=True):
            assert process.returncode == 0, errors
        return [output for output, _ in outcomes]

    return run_all
