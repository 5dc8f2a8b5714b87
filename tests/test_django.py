"""The states in a Django site: in its databases, in its admin, and in a site that was there before."""

import os
import re
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests import warm
from tests.both_workers import assert_each_step_is_taken_once
from tests.browser import Browser, needs_browser
from tests.postgresql import Server
from tests.waiting import wait_until

ALICE = "alice@people.example"
BOB = "bob@people.example"
CAROL = "carol@people.example"
DAVE = "dave@people.example"
NEWS, DEV = (f"app.handlers.subscription:{name}" for name in ("news", "dev"))
ADMIN_TESTS = Path(__file__).parent / "mailroom" / "django" / "test_admin.py"
SECRET_KEY = "only for tests, but longer than 32 characters"


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request, tmp_path):
    """What STATE_DATABASE may be: an address that several workers share."""
    if request.param == "sqlite":
        return str(tmp_path / "shared.sqlite3")
    return request.getfixturevalue("postgresql").new_database()


def test_applications_with_other_storages_have_nothing_of_django(bake):
    for state_storage in ("sqlite", "shelve", "postgresql"):
        folder = bake(project=f"with-{state_storage}", state_storage=state_storage)
        assert not (folder / "webapp.py").exists()
        for path in ("pyproject.toml", "config/boot.py", "config/settings.py"):
            assert "django" not in (folder / path).read_text().lower()


def test_two_workers_take_each_step_once(application, sink, tmp_path, database):
    """A confirmation goes to both workers at the same time: one welcomes, the other one knows of it."""
    first = application(state_storage="django", STATE_DATABASE=database, SECRET_KEY=SECRET_KEY)
    assert_each_step_is_taken_once(first, sink, tmp_path)


def test_workers_that_start_at_once_create_the_table_once(application, tmp_path, database):
    app = application(state_storage="django", STATE_DATABASE=database, SECRET_KEY=SECRET_KEY)
    program = "import config.boot; from salmon.routing import Router; Router.STATE_STORE.set('key', 'sender', 'STATE')"

    with ThreadPoolExecutor(4) as pool:
        for ended in pool.map(lambda _: app.python(program), range(4)):
            assert ended.returncode == 0, ended.stderr


def test_mail_is_answered_451_while_the_database_is_down(application, sink, tmp_path):
    with Server(tmp_path) as server:
        app = application(state_storage="django", STATE_DATABASE=server.new_database(), SECRET_KEY=SECRET_KEY).start()
        assert app.send(ALICE, "news-subscribe")[0] == 250
        (confirmation,) = sink.take()
        server.kill()
        assert app.send(ALICE, confirmation["Reply-To"])[0] == 451
        assert sink.replies == []
        server.start()
        wait_until(lambda: app.send(ALICE, confirmation["Reply-To"])[0] == 250, 60)
        assert sink.take(1, 90)[0]["Subject"] == "Welcome to news"
        assert app.terminate() == 0


def test_database_that_hangs_is_answered_451(application, tmp_path):
    with Server(tmp_path) as server:
        app = application(state_storage="django", STATE_DATABASE=server.new_database(), SECRET_KEY=SECRET_KEY).start()
        assert app.send(ALICE, "news-subscribe")[0] == 250

        with server.frozen():
            for sender in (ALICE, BOB):
                started = time.monotonic()
                assert app.send(sender, "news-subscribe")[0] == 451
                assert time.monotonic() - started < 30

        wait_until(lambda: app.send(BOB, "news-subscribe")[0] == 250, 60)
        app.wait_for_log("connection timeout expired")


@pytest.mark.parametrize(
    ["address", "reason"],
    [
        ("nothing://mail:mysecret@127.0.0.1/states", "unknown"),
        ("oracle://mail:mysecret@127.0.0.1/states", "oracledb"),
        ("postgresql://mail:mysecret@127.0.0.1:1/states", "refused"),
    ],
)
def test_unusable_database_ends_the_start_with_one_line_without_its_password(application, address, reason):
    app = application(state_storage="django", STATE_DATABASE=address)

    started = app.run("salmon", "start", "--no-daemon")

    (line,) = [line for line in started.stderr.splitlines() if line.startswith("ERROR: ")]
    assert started.returncode != 0
    assert line.startswith("ERROR: STATE_DATABASE ")
    assert reason in line
    assert "mysecret" not in started.stdout + started.stderr


