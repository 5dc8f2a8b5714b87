"""Answers that cannot be are refused in one line, and leave nothing on disk."""

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from tests.baking import TEMPLATE
from tests.waiting import wait_until

COOKIECUTTER = str(Path(sys.executable).with_name("cookiecutter"))

PROJECTS = [
    "a b",
    "../x",
    "-rf",
    ".hidden",
    "na\u00efve",
    'con"x',
    "it's",
    "back\\slash",
    "x" * 200,
    "app\n",
    "app-",
    "9app",
    "pytest",
    "salmon-mail",
    "Salmon_Mail",
    "sqlalchemy",
]
MAIL_DOMAINS = [
    "exa mple.com",
    "a@b.com",
    ".*",
    "example..com",
    "-x.com",
    "x-.com",
    f"{'a' * 64}.com",
    "na\u00efve.example",
    "example.com.",
    "example.com\n",
    'a".com',
    "a.b" * 90,
]


def generate(folder, **answers):
    """Run the real command in `folder`, without questions; return a `CompletedProcess` with text."""
    home = {"HOME": str(folder.parent), "PYTHONIOENCODING": "utf-8"}
    return subprocess.run(
        [COOKIECUTTER, str(TEMPLATE), "--no-input", *(f"{name}={value}" for name, value in answers.items())],
        cwd=folder,
        env={**os.environ, **home},
        capture_output=True,
        text=True,
    )


@pytest.fixture
def folder(tmp_path):
    """Where applications are generated: a folder within an empty one, so that `../x` would be seen."""
    (tmp_path / "home" / "here").mkdir(parents=True)
    return tmp_path / "home" / "here"


def left_on_disk(folder):
    return [
        path.name for path in folder.parent.iterdir() if path != folder and not path.name.startswith(".cookiecutter")
    ]


@pytest.mark.parametrize(
    "question, answer",
    [("project", answer) for answer in PROJECTS] + [("mail_domain", answer) for answer in MAIL_DOMAINS],
    ids=ascii,
)
def test_a_bad_answer_is_refused(folder, question, answer):
    result = generate(folder, **{question: answer})

    assert result.returncode != 0
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("ERROR: ")]
    assert line.startswith(f"ERROR: {question} {answer!r} ")
    assert "; for example " in line
    assert list(folder.iterdir()) == []
    assert left_on_disk(folder) == []


@pytest.mark.parametrize("question", ["project", "mail_domain"])
def test_an_empty_answer_is_refused(folder, question):
    result = generate(folder, **{question: ""})

    assert result.returncode != 0
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("domain", ["EXAMPLE.com", "localhost", "xn--nave-6pa.example", "a-b.c-d.example", "1.example"])
def test_a_good_domain_is_taken(folder, domain):
    result = generate(folder, mail_domain=domain)

    assert result.returncode == 0, result.stderr
    assert [path.name for path in folder.iterdir()] == ["mail-app"]


@pytest.mark.parametrize("typed", ['con"x', "it's", "a\\b", "{{ 7 * 7 }}", "{% if %}", "#{x}", "$(id)"])
def test_what_is_typed_breaks_no_hook(folder, typed):
    status, shown = type_answers(folder, [typed, "", ""])

    assert status != 0
    assert "ERROR: project " in shown
    assert "SyntaxError" not in shown
    assert list(folder.iterdir()) == []


def test_the_questions_explain_themselves(folder):
    status, shown = type_answers(folder, ["", "", ""])

    assert status == 0, shown
    for words in ("Project", "Mail domain", "State storage", "power cut"):
        assert words in shown
    assert [path.name for path in folder.iterdir()] == ["mail-app"]


def type_answers(folder, answers):
    """Run the command on a terminal of its own, type the answers; return its exit status and what it showed."""
    controller, terminal = pty.openpty()
    environment = {**os.environ, "HOME": str(folder.parent), "TERM": "dumb"}
    process = subprocess.Popen(
        [COOKIECUTTER, str(TEMPLATE)], cwd=folder, env=environment, stdin=terminal, stdout=terminal, stderr=terminal
    )
    os.close(terminal)
    os.set_blocking(controller, False)
    shown = bytearray()

    def read():
        try:
            shown.extend(os.read(controller, 65536))
        except BlockingIOError:
            pass
        except OSError:  # how Linux says that the other side of a terminal has gone
            return True
        return process.poll() is not None

    for number, answer in enumerate(answers, 1):
        wait_until(lambda n=number: read() or f"[{n}/3]".encode() in shown, 30, lambda: shown.decode())
        if process.poll() is None:
            os.write(controller, answer.encode() + b"\n")
    wait_until(read, 30, lambda: shown.decode())
    read()
    os.close(controller)
    return process.wait(30), shown.decode("utf-8", "replace")
