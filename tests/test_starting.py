"""What cannot work is not started: `salmon start --no-daemon` ends with a line that names it."""

import json
import os
import socket
import sys

import pytest

from tests.application import SALMON, Application
from tests.baking import import_baked

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
def test_a_setting_that_cannot_be(application, name, value):
    said = refusal(application(**{name: value}))
    assert_one_line(said, f"ERROR: {name} ")
    assert "cret" not in said


def test_a_setting_that_was_deleted(application):
    app = application()
    choices = app.folder / "config" / "settings.py"
    choices.write_text(choices.read_text().replace("relay_starttls = False\n", ""))

    assert_one_line(refusal(app), "ERROR: RELAY_STARTTLS None must be yes or no; for example yes")


def test_a_port_that_is_taken(application):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        said = refusal(application(RECEIVER_PORT=port))
    assert_one_line(said, f"ERROR: RECEIVER_HOST, RECEIVER_PORT ('127.0.0.1', {port}) cannot be used: ")
    assert "in use" in said


def test_a_host_that_is_not_ours(application):
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
def test_a_storage_that_cannot_be_opened(application, tmp_path, state_storage, kind):
    path = tmp_path / "here"
    if kind == "folder":
        path.mkdir()
    else:
        path.write_bytes(b"this is no database " * 1000)
    if kind == "below a file":
        path = path / "states"
    app = application(state_storage=state_storage, STATE_DATABASE=path)
    said = refusal(app)
    assert f"ERROR: STATE_DATABASE '{path}' cannot be used: " in said.splitlines()[-1], said
    assert "Traceback" not in said


def test_a_storage_that_is_damaged_where_the_states_are(application):
    app = application()
    row = {"key": "app.handlers.subscription:news", "state": "CONFIRMING"}
    rows = "".join(json.dumps({**row, "sender": f"person{number}@people.example"}) + "\n" for number in range(1000))
    assert app.run("python", "operate.py", "states", "import", input=rows).returncode == 0
    path = app.folder / "run" / "states.sqlite3"
    path.write_bytes(path.read_bytes()[:4096] + b"\xff" * (path.stat().st_size - 4096))

    said = refusal(app)

    assert said.splitlines()[-1].startswith("ERROR: STATE_DATABASE 'run/states.sqlite3' cannot be used: "), said


def test_a_shelf_that_another_process_has(application):
    app = application(state_storage="shelve").start()
    said = refusal(Application(app.folder, **app.settings))
    assert_one_line(said, "ERROR: STATE_DATABASE 'run/states' cannot be used: another process has this shelf open")
    app.kill()
    app.start()


def test_a_key_that_is_damaged(application):
    app = application()
    (app.folder / "run" / "secret_key").write_text("short\n")
    assert_one_line(refusal(app), "ERROR: SECRET_KEY ")


@pytest.mark.parametrize(
    "code, named",
    [
        ("import nowhere\n", "nowhere"),
        ("from app.model.tokens import nothing\n", "nothing"),
        ("def START(:\n", "subscription.py"),
        ("1 / 0\n", "ZeroDivisionError"),
    ],
)
def test_a_handler_module_that_is_broken(application, code, named):
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
def test_handlers_that_are_not_there(application, handlers, reason):
    said = refusal(application(HANDLERS=handlers))
    assert_one_line(said, f"ERROR: HANDLERS ['{handlers}'] cannot be used: {reason}")


def test_a_template_that_is_broken(application):
    app = application()
    (app.folder / "app" / "templates" / "welcome.msg").write_text("Welcome to {{ list_name\n")
    said = refusal(app)
    assert "TemplateSyntaxError" in said and "welcome.msg" in said


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
@pytest.mark.parametrize("command", [(SALMON, *RUN[1:]), (sys.executable, "operate.py", "states", "list")])
def test_the_folders_of_somebody_else(application, command):
    app = application()
    for folder in ("run", "logs"):
        os.chown(app.folder / folder, 12345, 12345)
    # As root without the power over what belongs to others.
    ended = app.run("setpriv", "--bounding-set=-fowner", *command)
    assert ended.returncode == 1
    assert_one_line(ended.stderr, "ERROR: run/ cannot be made private: Operation not permitted; be the user of the")