def test_unusable_django_site_is_named(application):
    app = application(state_storage="django", DJANGO_SETTINGS_MODULE="nowhere.settings")

    started = app.run("salmon", "start", "--no-daemon")

    assert started.returncode != 0
    assert (
        "ERROR: DJANGO_SETTINGS_MODULE 'nowhere.settings' cannot be used: No module named 'nowhere'" in started.stderr
    )


@contextmanager
def pages(app):
    """Run `webapp.py runserver` on a free port; the URL of its pages."""
    log = app.folder.with_name("pages.log")
    command = [sys.executable, "-u", "webapp.py", "runserver", "--noreload", "127.0.0.1:0"]
    with open(log, "wb") as output:
        process = subprocess.Popen(command, cwd=app.folder, env=app.environment, stdout=output, stderr=output)
    try:
        url = re.compile(r"http://127\.0\.0\.1:[1-9]\d*/")
        wait_until(lambda: url.search(log.read_text()) or process.poll(), 60, log.read_text)
        yield url.search(log.read_text())[0]
    finally:
        process.terminate()
        process.wait(30)


ACCOUNTS = """
from django.contrib.auth.models import Permission, User
User.objects.create_superuser("olga", password="a long password")
reader = User.objects.create_user("rita", password="a long password", is_staff=True)
reader.user_permissions.add(Permission.objects.get(codename="view_state"))
"""

STATE_WITHOUT_HANDLER = """
from mailroom.django.models import State
State.objects.create(key="app.handlers.subscription:news", sender="carol@people.example", state="ASKED")
"""


@needs_browser
def test_an_operator_puts_a_sender_back_to_the_start_and_repairs_the_outbox_in_a_browser(application, sink, tmp_path):
    app = application(state_storage="django", LISTS="news,dev").start()
    for sender, recipient in ((ALICE, "news-subscribe"), (ALICE, "dev-subscribe"), (BOB, "news-subscribe")):
        app.send(sender, recipient)
    app.send(BOB, sink.take(3)[2]["Reply-To"])
    sink.take()
    for command in (["migrate"], ["shell", "-c", ACCOUNTS]):
        ran = app.run("python", "webapp.py", *command)
        assert ran.returncode == 0, ran.stderr

    sink.answers[CAROL] = "451 4.7.1 Greylisted"
    sink.answers[DAVE] = "550 5.1.1 No such user"
    for sender in (CAROL, DAVE):
        app.send(sender, "news")
        app.wait_for_log(f"to {sender}: {sink.answers[sender]}")

    with pages(app) as url, Browser(tmp_path / "browser") as browser:
        log_in(browser, url, "olga")
        alice = [[ALICE, DEV, "CONFIRMING"], [ALICE, NEWS, "CONFIRMING"]]
        assert rows(browser) == [[BOB, NEWS, "SUBSCRIBED"], *alice]

        browser.follow("SUBSCRIBED (1)", "1 state")
        assert rows(browser) == [[BOB, NEWS, "SUBSCRIBED"]]
        browser.follow("Clear all filters", "3 states")
        browser.follow(":dev", "1 state")
        assert rows(browser) == [[ALICE, DEV, "CONFIRMING"]]
        browser.follow("Clear all filters", "3 states")
        browser.fill("q", "alice@")
        browser.press("#changelist-search [type=submit]", "2 states")
        assert rows(browser) == alice

        browser.follow(":news", "1 state")
        browser.tick("[name=_selected_action]")
        browser.choose("action", "Back to START")
        browser.press("[name=index]", f"{ALICE}, CONFIRMING ({NEWS})")
        browser.press("#content [type=submit]", "Back to START: 1.")

        browser.follow("Mail", "Mails in the outbox")
        browser.follow("Mails in the outbox", "2 mails in the outbox")
        assert rows(browser, "recipient", "last_answer") == [
            [CAROL, "451 4.7.1 Greylisted"],
            [DAVE, "550 5.1.1 No such user"],
        ]
        assert browser.texts(".mail-states-trouble") == ["never: refused for good", "550 5.1.1 No such user"]
        del sink.answers[DAVE]
        browser.follow("Refused for good", "1 mail in the outbox")
        browser.tick("[name=_selected_action]")
        browser.choose("action", "Retry now")
        browser.press("[name=index]", "Due now: 1.")
        assert sink.take()[0].recipients == (DAVE,)
        browser.open(f"{url}admin/mail_states/outbox/?q=carol")
        browser.tick("[name=_selected_action]")
        browser.choose("action", "Drop")
        browser.press("[name=index]", "Nobody gets it.")
        browser.press("#content [type=submit]", "Dropped: 1.")

        ran = app.run("python", "webapp.py", "shell", "-c", STATE_WITHOUT_HANDLER)
        assert ran.returncode == 0, ran.stderr
        log_in(browser, url, "rita")
        assert rows(browser) == [
            ["carol@people.example", NEWS, "ASKED: no handler"],
            [BOB, NEWS, "SUBSCRIBED"],
            [ALICE, DEV, "CONFIRMING"],
        ]
        assert "ASKED: no handler (1)" in browser.texts("#changelist-filter li")
        assert browser.texts("[name=action]") == [], "who may only look has no action"

    app.send(ALICE, "news")
    assert sink.take()[0]["Subject"] == "You are not subscribed to news"
    app.send(BOB, "news")
    assert sink.take()[0]["Subject"] == "Your mail to news has arrived"
    assert "0 in all" in app.run("python", "operate.py", "outbox").stdout


