"""The daemon: `salmon start`, `salmon status`, `salmon stop`, and what it leaves for others to read."""

import os
import signal
import stat
from pathlib import Path

import pytest

from tests.application import Application
from tests.waiting import wait_until

pytestmark = pytest.mark.cold_start
ALICE = "alice@people.example"


@pytest.fixture
def daemon(application):
    """A function: bake an application and start it as a daemon; it is killed at the end of the test."""
    pids = []

    def start(**choices):
        app = application(PYTHONDONTWRITEBYTECODE="", **choices)
        assert app.run("salmon", "start", umask=0).returncode == 0
        pids.append(wait_until(lambda: pid_of(app), 60, lambda: errors_of(app)))
        app.port = app.wait_until_ready(lambda: errors_of(app))
        return app

    yield start
    for pid in pids:
        if not has_ended(pid):
            os.kill(pid, signal.SIGKILL)


def errors_of(app):
    log = app.folder / "logs" / "salmon.err"
    return log.read_text() if log.exists() else ""


def pid_of(app):
    file = app.folder / "run" / "smtp.pid"
    text = file.read_text().strip() if file.exists() else ""
    return int(text) if text else None


def has_ended(pid):
    """Tell whether the process has ended, also when nobody has asked for its exit status yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def open_to_others(folder):
    """Return the files and folders below `folder` that other users can reach, with their modes."""
    found = {}
    for path in folder.iterdir():
        mode = stat.S_IMODE(path.stat().st_mode)
        if mode & 0o077:
            found[path] = oct(mode)
            if path.is_dir():
                found |= open_to_others(path)
    return found


@pytest.mark.parametrize("state_storage", ["sqlite", "shelve"])
def test_daemon_starts_handles_mail_and_stops(daemon, sink, state_storage):
    app = daemon(state_storage=state_storage)
    pid = pid_of(app)
    assert f"{pid}" in app.run("salmon", "status").stdout

    assert app.send(ALICE, "news-subscribe")[0] == 250
    assert [reply["Subject"] for reply in sink.take()] == ["Please confirm your subscription to news"]

    assert app.run("salmon", "stop").returncode == 0
    wait_until(lambda: has_ended(pid))
    assert pid_of(app) is None
    assert "is going down" in errors_of(app)

    again = Application(app.folder, **app.settings)
    again.start()
    assert again.send(ALICE, "news")[0] == 250
    assert [reply["Subject"] for reply in sink.take()] == ["Your subscription to news is not confirmed yet"]
    assert again.terminate() == 0


@pytest.mark.parametrize("state_storage", ["sqlite", "shelve"])
@pytest.mark.parametrize("as_daemon", [True, False], ids=["daemon", "no-daemon"])
def test_created_files_are_private_with_a_umask_of_zero(daemon, application, sink, state_storage, as_daemon):
    """With the umask that Salmon's daemon has: 0."""
    if as_daemon:
        app = daemon(state_storage=state_storage)
    else:
        app = application(state_storage=state_storage, PYTHONDONTWRITEBYTECODE="").start(umask=0)
    app.send(ALICE, "news-subscribe")
    sink.take()

    made = {path.name for path in app.folder.rglob("*")}
    assert {"secret_key", "__pycache__"} < made and any(name.startswith("states") for name in made)
    fresh = Application(app.folder.rename(app.folder.with_name("used")))
    baked = application(state_storage=state_storage).folder
    there_before = {path.relative_to(baked) for path in baked.rglob("*")} - {Path("run"), Path("logs")}
    found = {path.relative_to(fresh.folder): mode for path, mode in open_to_others(fresh.folder).items()}
    assert {path: mode for path, mode in found.items() if path not in there_before} == {}


def test_failed_start_of_the_daemon_is_in_its_log(application):
    app = application(LISTS="not a list")
    app.run("salmon", "start")
    wait_until(lambda: "ERROR: LISTS 'not a list' must be names" in errors_of(app), 60, lambda: errors_of(app))


def test_second_daemon_is_refused(daemon):
    app = daemon()
    second = app.run("salmon", "start")
    assert second.returncode != 0
    assert "smtp.pid" in second.stdout + second.stderr
