"""`operate.py states` as an operator meets it: beside a running server, with many rows, with old shelves."""

import contextlib
import inspect
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import sysconfig
import threading

import pytest

from mailroom.storage.sqlite import SQLiteStorage
from tests.baking import STORAGES
from tests.mailroom.commands.conftest import ThreeMethods
from tests.memory import greatest_memory
from tests.waiting import wait_until

KEY = "app.handlers.subscription:news"
ALICE = "alice@people.example"
DATE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\dZ")
MANY = 100_000  # what a million takes, benchmarks/README.md tells
MEGABYTE = 1024  # in the kilobytes of ru_maxrss
A_ROW = 200 / 1024  # an import holds all rows until they have been checked


def states(app, *arguments, **options):
    return app.run("python", "operate.py", "states", *arguments, **options)


def line(sender, state="SUBSCRIBED", key=KEY):
    return json.dumps({"key": key, "sender": sender, "state": state}) + "\n"


def lines_of(shown):
    assert shown.returncode == 0, shown.stderr
    assert shown.stderr == ""
    return shown.stdout.splitlines()


def one_line_refusal(shown):
    assert shown.returncode != 0
    assert shown.stdout == ""
    assert shown.stderr.count("\n") == 1, shown.stderr
    return shown.stderr


ONE_PROCESS = ["shelve"]


@pytest.mark.parametrize("state_storage", [storage for storage in STORAGES if storage not in ONE_PROCESS])
def test_states_are_shown_and_changed_while_the_server_runs(application, sink, state_storage):
    app = application(state_storage=state_storage).start()
    app.settings["RECEIVER_PORT"] = str(app.port)  # which is taken, as in a real setting
    app.send(ALICE, "news-subscribe")
    sink.take()

    (shown,) = [text.split() for text in lines_of(states(app, "list"))]
    assert [text for text in shown if not DATE.fullmatch(text)] == ["CONFIRMING", KEY, ALICE]
    assert len(shown) == 4  # with the date of the change
    assert "\x1b" not in states(app, "list").stdout
    lines_of(states(app, "set", "Alice@People.example", "SUBSCRIBED", "--to", "news"))
    app.send(ALICE, "news")
    (received,) = sink.take()
    assert received["Subject"] == "Your mail to news has arrived"
    assert [json.loads(text)["state"] for text in lines_of(states(app, "show", ALICE, "--json"))] == ["SUBSCRIBED"]

    lines_of(states(app, "forget", ALICE))
    app.send(ALICE, "news-subscribe")
    (confirmation,) = sink.take()
    assert confirmation["Subject"] == "Please confirm your subscription to news"
    assert app.terminate() == 0


def test_paths_in_settings_are_relative_to_the_application_and_those_on_the_command_line_to_the_caller(
    application, tmp_path
):
    app = application()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "rows.jsonl").write_text(line(ALICE))

    program = [sys.executable, str(app.folder / "operate.py"), "states", "import", "rows.jsonl"]
    imported = subprocess.run(program, cwd=tmp_path / "elsewhere", env=app.environment, capture_output=True, text=True)

    assert imported.returncode == 0, imported.stderr
    assert [text.split()[-1] for text in lines_of(states(app, "list"))] == [ALICE]
    assert [path.name for path in (tmp_path / "elsewhere").iterdir()] == ["rows.jsonl"]


@pytest.mark.parametrize("state_storage", ["sqlite", "shelve"])
def test_commands_and_scripts_of_the_readme_run_in_their_order(application, sink, state_storage):
    app = application(state_storage=state_storage)
    readme = (app.folder / "README.md").read_text()
    commands = re.findall(r"^uv run operate\.py (.+?)(?: +#.*)?$", readme.partition("## Operate it")[2], re.MULTILINE)
    scripts = re.findall(r"```python\n((?:(?!```).)*import config\.boot.*?)```", readme, re.DOTALL)
    assert len(commands) >= 5 and len(scripts) == 2

    for command in commands:
        ran = app.run("python", "operate.py", *shlex.split(command), input="y\n")
        assert ran.returncode == 0, (command, ran.stdout, ran.stderr)
    for script in scripts:
        ran = app.python(script)
        assert ran.returncode == 0, (script, ran.stderr)


def test_owner_adds_a_command(application):
    app = application(RELAY_PASSWORD="one\u00a0two")
    program = app.folder / "operate.py"
    command = """
@operate.command()
def remind():
    print(boot().room.domain)
    logging.info("this is logged by the server only")
    logging.warning("this is logged by commands, too")


if """
    code = program.read_text().replace("import operate\n", "import boot, operate\n").replace("\nif ", command, 1)
    program.write_text(code.replace('"""\n', '"""\n\nimport logging\n', 1))

    refused = app.run("python", "operate.py", "remind")
    app.settings["RELAY_PASSWORD"] = ""
    ran = app.run("python", "operate.py", "remind")

    assert refused.returncode == 1
    assert refused.stderr.startswith("ERROR: RELAY_PASSWORD (not shown) must be printable ASCII")
    assert ran.stdout == "example.com\n"
    assert [text.partition("root: ")[2] for text in ran.stderr.splitlines()] == ["this is logged by commands, too"]


