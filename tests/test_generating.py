"""Every combination of answers makes an application that is whole, clean, and passes its own tests."""

import ast
import hashlib
import importlib.metadata
import itertools
import os
import re
import subprocess
import sys

import pytest
from packaging.requirements import Requirement

from tests.application import Application
from tests.baking import STORAGES, TEMPLATE, bake, combinations

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

LABEL = "a" * 63
LONGEST_DOMAIN = f"{LABEL}.{LABEL}.{LABEL}.{'b' * 61}"
ODD_ANSWERS = [
    {"project": "a", "mail_domain": "a"},
    {"project": "A-._9", "mail_domain": "EXAMPLE.com"},
    {"project": "a" * 64, "mail_domain": LONGEST_DOMAIN},
    {"project": "If.Else-endif", "mail_domain": "xn--bcher-kva.example"},
    {"project": "app", "mail_domain": "1.2.3.4"},
    {"project": "None", "mail_domain": "localhost"},
]


def files(folder):
    """Return the files in `folder`, without what ruff and Python cached in the template meanwhile."""
    caches = {".ruff_cache", "__pycache__"}
    return sorted(path for path in folder.rglob("*") if path.is_file() and caches.isdisjoint(path.parts))


def assert_clean(folder):
    """Lint and check the format, with no cache and no settings but the folder's own."""
    for command in (["check"], ["format", "--check"]):
        ruff = subprocess.run(
            [sys.executable, "-m", "ruff", *command, "--no-cache", "."], cwd=folder, capture_output=True, text=True
        )
        assert ruff.returncode == 0, ruff.stdout


def name_of(answers):
    return "-".join(answers.values())[:70]


@pytest.fixture(params=[*combinations(), *ODD_ANSWERS], ids=name_of)
def answers(request):
    return request.param


def test_what_is_generated_is_whole_and_clean(bake, answers):
    folder = bake(**answers)

    assert folder.name == answers["project"]
    for path in files(folder):
        text = path.read_bytes()
        name = path.relative_to(folder)
        assert not text or text.endswith(b"\n") or path.suffix not in (".py", ".toml", ".md", ".msg", ".txt"), name
        assert b"\r" not in text, name
        assert b"cookiecutter" not in text or path.suffix == ".md", name
        assert re.fullmatch(r"[A-Za-z0-9._@-]+", path.name), name
        if path.suffix not in (".msg", ".html"):  # templates of the application's own
            assert not re.search(rb"\{%|^\s*# %", text, re.MULTILINE), f"{name} has Jinja that was not rendered"
        if path.suffix == ".py":
            ast.parse(text)
    assert_clean(folder)
    project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    assert project["name"] == answers["project"]
    assert f'mail_domain = "{answers["mail_domain"]}"' in (folder / "config" / "settings.py").read_text()


def test_the_conversation_in_its_readme_is_the_one_that_is_played(bake):
    folder = bake()

    assert (folder / "tests/conversations/subscribe.txt").read_text() in (folder / "README.md").read_text()


DOMAINS = itertools.cycle([LONGEST_DOMAIN, "EXAMPLE.com", "localhost"])


@pytest.mark.parametrize(
    "answers",
    [{"state_storage": storage, "mail_domain": next(DOMAINS)} for storage in STORAGES],
    ids=name_of,
)
def test_its_own_tests_pass(bake, answers):
    """Also where the environment has settings of an application that runs on the same machine."""
    leaked = {
        "MAIL_DOMAIN": "other.example",
        "LISTS": "dev",
        "RECEIVER_PROTOCOL": "smtp",
        "RECEIVER_HOST": "::1",
        "RELAY_STARTTLS": "yes",
        "REPLIES_PER_HOUR": "1",
        "MAX_MESSAGE_SIZE": "1024",
        "STATE_DATABASE": "nowhere/else",
        "SECRET_KEY": "another key, thirty-two characters and more",
        "POSTMASTER": "somebody@other.invalid",
    }
    app = Application(bake(**answers))
    environment = {**app.environment, **leaked}

    tests = app.run("python", "-m", "pytest", "-p", "no:cacheprovider", env=environment)

    assert tests.returncode == 0, tests.stdout
    assert " passed" in tests.stdout
    # Those with a server of PostgreSQL want one that they may use.
    assert "skipped" not in tests.stdout or answers.get("state_storage") == "postgresql", tests.stdout
    left = {path.name for path in [*(app.folder / "run").iterdir(), *(app.folder / "logs").iterdir()]}
    assert left == {".gitkeep"}, "its tests leave nothing behind"


