"""`operate.py check` in a generated application finds what is wrong, and says what to do."""

import json
import os
import re

import pytest

from tests.baking import STORAGES
from tests.ports import free_port


def check(application, *options, **more):
    checked = application.run("python", "operate.py", "check", "--json", *options, **more)
    found = json.loads(checked.stdout)
    assert found["ok"] == all(one["ok"] for one in found["checks"])
    assert checked.returncode == (0 if found["ok"] else 1)
    return {one["name"]: one["text"] for one in found["checks"] if not one["ok"]}


def append(path, text):
    path.write_text(path.read_text() + text)


@pytest.mark.parametrize("state_storage", STORAGES)
def test_check_finds_nothing_wrong_in_a_new_application(application, state_storage):
    app = application(state_storage=state_storage)

    assert check(app) == {}
    assert app.run("python", "operate.py", "states", "list").stdout == ""

    shown = app.run("python", "operate.py", "check")
    assert shown.returncode == 0
    assert {line.split()[0] for line in shown.stdout.splitlines()} == {"ok"}


@pytest.mark.parametrize("protocol", ["lmtp", "smtp"])
def test_check_reports_a_server_that_does_not_run(application, protocol):
    app = application(protocol, RECEIVER_PORT=free_port())
    app.start()

    assert check(app, "--running") == {}

    app.terminate()
    assert check(app) == {}
    assert "does not take mail" in check(app, "--running")["server"]


def test_handler_that_cannot_be_imported_is_reported(application):
    app = application()
    append(app.folder / "app" / "handlers" / "postmaster.py", "\nimport no_such_module\n")

    (told,) = check(app).values()
    assert told.startswith("the application cannot start: ModuleNotFoundError: No module named 'no_such_module'")
    assert re.search(r"\(app/handlers/postmaster\.py:\d+\)$", told)


def test_installed_config_is_reported_and_the_systemd_unit_starts_that_of_the_application(application, tmp_path):
    """No code of ours runs before Salmon imports `config.settings`, so its traceback is all that a start can show."""
    app = application()
    (tmp_path / "installed" / "config").mkdir(parents=True)
    other = tmp_path / "installed" / "config" / "__init__.py"
    other.touch()
    unit = (app.folder / "deploy" / "systemd" / "app@.service").read_text()
    (path,) = re.findall("^Environment=PYTHONPATH=(.+)$", unit, re.MULTILINE)

    app.settings["PYTHONPATH"] = tmp_path / "installed"
    told = check(app)["packages"]
    started = app.run("salmon", "start", "--no-daemon")
    app.settings["PYTHONPATH"] = f"{path.replace('/srv/%p', str(app.folder))}:{tmp_path / 'installed'}"

    assert told == f"`salmon start` imports {other}, not config/; uninstall it, or set PYTHONPATH={app.folder}"
    assert started.returncode == 1 and "No module named 'config.settings'" in started.stderr
    assert check(app) == {}
    app.start()


def test_invalid_setting_is_reported(application):
    app = application()
    app.settings["RELAY_PORT"] = "none"

    assert check(app) == {"settings": "RELAY_PORT 'none' is not a valid integer; for example RELAY_PORT=8825"}


def test_storage_that_cannot_be_opened_is_reported(application, tmp_path):
    app = application(STATE_DATABASE=str(tmp_path))

    assert check(app)["storage"].startswith(f"<SQLiteStorage {tmp_path}> fails: ")


def test_relay_that_is_down_is_reported(application, sink):
    app = application()
    sink.stop()

    assert check(app)["relay"].startswith(f"127.0.0.1:{sink.port} does not take mail: ")


def test_login_that_the_relay_refuses_is_reported(application):
    assert "does not take mail" in check(application(RELAY_USERNAME="us", RELAY_PASSWORD="secret"))["relay"]


def test_files_that_other_users_can_read_or_change_are_reported(application, tmp_path):
    app = application(STATE_DATABASE=str(tmp_path / "open" / "states"))
    (tmp_path / "open").mkdir(mode=0o755)
    assert check(app) == {}

    os.chmod(tmp_path / "open" / "states", 0o640)
    assert check(app) == {
        "permissions": f"{tmp_path}/open/states is open to other users; chmod go= {tmp_path}/open/states"
    }
    os.chmod(tmp_path / "open" / "states", 0o600)
    (app.folder / ".env").write_text("REPLIES_PER_HOUR=10")
    os.chmod(app.folder / ".env", 0o644)
    assert "chmod go= .env" in check(app)["permissions"]
    os.chmod(app.folder / ".env", 0o600)
    os.chmod(app.folder / "app" / "handlers" / "postmaster.py", 0o666)
    assert "chmod o-w app/handlers/postmaster.py" in check(app)["permissions"]
    os.chmod(app.folder / "app" / "handlers" / "postmaster.py", 0o644)
    os.chmod(app.folder / "operate.py", 0o666)
    assert "chmod o-w operate.py" in check(app)["permissions"]
    os.chmod(app.folder / "operate.py", 0o644)
    (app.folder / "app" / ".#postmaster.py").symlink_to("somebody@where.emacs.runs")
    assert check(app) == {}


@pytest.mark.skipif(os.getuid() != 0, reason="only root can be another user")
def test_check_by_another_user_creates_no_files(application):
    app = application()
    os.chown(app.folder / "run", 12345, 12345)

    assert check(app) == {"user": "run belongs to user 12345, and this is 0; check as the user of the server"}
    assert [path.name for path in (app.folder / "run").iterdir()] == [".gitkeep"]


ALICE = "alice@people.example"
FAILS = """
from salmon.routing import route, stateless
import os

@route("fails@(host)")
@stateless
def FAIL(message, host):
    os.stat("mended")
"""


def test_handler_that_has_answered_a_mail_451_for_an_hour_is_reported_until_it_works(application):
    app = application(HANDLERS="app.handlers.subscription,app.handlers.fails")
    (app.folder / "app" / "handlers" / "fails.py").write_text(FAILS)
    app.start()

    def answers():
        return [app.send(ALICE, "fails", Message_ID=f"<{number}@people.example>")[0] for number in range(2)]

    assert answers() == [451, 451]
    first, second = (app.folder / "run" / "failing").iterdir()
    assert check(app) == {}

    began = float(first.read_text().split()[0])
    first.write_text(first.read_text().replace(str(began), str(began - 3 * 3600)))
    os.utime(second, (0, 0))  # this one does not come again
    assert answers() == [451, 451]
    assert "app.handlers.fails.FAIL has answered a mail 451 for 3 hours, mails in all: 1" in check(app)["handlers"]

    (app.folder / "mended").touch()
    assert answers() == [250, 250]
    assert check(app) == {}
    assert list((app.folder / "run" / "failing").iterdir()) == []