def test_state_is_set_between_two_mails_only(application):
    app = application(state_storage="sqlite")
    storage = SQLiteStorage(app.folder / "run" / "states.sqlite3")

    with storage.transaction(ALICE):
        refusal = one_line_refusal(states(app, "set", ALICE, "SUBSCRIBED", "--to", "news"))

    assert "Another mail of this sender is being handled" in refusal
    assert list(storage) == []


def test_storage_that_does_not_yield_its_rows_is_named(application):
    app = application(state_storage="sqlite")
    boot = app.folder / "config" / "boot.py"
    with open(boot, "a") as file:
        file.write("\nfrom salmon.routing import StateStorage\n\n\n" + inspect.getsource(ThreeMethods))
        file.write("\n\nRouter.STATE_STORE = ThreeMethods()\n")

    assert "config/boot.py: a storage must yield its rows" in one_line_refusal(states(app, "list"))


def test_states_list_is_empty_with_salmons_memory_storage(application):
    app = application(state_storage="sqlite")
    with open(app.folder / "config" / "boot.py", "a") as file:
        file.write("\nfrom salmon.routing import MemoryStorage\n\nRouter.STATE_STORE = MemoryStorage()\n")

    assert lines_of(states(app, "list")) == []


@pytest.mark.parametrize("state_storage", [storage for storage in STORAGES if storage not in ONE_PROCESS])
def test_old_states_expire_while_the_server_runs(application, sink, state_storage):
    app = application(state_storage=state_storage).start()
    app.send(ALICE, "news-subscribe")
    expire = ["expire", "--state", "CONFIRMING", "--to", "news", "--older-than"]

    assert lines_of(states(app, *expire, "1h")) == ["0 expired"]
    assert lines_of(states(app, "list", "--older-than", "1h")) == []
    assert lines_of(states(app, *expire, "0m")) == [f"CONFIRMING -> START  {KEY}  {ALICE}", "1 expired"]
    assert lines_of(states(app, "list")) == []
    assert app.terminate() == 0


def test_shelf_of_a_running_server_is_refused_in_one_line(application):
    app = application(state_storage="shelve").start()

    assert "another process has this shelf open" in one_line_refusal(states(app, "list"))
    assert app.terminate() == 0
    assert lines_of(states(app, "list")) == []


# Every storage exports, and imports, the same lines: so rows move between any two.
@pytest.mark.parametrize(
    ["first", "second"],
    [("sqlite", "shelve"), ("shelve", "sqlite"), ("postgresql", "django"), ("django", "postgresql")],
)
def test_rows_move_from_one_storage_to_another(application, tmp_path, first, second):
    senders = ["alice@people.example", "o'brien@people.example", "caf\u00e9", ""]
    if first in ("sqlite", "shelve"):  # the others hold none of these; the receiver lets none of them in
        senders += ["a\0b", "\ud800", None]
    rows = "".join(sorted(line(sender) for sender in senders))
    old = application(state_storage=first)
    old.folder.rename(tmp_path / "old")
    old.folder = tmp_path / "old"
    new = application(state_storage=second)
    lines_of(states(old, "import", input=rows))

    exported = states(old, "export").stdout
    lines_of(states(new, "import", input=exported))

    assert "".join(sorted(exported.splitlines(keepends=True))) == rows
    assert sorted(lines_of(states(new, "export"))) == rows.splitlines()


def run_measured(app, *arguments, input, output):
    """Run a command between two files; return its greatest memory in kilobytes."""
    with open(input, "rb") as stdin, open(output, "wb") as stdout:
        command = [sys.executable, "operate.py", "states", *arguments]
        return greatest_memory(command, cwd=app.folder, env=app.environment, stdin=stdin, stdout=stdout)


def test_export_and_import_of_many_rows_take_little_memory_while_the_server_answers(application, tmp_path):
    app = application(state_storage="sqlite").start()
    lines_of(states(app, "set", ALICE, "SUBSCRIBED", "--to", "news"))
    many, out = tmp_path / "many.jsonl", tmp_path / "out.jsonl"
    with open(many, "w") as file:
        file.write(line(ALICE))
        file.writelines(line(f"b{number:07}@people.example") for number in range(1, MANY))
    answers = []
    stop = threading.Event()

    def ask():
        while not stop.wait(0.2):
            answers.append(app.send(ALICE, "news")[0])

    mails = threading.Thread(target=ask)
    mails.start()
    try:
        little = run_measured(app, "count", input=os.devnull, output=out)
        imported = run_measured(app, "import", input=many, output=out)
        report = out.read_text()
        exported = run_measured(app, "export", input=os.devnull, output=out)
    finally:
        stop.set()
        mails.join()

    assert report == f"{MANY} rows: {MANY - 1} new, 0 overwritten, 1 there already\n"
    assert out.read_bytes() == many.read_bytes()
    assert exported < little + 16 * MEGABYTE
    assert imported < little + MANY * A_ROW + 16 * MEGABYTE
    assert set(answers) == {250}


