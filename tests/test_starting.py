"""`salmon start --no-daemon` ends with one line that says why when it cannot work."""

import json
import os
import socket
import sys

import pytest

from tests.application import SALMON, Application
from tests.baking import import_baked, setting_names

CLASSES = {"sqlite": "SQLiteStorage", "shelve": "ShelveStorage"}
RUN = ("salmon", "start", "--no-daemon")


def refusal(app, **options):
    """Start the application, which must fail, and return what it said about it."""
    ended = app.run(*RUN, **options)
    assert ended.returncode != 0, "it started, and stopped by itself"
    assert "is ready" not in ended.stderr
    return ended.stderr


def assert_one_line(said, start):
    assert said.startswith(start), said
    assert said.count("\n") == 1, said


@pytest.mark.parametrize(
    "name, value",
    [
        ("RECEIVER_PORT", "smtp"),
        ("LISTS", "news,news"),
        ("MAIL_DOMAIN", ".*"),
        ("POSTMASTER", "root@example.com"),
        ("RELAY_PASSWORD", "se\x07cret"),
    ],
)
def test_wrong_value_in_the_environment_stops_the_start(application, name, value):
    said = refusal(application(**{name: value}))
    assert_one_line(said, f"ERROR: {name} ")
    assert "cret" not in said


@pytest.mark.cold_start
def test_wrong_value_in_the_settings_file_stops_the_start(application):
    app = application()
    settings = app.folder / "config" / "settings.py"
    settings.write_text(settings.read_text().replace('"LISTS",\n    ["news"]', '"LISTS",\n    ["news", "abuse"]'))

    assert_one_line(refusal(app), "ERROR: LISTS ['news', 'abuse'] must be names of at most 16 letters")


def test_line_in_env_file_is_read_and_environment_overrides_it(application, sink):
    app = application()
    (app.folder / ".env").write_text("LISTS=dev\nREPLIES_PER_HOUR='many'\n")
    said = refusal(app)
    assert_one_line(said, "ERROR: REPLIES_PER_HOUR 'many' is not a valid integer; for example REPLIES_PER_HOUR=20")

    app.settings["REPLIES_PER_HOUR"] = 5
    app.start()
    assert app.send("alice@people.example", "dev-subscribe")[0] == 250
    assert app.send("alice@people.example", "news")[0] == 550


@pytest.mark.cold_start
def test_taken_port_stops_the_start(application):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        said = refusal(application(RECEIVER_PORT=port))
    assert_one_line(said, f"ERROR: RECEIVER_HOST, RECEIVER_PORT ('127.0.0.1', {port}) cannot be used: ")
    assert "in use" in said


def test_boot_can_be_imported_while_the_server_runs(application):
    """By commands, scripts and cron jobs: none of them opens the port of the server, nor any other."""
    app = application().start()
    app.settings["RECEIVER_PORT"] = app.port
    program = """
import pathlib
import config.boot
print([file for file in pathlib.Path("/proc/self/fd").iterdir() if file.is_socket()], config.boot.settings.receiver)
"""
    for _ in range(2):
        ended = app.python(program)
        assert (ended.stdout, ended.stderr) == (f"[] <LMTPReceiver 127.0.0.1:{app.port}>\n", "")
    assert app.send("alice@people.example", "news")[0] == 250


def test_installed_packages_called_app_and_mailroom_do_not_hide_those_of_the_application(application, sink, tmp_path):
    """Salmon looks into the folder of the application last."""
    for name in ("app", "mailroom"):
        (tmp_path / "installed" / name).mkdir(parents=True)
        (tmp_path / "installed" / name / "__init__.py").write_text("raise ImportError('the wrong package')\n")

    app = application(PYTHONPATH=tmp_path / "installed").start()

    assert app.send("alice@people.example", "news-subscribe")[0] == 250


def test_host_of_another_machine_stops_the_start(application):
    said = refusal(application(RECEIVER_HOST="192.0.2.1"))
    assert_one_line(said, "ERROR: RECEIVER_HOST, RECEIVER_PORT ('192.0.2.1', 0) cannot be used: ")


