"""A bad answer is refused in one line that says what is wrong, and leaves nothing on disk."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pexpect
import pytest
from cookiecutter.exceptions import FailedHookException

from tests.application import Application
from tests.baking import APPLICATION, TEMPLATE, bake

COOKIECUTTER = str(Path(sys.executable).with_name("cookiecutter"))

BAD = [
    *(
        ("project", answer)
        for answer in [
            "a b",
            "../x",
            "-rf",
            ".hidden",
            "na\xefve",
            'con"x',
            "it's",
            "a" * 200,
            "a" * 65,
            "app\n",
            "app\nx",
            "app-",
            "9app",
            "pytest",
            "PyTest",
            "salmon-mail",
            "Salmon_Mail",
            "salmon-_mail",
            "jinja2",
            "python_dotenv",
            "a\\b",
            "a{b}",
            "a%}",
            "\u0430pp",
        ]
    ),
    *(
        ("mail_domain", answer)
        for answer in [
            "",
            "exa mple.com",
            "a@b.com",
            ".*",
            "example..com",
            "-x.com",
            "x-.com",
            "a" * 64 + ".com",
            ".".join(["a" * 49] * 6),
            "na\xefve.example",
            "example.com.",
            ".example.com",
            "example.com\n",
            "ex_ample.com",
            'exa"mple.com',
            "exa'mple.com",
            "exa\\mple.com",
            "exa{mple}.com",
            "$(id).com",
            "`id`.com",
            "example.com'; id; '",
            "exa\0mple.com",
            "\udcff.com",
            "\u017fample.com",
        ]
    ),
]


@pytest.fixture
def environment(tmp_path):
    """The environment of a user who has never used cookiecutter, and whose home is below `tmp_path`."""
    (tmp_path / "home").mkdir()
    return {**os.environ, "HOME": str(tmp_path / "home"), "COLUMNS": "500", "NO_COLOR": "1"}


@pytest.fixture
def here(tmp_path):
    """The folder in which the user calls cookiecutter."""
    (tmp_path / "outer" / "inner").mkdir(parents=True)
    return tmp_path / "outer" / "inner"


def generate(here, environment, *arguments):
    """Call cookiecutter in the folder `here`, without questions; return the `CompletedProcess`."""
    return subprocess.run(
        [COOKIECUTTER, str(TEMPLATE), "--no-input", *arguments],
        cwd=here,
        env=environment,
        capture_output=True,
        text=True,
    )


def assert_nothing_was_made(here):
    assert list(here.parent.rglob("*")) == [here]


def assert_is_refused(output, question, answer):
    """Fail unless the first line of the output that is about an error is the one line that we write."""
    line = next(line for line in output.splitlines() if line.startswith("ERROR:") or "Traceback" in line)
    assert re.fullmatch(rf"ERROR: {question} .+; for example [\w.-]+", line), output
    assert repr(answer) in line, output


@pytest.mark.parametrize("question, answer", BAD, ids=lambda value: ascii(value)[:20])
def test_bad_answer_is_refused(here, monkeypatch, capfd, question, answer):
    monkeypatch.chdir(here)
    with pytest.raises(FailedHookException):
        bake(here.parent.parent, output_dir=here, **{question: answer})

    assert_is_refused(capfd.readouterr().err, question, answer)
    assert_nothing_was_made(here)


@pytest.mark.parametrize("question, answer", [("project", "../x"), ("project", "-rf"), ("mail_domain", "a@b.com")])
def test_bad_answer_on_the_command_line_is_refused(here, environment, question, answer):
    baking = generate(here, environment, f"{question}={answer}")

    assert baking.returncode != 0
    assert_is_refused(baking.stderr, question, answer)
    assert_nothing_was_made(here)


def test_empty_project_name_is_refused(here, environment):
    """Cookiecutter refuses that by itself."""
    baking = generate(here, environment, "project=")
    assert baking.returncode != 0
    assert_nothing_was_made(here)


def test_answer_that_is_a_template_is_refused(here, environment):
    """Cookiecutter renders answers on its command line; what comes out is judged."""
    for answer in ["{{ 7 * 7 }}", "{% for x in y %}", "{{ nothing.at.all }}", "{{"]:
        baking = generate(here, environment, f"project={answer}")
        assert baking.returncode != 0
        assert_nothing_was_made(here)


def test_bad_answer_leaves_an_existing_folder_alone(here, environment):
    (here / "mail-app").mkdir()
    (here / "mail-app" / "mine").write_text("mine")
    baking = generate(here, environment)
    assert baking.returncode != 0
    assert [path.name for path in here.rglob("*")] == ["mail-app", "mine"]


COPIED = json.loads((TEMPLATE / "cookiecutter.json").read_text())["_copy_without_render"]


@pytest.mark.parametrize("folder", [name for name in COPIED if (APPLICATION / name).is_dir()])
def test_folder_of_an_application_is_not_overwritten(here, environment, folder):
    """Told to overwrite, cookiecutter first deletes the folders that it copies whole: states, keys, own handlers."""
    mine = here / "mail-app" / folder / "mine"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")

    baking = generate(here, environment, "--overwrite-if-exists")

    assert baking.returncode != 0
    assert_is_refused(baking.stderr, "project", "mail-app")
    assert f"with {folder}/ in it" in baking.stderr
    assert [path for path in here.rglob("*") if path.is_file()] == [mine]
    assert mine.read_text() == "mine"


def test_other_folder_is_overwritten_on_request(here, environment):
    """Such as a new repository with a licence in it."""
    (here / "mail-app").mkdir()
    for name in ("LICENSE", "README.md"):
        (here / "mail-app" / name).write_text("mine")

    baking = generate(here, environment, "--overwrite-if-exists")

    assert baking.returncode == 0, baking.stderr
    assert (here / "mail-app" / "LICENSE").read_text() == "mine"
    assert "made with [Salmon]" in (here / "mail-app" / "README.md").read_text()
    assert (here / "mail-app" / "mailroom" / "room.py").exists()


@pytest.mark.parametrize(
    "project, mail_domain, refused",
    [
        ('con"x', "example.com", "project"),
        ("it's", "example.com", "project"),
        ("back\\slash", "example.com", "project"),
        ("{{ 7 * 7 }}", "example.com", "project"),
        ("{%", "example.com", "project"),
        ("app", 'exa"mple.com', "mail_domain"),
        ("app", "exa'mple.com\\", "mail_domain"),
        ("app", "{{ cookiecutter.project }}", "mail_domain"),
        ("app", "{% raw %}", "mail_domain"),
        ("app", "{# x #}", "mail_domain"),
    ],
)
def test_typed_bad_answer_is_refused(here, environment, project, mail_domain, refused):
    output, status = typed(here, environment, project, mail_domain)

    assert status != 0
    assert_is_refused(output, refused, project if refused == "project" else mail_domain)
    assert_nothing_was_made(here)


def test_typed_good_answers_are_used(here, environment):
    output, status = typed(here, environment, "news-app", "News.Example")

    assert status == 0, output
    for question in ("Project", "Mail domain", "State storage"):
        assert question in output
    assert '"MAIL_DOMAIN", "news.example"' in (here / "news-app" / "config" / "settings.py").read_text()
    assert Application(here / "news-app").address("news") == "news@news.example"


def typed(here, environment, project, mail_domain):
    """Return what cookiecutter shows to who types these answers, and its exit status."""
    child = pexpect.spawn(
        COOKIECUTTER,
        [str(TEMPLATE)],
        cwd=str(here),
        env={**environment, "TERM": "dumb"},
        encoding="utf-8",
        timeout=30,
        dimensions=(50, 500),
    )
    seen = ""
    for prompt, answer in [("(mail-app): ", project), ("(example.com): ", mail_domain), ("(1): ", "1")]:
        child.expect_exact(prompt)
        seen += child.before + child.after
        child.sendline(answer)
    child.expect(pexpect.EOF)
    child.close()
    return (seen + child.before).replace("\r", ""), child.exitstatus
