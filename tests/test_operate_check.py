"""`operate.py check` finds what is wrong, one thing at a time, and says what to do."""

import json
import os

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
def test_a_new_application_is_well(application, state_storage):
    app = application(state_storage=state_storage)

    assert check(app) == {}
    assert app.run("python", "operate.py", "states", "list").stdout == ""

    shown = app.run("python", "operate.py", "check")
    assert shown.returncode == 0
    assert {line.split()[0] for line in shown.stdout.splitlines()} == {"ok"}


def test_beside_a_server_that_runs(application):
    app = application(RECEIVER_PORT=free_port())
    app.start()

    assert check(app, "--running") == {}

    app.terminate()
    assert check(app) == {}
    assert "does not take mail" in check(app, "--running")["server"]


@pytest.mark.parametrize(
    "last_line, wrong",
    [
        ("    return ask_to_confirm\n", "SUBSCRIBED returns ask_to_confirm, which has no route"),
        ('    return "START"\n', "SUBSCRIBED returns 'START', and not a handler"),
        ("    return True\n", "SUBSCRIBED returns True, and not a handler"),
    ],
)
def test_a_handler_that_returns_no_handler(application, last_line, wrong):
    app = application()
    module = app.folder / "app" / "handlers" / "subscription.py"
    module.write_text(module.read_text().replace("    return SUBSCRIBED\n\n\n", f"{last_line}\n\n"))

    assert check(app)["routes"].endswith(wrong)


def test_a_start_that_another_hides(application):
    app = application(LISTS="news,dev")
    (app.folder / "app" / "handlers" / "second.py").write_text(
        "from salmon.routing import route\n\n\n"
        '@route("(list_name)@(host)")\ndef START(message, list_name, host):\n    return START\n'
    )
    choices = app.folder / "config" / "settings.py"
    choices.write_text(choices.read_text().replace('"app.handlers.postmaster"', '"app.handlers.second"'))

    first, second = check(app)["routes"].split("; ")
    hidden = "app.handlers.second.START never runs for {}, since app.handlers.subscription.START takes that mail"
    assert first == hidden.format("news@example.com")
    assert second == hidden.format("dev@example.com")


def test_a_handler_that_cannot_be_loaded(application):
    app = application()
    append(app.folder / "app" / "handlers" / "postmaster.py", "\nimport no_such_module\n")

    assert check(app) == {
        "settings": "the application cannot start: ModuleNotFoundError: No module named 'no_such_module'"
    }


def test_a_setting_that_cannot_be(application):
    app = application()
    app.settings["RELAY_PORT"] = "none"

    checked = app.run("python", "operate.py", "check", "--json")

    assert checked.returncode == 1
    assert checked.stderr.startswith("ERROR: RELAY_PORT 'none' must be a port")


def test_a_storage_that_cannot_be_opened(application, tmp_path):
    app = application(STATE_DATABASE=str(tmp_path))

    assert check(app)["settings"].startswith(f"STATE_DATABASE '{tmp_path}' cannot be used: ")


def test_a_relay_that_is_down(application, sink):
    app = application()
    sink.stop()

    assert check(app)["relay"].startswith(f"127.0.0.1:{sink.port} does not take mail: ")


def test_a_login_that_the_relay_does_not_take(application):
    assert "does not take mail" in check(application(RELAY_USERNAME="us", RELAY_PASSWORD="secret"))["relay"]


def test_what_others_can_read_or_change(application, tmp_path):
    app = application(STATE_DATABASE=str(tmp_path / "open" / "states"))
    (tmp_path / "open").mkdir(mode=0o755)
    assert check(app) == {}

    os.chmod(tmp_path / "open" / "states", 0o640)
    assert check(app) == {
        "permissions": f"{tmp_path}/open/states is open to other users; chmod go= {tmp_path}/open/states"
    }
    os.chmod(tmp_path / "open" / "states", 0o600)
    (app.folder / ".env").write_text("SECRET_KEY=0")
    os.chmod(app.folder / ".env", 0o644)
    assert "chmod go= .env" in check(app)["permissions"]
    os.chmod(app.folder / ".env", 0o600)
    os.chmod(app.folder / "app" / "mail" / "reply.py", 0o666)
    assert "chmod o-w app/mail/reply.py" in check(app)["permissions"]
    os.chmod(app.folder / "app" / "mail" / "reply.py", 0o644)
    os.chmod(app.folder / "operate.py", 0o666)
    assert "chmod o-w operate.py" in check(app)["permissions"]
    os.chmod(app.folder / "operate.py", 0o644)
    (app.folder / "app" / ".#reply.py").symlink_to("somebody@where.emacs.runs")
    assert check(app) == {}


@pytest.mark.skipif(os.getuid() != 0, reason="only root can be another user")
def test_another_user_makes_no_files_that_the_server_cannot_use(application):
    app = application()
    os.chown(app.folder / "run", 12345, 12345)

    assert check(app) == {"user": "run belongs to user 12345, and this is 0; check as the user of the server"}
    assert [path.name for path in (app.folder / "run").iterdir()] == [".gitkeep"]


def test_a_host_that_is_slow_to_know_its_name(application):
    app = application()
    append(
        app.folder / "config" / "boot.py",
        '\nimport socket\nimport time\nsocket.getfqdn = lambda name="": time.sleep(1.5) or "slow.example"\n',
    )

    assert "to learn the name slow.example took" in check(app)["host name"]


def test_a_version_that_it_was_not_made_for(application):
    app = application()
    append(
        app.folder / "config" / "__init__.py",
        '\nfrom importlib import metadata\n\nmetadata.version = lambda name: "3.4.0"\n',
    )

    assert check(app)["versions"].startswith("salmon-mail is 3.4.0; install salmon-mail>=3.3.0,<3.4")