def test_the_same_answers_make_the_same_files(tmp_path):
    made = []
    for number in range(2):
        (tmp_path / str(number)).mkdir()
        folder = bake(tmp_path / str(number))
        made.append({path.relative_to(folder): hashlib.sha256(path.read_bytes()).digest() for path in files(folder)})
    assert made[0] == made[1]


def test_a_choice_adds_its_own_files_only(tmp_path):
    """What differs between two storages stands in a few places: the storage, its tests, and a line here and there."""
    names = {}
    for storage in STORAGES:
        (tmp_path / storage).mkdir()
        folder = bake(tmp_path / storage, state_storage=storage)
        names[storage] = {str(path.relative_to(folder)) for path in files(folder)}
        assert "app/model/state_storage.py" in names[storage]
        assert "tests/model/test_state_storage.py" in names[storage]
        assert not (folder / "storages").exists()
        boot = (folder / "config" / "boot.py").read_text()
        assert boot.count("Router.STATE_STORE = ") == 1
    assert "app/model/turns.py" not in names["shelve"]


def test_the_sources_of_the_template_parse_as_they_stand():
    """So that an editor, a linter and a reader see what the user gets."""
    sources = [path for path in TEMPLATE.rglob("*.py") if ".venv" not in path.parts]
    assert len(sources) > 40
    for path in sources:
        ast.parse(path.read_text(), str(path))


def test_the_sources_of_the_template_are_linted():
    assert_clean(TEMPLATE)


def test_a_newer_ruff_asks_nothing_new_of_an_application(bake):
    settings = tomllib.loads((bake() / "pyproject.toml").read_text())["tool"]["ruff"]
    assert "preview" not in settings and "ALL" not in settings["lint"]["select"]
    assert {"extend-select", "E", "W", "PL"}.isdisjoint(settings["lint"]["select"]), "groups that grow"
    assert settings["target-version"] == "py310"


def test_no_project_depends_on_itself(tmp_path):
    """The hook knows every package that an application pulls in, whatever its storage."""
    hook = (TEMPLATE / "hooks" / "pre_gen_project.sh").read_text()
    refused = set(re.search(r'DEPENDENCIES="(.*?)"', hook, re.DOTALL)[1].split())
    wanted = set()
    for storage in STORAGES:
        (tmp_path / storage).mkdir()
        pyproject = tomllib.loads((bake(tmp_path / storage, state_storage=storage) / "pyproject.toml").read_text())
        wanted |= {*pyproject["project"]["dependencies"], *pyproject["dependency-groups"]["dev"]}
    assert closure(wanted) <= refused


def closure(requirements):
    """Return the normalized names of these requirements and of all that they require, as far as it is installed."""
    names = set()
    todo = [Requirement(text) for text in requirements]
    while todo:
        requirement = todo.pop()
        name = re.sub(r"[-_.]+", "-", requirement.name).lower()
        if name in names:
            continue
        names.add(name)
        try:
            children = [Requirement(text) for text in importlib.metadata.requires(name) or []]
        except importlib.metadata.PackageNotFoundError:
            continue
        for child in children:
            extras = ["", *requirement.extras]
            if child.marker is None or any(child.marker.evaluate({"extra": extra}) for extra in extras):
                todo.append(child)
    return names


def test_nothing_of_this_machine_is_in_the_template():
    names = [os.path.expanduser("~") + "/", *(f"/{folder}/" for folder in ("tmp", "root", "work"))]
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=TEMPLATE, capture_output=True, text=True, check=True)
    for name in filter(None, tracked.stdout.split("\0")):
        if name.startswith("{{cookiecutter.project}}"):
            text = (TEMPLATE / name).read_text()
            assert not any(word in text for word in names), name