@pytest.mark.parametrize(
    "state_storage, kind",
    [
        ("sqlite", "folder"),
        ("sqlite", "garbage"),
        ("sqlite", "below a file"),
        ("shelve", "garbage"),
        ("shelve", "below a file"),
    ],
)
def test_storage_that_cannot_be_opened_stops_the_start(application, tmp_path, state_storage, kind):
    path = tmp_path / "here"
    if kind == "folder":
        path.mkdir()
    else:
        path.write_bytes(b"this is no database " * 1000)
    if kind == "below a file":
        path = path / "states"
    app = application(state_storage=state_storage, STATE_DATABASE=path)
    said = refusal(app)
    assert_one_line(said, f"ERROR: STATE_DATABASE <{CLASSES[state_storage]} {path}> cannot be used: ")


@pytest.mark.cold_start
def test_storage_with_damaged_states_stops_the_start(application):
    app = application()
    row = {"key": "app.handlers.subscription:news", "state": "CONFIRMING"}
    rows = "".join(json.dumps({**row, "sender": f"person{number}@people.example"}) + "\n" for number in range(1000))
    assert app.run("python", "operate.py", "states", "import", input=rows).returncode == 0
    path = app.folder / "run" / "states.sqlite3"
    path.write_bytes(path.read_bytes()[:4096] + b"\xff" * (path.stat().st_size - 4096))

    said = refusal(app)

    assert_one_line(said, "ERROR: STATE_DATABASE <SQLiteStorage run/states.sqlite3> cannot be used: ")


def test_shelf_of_another_process_stops_the_start(application):
    app = application(state_storage="shelve").start()
    said = refusal(Application(app.folder, **app.settings))
    assert_one_line(said, "ERROR: STATE_DATABASE <ShelveStorage run/states> cannot be used: another process")
    app.kill()
    app.start()


def test_damaged_key_stops_the_start(application):
    app = application()
    (app.folder / "run" / "secret_key").write_text("short\n")
    assert_one_line(refusal(app), "ERROR: SECRET_KEY ")


@pytest.mark.parametrize(
    "code, named",
    [
        ("import nowhere\n", "nowhere"),
        ("from mailroom.signing import nothing\n", "nothing"),
        ("def START(:\n", "subscription.py"),
        ("1 / 0\n", "ZeroDivisionError"),
    ],
)
def test_broken_handler_stops_the_start_and_is_named(application, code, named):
    app = application()
    with open(app.folder / "app" / "handlers" / "subscription.py", "a") as module:
        module.write(code)
    said = refusal(app)
    assert named in said and "subscription.py" in said


@pytest.mark.parametrize(
    "handlers, reason",
    [
        ("app.handlers.nowhere", "there is no module app.handlers.nowhere"),
        ("app.handlerz.subscription", "there is no module app.handlerz.subscription"),
        ("app.handlers", "they have no routes"),
    ],
)
def test_missing_handlers_stop_the_start(application, handlers, reason):
    said = refusal(application(HANDLERS=handlers))
    assert_one_line(said, f"ERROR: HANDLERS ['{handlers}'] cannot be used: {reason}")


def test_broken_template_stops_the_start_and_is_named(application):
    app = application()
    (app.folder / "app" / "templates" / "welcome.msg").write_text("Welcome to {{ list_name\n")
    said = refusal(app)
    assert "TemplateSyntaxError" in said and "welcome.msg" in said


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
@pytest.mark.parametrize("command", [(SALMON, *RUN[1:]), (sys.executable, "operate.py", "states", "list")])
def test_folders_of_another_user_stop_the_start(application, command):
    app = application()
    for folder in ("run", "logs"):
        os.chown(app.folder / folder, 12345, 12345)
    # As root without the power over what belongs to others.
    ended = app.run("setpriv", "--bounding-set=-fowner", *command)
    assert ended.returncode == 1
    assert_one_line(ended.stderr, "ERROR: run/ cannot be made private: Operation not permitted; run this as the user")


