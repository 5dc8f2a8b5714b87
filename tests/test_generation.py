"""What cookiecutter makes of good answers: every combination is clean, works, and is the same each time."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests import baking
from tests.application import Application
from tests.baking import STORAGES, TEMPLATE, combinations

LONGEST_DOMAIN = ".".join(["a" * 63] * 3 + ["b" * 61])


def files(folder):
    """Return the files of an application, by their paths within it, with their octets."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(Path(folder).rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts
    }


def ruff(folder, *command):
    return subprocess.run(
        [sys.executable, "-m", "ruff", *command, "--no-cache", "."], cwd=folder, capture_output=True, text=True
    )


def assert_clean(folder):
    for command in (["check"], ["format", "--check"]):
        result = ruff(folder, *command)
        assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("answers", combinations(), ids=lambda answers: "-".join(answers.values()))
def test_every_combination_is_clean(bake, answers):
    folder = bake(**answers)

    assert folder.name == answers["project"]
    for name, data in files(folder).items():
        assert data == b"" or data.endswith(b"\n"), name
        assert b"\r" not in data, name
        assert b"cookiecutter" not in data.replace(b"cookiecutter-salmon", b""), name
        assert re.fullmatch(r"[A-Za-z0-9._/@-]+", name), name
    assert f'name = "{answers["project"]}"' in (folder / "pyproject.toml").read_text()
    assert f'mail_domain = "{answers["mail_domain"]}"' in (folder / "config" / "settings.py").read_text()
    assert_clean(folder)


@pytest.mark.parametrize("state_storage", STORAGES)
def test_its_own_tests_pass_at_once(bake, state_storage):
    application = Application(bake(state_storage=state_storage))

    result = application.run("python", "-m", "pytest", "-q", "-p", "no:cacheprovider")

    assert result.returncode == 0, result.stdout
    assert " passed" in result.stdout


@pytest.mark.parametrize(
    "answers",
    [{"project": "a"}, {"project": "x" * 64}, {"mail_domain": LONGEST_DOMAIN}, {"mail_domain": "EXAMPLE.com"}],
    ids=["one letter", "64 letters", "253 letters", "capitals"],
)
def test_odd_but_good_answers(bake, answers):
    application = Application(bake(**answers))

    assert_clean(application.folder)
    if answers.get("mail_domain") == LONGEST_DOMAIN:
        result = application.run("python", "-m", "pytest", "-q", "-p", "no:cacheprovider")
        assert result.returncode == 0, result.stdout


@pytest.mark.parametrize("state_storage", STORAGES)
def test_the_same_answers_make_the_same_application(tmp_path, state_storage):
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()

    one = baking.bake(tmp_path / "one", state_storage=state_storage)
    two = baking.bake(tmp_path / "two", state_storage=state_storage)

    assert files(one) == files(two)


def test_the_sources_of_the_template_are_python_as_they_stand():
    sources = [
        path
        for folder in ("hooks", "{{cookiecutter.project}}")
        for path in (TEMPLATE / folder).rglob("*.py*")
        if path.suffix == ".py" or path.name.endswith(".py{% endif %}")
    ]

    assert len(sources) > 40
    for source in sources:
        ast.parse(source.read_text("utf-8"), str(source))


@pytest.mark.parametrize("state_storage", STORAGES)
def test_a_storage_brings_only_what_it_needs(bake, state_storage):
    needed = {
        "postgresql": {"click", "jinja2", "psycopg", "salmon-mail", "sqlalchemy"},
    }
    dependencies = (bake(state_storage=state_storage) / "pyproject.toml").read_text()
    names = set(re.findall(r'^    "([a-z0-9-]+)', dependencies.partition("[dependency-groups]")[0], re.MULTILINE))

    if state_storage in ("sqlite", "shelve", "postgresql"):
        assert names == needed.get(state_storage, {"click", "jinja2", "salmon-mail"})


@pytest.mark.parametrize(
    "tests, path, right, wrong",
    [
        ("handlers", "app/handlers/subscription.py", "        return SUBSCRIBED", "        return CONFIRMING"),
        (
            "handlers",
            "app/handlers/subscription.py",
            'answer(message, "goodbye.msg", list_name)\n        return START',
            "return START",
        ),
        ("handlers", "app/handlers/subscription.py", "{module_name}:{ADDRESS.match(message.To)[1]}", "{module_name}"),
        ("mail", "app/mail/receiver.py", 'return "552 5.3.4 The message is too big"', "return None"),
        ("handlers", "app/mail/delivery.py", "550, ", "450, "),
        ("mail", "app/mail/manners.py", '("bulk", "list", "junk")', '("bulk", "list")'),
        ("model", "app/model/state_storage.py", "if state == ROUTE_FIRST_STATE", "if state == None"),
        ("model", "app/model/tokens.py", "and now < expiry", "or now < expiry"),
        (
            "model",
            "config/boot.py",
            "SQLiteStorage(settings.state_database, protected=True)",
            "SQLiteStorage('elsewhere')",
        ),
        ("mail", "config/testing.py", "MailStates(MemoryStorage())", "MailStates(_Sticky())"),
    ],
)
def test_its_own_tests_fail_when_its_code_is_wrong(bake, tests, path, right, wrong):
    application = Application(bake())
    source = application.folder / path
    text = source.read_text()
    assert right in text
    if "_Sticky" in wrong:
        text = text.replace(
            "\nRouter.STATE",
            "\n\nclass _Sticky(MemoryStorage):\n    def clear(self):\n        pass\n\n\nRouter.STATE",
            1,
        )
    source.write_text(text.replace(right, wrong))

    result = application.run("python", "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", f"tests/{tests}")

    assert result.returncode == 1, result.stdout