def test_killed_import_changes_nothing(application, tmp_path):
    app = application(state_storage="sqlite")
    lines_of(states(app, "import", input=line(ALICE, "CONFIRMING")))
    rows = tmp_path / "rows.jsonl"
    with open(rows, "w") as file:
        file.writelines(line(f"{number}@people.example") for number in range(100_000))
    log = app.folder / "run" / "states.sqlite3-wal"

    command = [sys.executable, "operate.py", "states", "import", str(rows)]
    process = subprocess.Popen(command, cwd=app.folder, env=app.environment)
    try:
        wait_until(lambda: log.exists() and log.stat().st_size > MEGABYTE * 1024, 60)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()

    assert process.returncode == -signal.SIGKILL
    assert lines_of(states(app, "export")) == [line(ALICE, "CONFIRMING").strip()]


def test_invalid_line_is_refused_with_its_number(application):
    app = application(state_storage="sqlite")

    refusal = one_line_refusal(states(app, "import", input=line("a") + "this is no row\n"))

    assert refusal.startswith("Error: nothing was imported: line 2 must be a row; for example {")
    assert lines_of(states(app, "list")) == []


@pytest.mark.parametrize("state_storage", ["postgresql", "django"])
def test_row_that_the_storage_cannot_hold_is_named(application, state_storage):
    app = application(state_storage=state_storage)

    refusal = one_line_refusal(states(app, "import", input=line("a") + line("b\0c") + line("d")))

    assert refusal.startswith("Error: nothing was imported: ")
    assert refusal.endswith(f" cannot hold SUBSCRIBED  {KEY}  'b\\x00c'\n")
    assert lines_of(states(app, "list")) == []


@pytest.mark.parametrize("arguments", [["list"], ["export"]])
def test_closed_pipe_is_no_error(application, arguments):
    app = application(state_storage="sqlite")
    lines_of(states(app, "import", input="".join(line(f"{n}@people.example") for n in range(20_000))))

    shown = app.run("sh", "-c", f"{sys.executable} operate.py states {arguments[0]} | head -n 1")

    assert shown.stdout.count("\n") == 1
    assert shown.stderr == ""


def interpreter_with(module):
    """Return a Python of this machine that has `module` and can run the application, or skip the test."""
    for name in (sys.executable, "/usr/bin/python3", "python3.13"):
        program = f"import sys, {module}, click, salmon.routing; assert sys.version_info >= (3, 10)"
        with contextlib.suppress(OSError):
            tried = subprocess.run([name, "-c", program], capture_output=True, env=foreign_environment())
            if tried.returncode == 0:
                return shutil.which(name)
    pytest.skip(f"no Python here has {module}; Debian: apt install python3-gdbm")


def foreign_environment():
    """The environment in which another Python finds what the application depends on, all of it pure Python."""
    return {**os.environ, "PYTHONPATH": sysconfig.get_path("purelib"), "PYTHONDONTWRITEBYTECODE": "1"}


@pytest.mark.parametrize("kind", ["dbm.dumb", "dbm.gnu", "dbm.ndbm", "dbm.sqlite3"])
def test_shelf_of_an_older_salmon_is_imported(application, tmp_path, kind):
    python = interpreter_with(kind)
    app = application(state_storage="sqlite")
    old = str(tmp_path / "old" / "states")
    os.mkdir(os.path.dirname(old))
    program = f"""if True:
        import sys, dbm, {kind} as kind
        dbm._defaultmod, dbm._modules = kind, {{{kind!r}: kind}}
        from salmon.routing import ShelveStorage
        storage = ShelveStorage(sys.argv[1])
        for number in range(200):
            storage.set("app.handlers.subscription:news", f"{{number}}@people.example", "SUBSCRIBED")
        print(dbm.whichdb(sys.argv[1]))
    """
    made = app.run(python, "-c", program, old, env=foreign_environment())
    assert made.stdout == f"{kind}\n", made.stderr

    imported = app.run(
        *(python, "operate.py", "states", "import", "--shelve", old), env={**app.environment, **foreign_environment()}
    )

    assert imported.stdout == "200 rows: 200 new, 0 overwritten, 0 there already\n", imported.stderr
    assert sorted(lines_of(states(app, "export"))) == sorted(line(f"{n}@people.example").strip() for n in range(200))


@pytest.mark.parametrize("command", ["list", "export"])
def test_output_to_a_full_disk_is_an_error_of_one_line(application, command):
    app = application()
    row = {"key": "app.handlers.subscription:news", "sender": "alice@people.example", "state": "CONFIRMING"}
    assert app.run("python", "operate.py", "states", "import", input=json.dumps(row)).returncode == 0

    with open("/dev/full", "w") as full:
        ended = app.run(
            "python", "operate.py", "states", command, capture_output=False, stdout=full, stderr=subprocess.PIPE
        )

    assert ended.returncode == 1
    assert ended.stderr == "Error: the output cannot be written: No space left on device\n"