GOOD = {
    "MAIL_DOMAIN": ["localhost", "a-b.example", "EXAMPLE.com", "xn--nave-6pa.example", ("a" * 63 + ".") * 3 + "b" * 61],
    "LISTS": ["news", "news,dev", " News , dev ", "a.b_c-d", "n" * 16, "9"],
    "RECEIVER_HOST": ["127.0.0.1", "::1", "localhost", "0.0.0.0"],
    "RECEIVER_PORT": ["0", "25", "65535"],
    "MAX_MESSAGE_SIZE": ["1024", "2147483647"],
    "RELAY_HOST": ["relay.example"],
    "RELAY_PORT": ["1", "65535"],
    "RELAY_USERNAME": ["", "news"],
    "RELAY_PASSWORD": ["", "p ssword"],
    "RELAY_TLS": ["yes", "no", "True", "0"],
    "STATE_DATABASE": ["elsewhere/states"],
    "REPLIES_PER_HOUR": ["1", "1000000"],
    "HANDLER_THREADS": ["0", "1000"],
    "POSTMASTER": ["root@localhost", "o'neil+x@mail.example"],
    "SECRET_KEY": ["", "k" * 32],
    "HANDLERS": ["app.handlers.subscription", " one , two.three "],
}
BAD = {
    "MAIL_DOMAIN": ["", "a b", ".*", "a..b", "-a", "a-", "a" * 64, "a.b" * 90, "a.example\n", "na\xefve", "a@b", "a_b"],
    "LISTS": [
        *("", ",", "news,", "news,news", "News,news", "a b", "n" * 17, "-a", "a-", "a@b", ".*", "n\xe4ws"),
        *("x-subscribe", "x-unsubscribe", "x-confirm", "x-confirm-0f", "postmaster", "abuse", "mailer-daemon"),
    ],
    "RECEIVER_HOST": ["", "a b", "127.0.0.1:25", "http://x"],
    "RECEIVER_PORT": ["", "-1", "65536", "smtp", "1.5", "25 x"],
    "MAX_MESSAGE_SIZE": ["0", "1023", "10M", "1e6"],
    "RELAY_HOST": ["smtp://relay.example"],
    "RELAY_PORT": ["0", "65536"],
    "RELAY_USERNAME": ["a\nb"],
    "RELAY_PASSWORD": ["a\nb", "p\xe4ssword"],
    "RELAY_TLS": ["maybe", "ja"],
    "STATE_DATABASE": ["", "a\nb"],
    "SECRET_KEY": ["a\nb", "k" * 31, "k" * 40 + "\n"],
    "REPLIES_PER_HOUR": ["0", "-5", "many"],
    "HANDLER_THREADS": ["-1", "1001", "many"],
    "POSTMASTER": ["", "root", "@localhost", "a b@c", "a@b@c", "a@example.com", "a@b c", "a,b@c.example"],
}


@pytest.fixture
def read(baked, monkeypatch, tmp_path):
    """A function: the settings of an application when the environment sets `name` to `value`."""
    folder = baked("sqlite")
    monkeypatch.delenv("PYTEST_VERSION")
    monkeypatch.chdir(tmp_path)
    for other in setting_names(folder):
        monkeypatch.delenv(other, raising=False)
    monkeypatch.setenv("POSTMASTER", "root@elsewhere.example")

    def read(name, value):
        monkeypatch.setenv(name, value)
        return getattr(import_baked(folder, "config.settings"), name.lower())

    return read


def test_these_tests_cover_every_setting(baked):
    assert set(setting_names(baked("sqlite"))) == set(GOOD)
    assert set(GOOD) - {"HANDLERS"} == set(BAD)  # a handler that is not there is found later, by the Router


@pytest.mark.parametrize("name, value", [(name, value) for name in GOOD for value in GOOD[name]], ids=ascii)
def test_good_value_of_a_setting_is_read(read, name, value):
    read(name, value)


@pytest.mark.parametrize("name, value", [(name, value) for name in BAD for value in BAD[name]], ids=ascii)
def test_bad_value_ends_the_process_with_one_line(read, name, value):
    with pytest.raises(SystemExit) as end:
        read(name, value)
    assert end.value.code.startswith(f"ERROR: {name} ")
    assert "\n" not in end.value.code
    assert "; for example " in end.value.code


def test_value_is_used_in_its_usual_form(read):
    assert read("LISTS", " News , dev ") == ["news", "dev"]
    assert read("RECEIVER_PORT", "25") == 25
    assert read("RELAY_TLS", "Yes") is True
    assert read("HANDLERS", " one , two.three ") == ["one", "two.three"]