GOOD = {
    "mail_domain": ["localhost", "a-b.example", "EXAMPLE.com", "xn--nave-6pa.example", ("a" * 63 + ".") * 3 + "b" * 61],
    "lists": ["news", "news,dev", " News , dev ", "a.b_c-d", "n" * 16, "9"],
    "receiver_protocol": ["lmtp", "smtp"],
    "receiver_host": ["127.0.0.1", "::1", "localhost", "0.0.0.0"],
    "receiver_port": ["0", "25", "65535"],
    "max_message_size": ["1024", "2147483647"],
    "relay_port": ["1", "65535"],
    "relay_password": ["", "p ssword"],
    "relay_starttls": ["yes", "no", "True", "0"],
    "replies_per_hour": ["1", "1000000"],
    "postmaster": ["root@localhost", "o'neil+x@mail.example"],
    "secret_key": ["", "k" * 32],
    "renamed_states": ["", "CONFIRMING:ASKED", "app.old.ONE:START, TWO:THREE"],
    "handlers": ["app.handlers.subscription", " one , two.three "],
}
BAD = {
    "mail_domain": ["", "a b", ".*", "a..b", "-a", "a-", "a" * 64, "a.b" * 90, "a.example\n", "na\xefve", "a@b", "a_b"],
    "lists": [
        *("", ",", "news,", "news,news", "News,news", "a b", "n" * 17, "-a", "a-", "a@b", ".*", "n\xe4ws"),
        *("x-subscribe", "x-unsubscribe", "x-confirm", "x-confirm-0f", "postmaster", "abuse", "mailer-daemon"),
    ],
    "receiver_protocol": ["", "LMTP", "http"],
    "receiver_host": ["", "a b", "127.0.0.1:25", "http://x"],
    "receiver_port": ["", "-1", "65536", "smtp", "1.5", "25 x", "8_823", "+25", "\u0662\u0665"],
    "max_message_size": ["0", "1023", "10M", "1e6"],
    "relay_port": ["0", "65536"],
    "relay_password": ["a\nb", "\ud800", "p\xe4ssword"],
    "relay_starttls": ["maybe", "ja"],
    "state_database": ["", "a\0b", "a\nb"],
    "secret_key": ["a\nb", "k" * 31, "k" * 40 + "\n"],
    "renamed_states": ["CONFIRMING", "A:A", "A:B:C", "A:B,A:C", "A-B:C"],
    "handlers": ["", ",", "app/handlers", "a b"],
    "replies_per_hour": ["0", "-5", "many"],
    "postmaster": ["", "root", "@localhost", "a b@c", "a@b@c", "a@news.example", "a@b c", "a,b@c.example"],
}


@pytest.fixture
def apply(baked, monkeypatch):
    """A function: apply the rules of the settings when the environment sets `name` to `value`."""
    environment = import_baked(baked("sqlite"), "config.environment")

    def apply(name, value):
        settings = {
            "mail_domain": "news.example",
            "lists": ["news"],
            "receiver_protocol": "lmtp",
            "receiver_host": "127.0.0.1",
            "receiver_port": 8823,
            "max_message_size": 1024,
            "relay_host": "127.0.0.1",
            "relay_port": 25,
            "relay_username": "",
            "relay_password": "",
            "relay_starttls": False,
            "state_database": "run/states",
            "secret_key": "",
            "replies_per_hour": 20,
            "renamed_states": {},
            "handlers": ["app.handlers.subscription"],
            "postmaster": "root@elsewhere.example",
        }
        for rule in environment.RULES:
            monkeypatch.delenv(rule.upper(), raising=False)
        monkeypatch.setitem(os.environ, name.upper(), value) if "\0" not in value and value.isascii() else None
        settings[name] = value
        environment.apply(settings)
        return settings[name]

    return apply


@pytest.mark.parametrize("name, value", [(name, value) for name in GOOD for value in GOOD[name]], ids=ascii)
def test_a_value_that_can_be(apply, name, value):
    apply(name, value)


@pytest.mark.parametrize("name, value", [(name, value) for name in BAD for value in BAD[name]], ids=ascii)
def test_a_value_that_cannot_be(apply, name, value):
    with pytest.raises(SystemExit) as end:
        apply(name, value)
    assert str(end.value).startswith(f"ERROR: {name.upper()} ")
    assert "\n" not in str(end.value)
    assert ";" in str(end.value) or name in ("relay_password",)


def test_what_was_put_right(apply):
    assert apply("mail_domain", "EXAMPLE.com") == "example.com"
    assert apply("lists", " News , dev ") == ["news", "dev"]
    assert apply("receiver_port", "25") == 25
    assert apply("relay_starttls", "Yes") is True
