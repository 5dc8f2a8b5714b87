"""The template changes, the storage is changed, and what the owner wrote stays."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.application import Application
from tests.baking import APPLICATION, TEMPLATE, bake

ALICE = "alice@people.example"
CRUFT = str(Path(sys.executable).with_name("cruft"))


class Folder:
    """A folder under git, and the commands that a user gives in it."""

    def __init__(self, path, home):
        self.path = path
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("GIT_")},
            "HOME": str(home),
            "GIT_CONFIG_NOSYSTEM": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
            **{f"GIT_{role}_NAME": "A User" for role in ("AUTHOR", "COMMITTER")},
            **{f"GIT_{role}_EMAIL": "user@people.example" for role in ("AUTHOR", "COMMITTER")},
        }

    def run(self, *command):
        ran = subprocess.run(command, cwd=self.path, env=self.environment, capture_output=True, text=True)
        assert ran.returncode == 0, f"{command}:\n{ran.stdout}{ran.stderr}"
        return ran.stdout

    def commit(self):
        self.run("git", "add", "--all")
        self.run("git", "commit", "--quiet", "--message", "a step")

    def edit(self, name, old, new):
        text = (self.path / name).read_text()
        assert text.count(old) == 1
        (self.path / name).write_text(text.replace(old, new))

    def rejected(self):
        return [path for pattern in ("*.rej", "*.orig") for path in self.path.rglob(pattern)]


@pytest.fixture
def template(tmp_path):
    """The checkout's template as the only commit of a repository of its own."""
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=TEMPLATE, capture_output=True, text=True, check=True).stdout.split("\0")
    folder = Folder(tmp_path / "template", tmp_path)
    for name in filter(None, names):
        if (TEMPLATE / name).is_file():
            (folder.path / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(TEMPLATE / name, folder.path / name)
    folder.run("git", "init", "--quiet")
    folder.commit()
    return folder


@pytest.fixture
def create(template, tmp_path):
    """A function: `cruft create` an application with this storage, commit it, and return its folder."""

    def create(state_storage):
        answers = json.dumps({"state_storage": state_storage})
        template.run(CRUFT, "create", "-y", "--output-dir", str(tmp_path), "--extra-context", answers, template.path)
        folder = Folder(tmp_path / "mail-app", tmp_path)
        folder.run("git", "init", "--quiet")
        folder.commit()
        return folder

    return create


def own_edits(folder):
    """What owners change first: the lists, and what is done with a mail to one."""
    folder.edit("config/settings.py", '    ["news"],', '    ["news", "dev"],')
    business = "        # Your own business begins here: the subscriber wrote to the list.\n"
    folder.edit("app/handlers/subscription.py", business, business + '        message["X-Seen"] = "yes"\n')
    folder.commit()


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def assert_own_edits(folder):
    assert '    ["news", "dev"],' in (folder.path / "config" / "settings.py").read_text()
    assert 'message["X-Seen"] = "yes"' in (folder.path / "app" / "handlers" / "subscription.py").read_text()
    assert folder.rejected() == []


def test_update_replaces_mailroom_and_keeps_the_edits_of_the_owner(template, create):
    folder = create("sqlite")
    assert folder.run(CRUFT, "check")
    own_edits(folder)
    application = template.path / APPLICATION.name
    template.edit(application / "config" / "settings.py", '"REPLIES_PER_HOUR", 20', '"REPLIES_PER_HOUR", 19')
    template.edit(application / "app" / "handlers" / "subscription.py", "A list that people join", "A list people join")
    (application / "app" / "handlers" / "new.py").write_text('"""New in the template."""\n')
    (application / "mailroom" / "room.py").rename(application / "mailroom" / "chamber.py")
    template.edit(application / "mailroom" / "relay.py", "IMPLICIT_TLS = 465", "IMPLICIT_TLS = 466")
    template.commit()

    folder.run(CRUFT, "update", "-y")

    assert_own_edits(folder)
    assert '"REPLIES_PER_HOUR", 19' in (folder.path / "config" / "settings.py").read_text()
    assert "A list people join" in (folder.path / "app" / "handlers" / "subscription.py").read_text()
    assert (folder.path / "app" / "handlers" / "new.py").exists()
    assert contents(folder.path / "mailroom") == contents(application / "mailroom")
    folder.commit()
    assert folder.run(CRUFT, "check")


def test_application_of_plain_cookiecutter_is_linked_and_follows(template, tmp_path):
    bake(tmp_path, state_storage="sqlite")
    folder = Folder(tmp_path / "mail-app", tmp_path)
    folder.run("git", "init", "--quiet")
    folder.commit()
    folder.run(CRUFT, "link", "-y", template.path)
    own_edits(folder)
    template.edit(
        template.path / APPLICATION.name / "mailroom" / "relay.py", "IMPLICIT_TLS = 465", "IMPLICIT_TLS = 466"
    )
    template.commit()

    folder.run(CRUFT, "update", "-y")

    assert_own_edits(folder)
    assert "IMPLICIT_TLS = 466" in (folder.path / "mailroom" / "relay.py").read_text()


@pytest.fixture
def environment(request, sink):
    """A function: the settings for a storage that come from the environment; the signing key is the same for each."""

    def environment(state_storage):
        settings = {"RECEIVER_PORT": "0", "RELAY_HOST": sink.host, "RELAY_PORT": sink.port, "SECRET_KEY": "x" * 40}
        if state_storage == "postgresql":
            settings["STATE_DATABASE"] = request.getfixturevalue("postgresql").new_database()
        return settings

    return environment


# Each storage is left or come to once; tests/test_operate_states.py moves rows between others.
@pytest.mark.parametrize(["first", "second"], [("sqlite", "postgresql"), ("shelve", "django")])
def test_storage_is_changed_by_cruft_and_every_state_comes_along(create, sink, environment, first, second):
    folder = create(first)
    own_edits(folder)
    with Application(folder.path, **environment(first)).warmed() as app:
        app.start()
        assert app.send(ALICE, "dev-subscribe")[0] == 250
        (confirmation,) = sink.take()
        assert app.terminate() == 0
        exported = app.run("python", "operate.py", "states", "export").stdout

        folder.run(CRUFT, "update", "-y", "--variables-to-update", json.dumps({"state_storage": second}))
        app.settings = environment(second)
        imported = app.run("python", "operate.py", "states", "import", input=exported)

        assert imported.stdout == "1 rows: 1 new, 0 overwritten, 0 there already\n", imported.stderr
        assert_own_edits(folder)
        app.start()
        assert app.send(ALICE, confirmation["Reply-To"])[0] == 250
        (welcome,) = sink.take()
        assert welcome["Subject"] == "Welcome to dev"
        assert app.terminate() == 0
        tests = app.run("python", "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/test_boot.py")
        assert tests.returncode == 0, tests.stdout