def log_in(browser, url, user):
    browser.driver.delete_all_cookies()
    browser.open(url)
    browser.fill("username", user)
    browser.fill("password", "a long password")
    browser.press("[type=submit]", "States of the senders")


def rows(browser, *columns):
    """Return what the page shows of each row, by default sender, key and state."""
    columns = columns or ("sender", "key", "state_")
    return [list(row) for row in zip(*(browser.texts(f"tbody .field-{column}") for column in columns), strict=True)]


SITE = """
import router
AUTH_USER_MODEL = "people.Person"
DATABASES["mail"] = {"ENGINE": "django.db.backends.sqlite3", "NAME": BASE_DIR / "mail.sqlite3"}
DATABASE_ROUTERS = [router.Router()]
USE_TZ = False
SECURE_SSL_REDIRECT = True
"""
ROUTER = """
class Router:
    def db_for_read(self, model, **hints):
        return "mail" if model._meta.app_label in ("mail_states", "app") else None

    db_for_write = db_for_read

    def allow_migrate(self, db, app_label, **hints):
        return (db == "mail") == (app_label in ("mail_states", "app"))
"""
PERSON = """
from django.contrib.auth.models import AbstractUser

class Person(AbstractUser):
    pass
"""


@pytest.mark.parametrize("kind", ["as Django starts it", "with its own users, and the states in a database of theirs"])
def test_existing_django_site_gets_the_states(application, sink, tmp_path, kind):
    """The steps of the README: install, migrate, and let the mail application use the site."""
    app = application(state_storage="django")
    (app.folder / "webapp.py").unlink()
    (app.folder / "tests" / "test_boot.py").unlink()
    site = tmp_path / "site"
    site.mkdir()

    def manage(*command):
        environment = {name: value for name, value in os.environ.items() if name != "DJANGO_SETTINGS_MODULE"}
        environment["PYTHONPATH"] = str(app.folder)
        ran = warm.run([sys.executable, "manage.py", *command], site, environment)
        assert ran.returncode == 0, ran.stderr
        return ran.stdout

    subprocess.run([sys.executable, "-m", "django", "startproject", "shop", site], check=True)
    settings = site / "shop" / "settings.py"
    settings.write_text(
        settings.read_text().replace("INSTALLED_APPS = [", 'INSTALLED_APPS = [\n    "mailroom.django",\n    "app",')
    )
    app.settings.update(PYTHONPATH=site, DJANGO_SETTINGS_MODULE="shop.settings")

    databases = ["default"]
    if "users" in kind:
        databases.append("mail")
        people = site / "people"
        people.mkdir()
        (people / "__init__.py").touch()
        (people / "models.py").write_text(PERSON)
        (site / "router.py").write_text(ROUTER)
        settings.write_text(settings.read_text().replace('"mailroom.django",', '"mailroom.django", "people",') + SITE)
        manage("makemigrations", "people")
    for database in databases:
        manage("migrate", "--database", database)
    app.start()
    app.send(ALICE, "news-subscribe")
    sink.take()

    shown = manage("shell", "-c", "from mailroom.django.models import State; print(State.objects.get().sender)")
    assert ALICE in shown
    manage("makemigrations", "--check", "--dry-run")
    manage("check", "--fail-level", "WARNING")
    shutil.copy(ADMIN_TESTS, site)
    manage("test", "test_admin")
    assert app.terminate() == 0
    tested = app.run("python", "-m", "pytest", "-q", "tests/test_archive.py")
    assert tested.returncode == 0, tested.stdout
