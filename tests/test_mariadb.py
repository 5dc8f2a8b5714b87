"""On a real MariaDB, by SQLAlchemy and by Django, the storages keep what they promise of PostgreSQL."""

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests import mariadb
from tests.waiting import wait_until

pytestmark = pytest.mark.skipif(not mariadb.IS_THERE, reason=mariadb.REASON)

INNER = {"postgresql": "sqlalchemy_mariadb.py", "django": "django_mariadb.py"}
SCHEMES = {"postgresql": "mariadb", "django": "mysql"}
ALICE = "alice@people.example"
# Where the driver is another one, its user has it under the name that Django asks for.
DRIVER = "import pymysql\npymysql.install_as_MySQLdb()\n"


@pytest.fixture(scope="module")
def server():
    with mariadb.Server() as server:
        yield server


@pytest.fixture(params=INNER)
def state_storage(request):
    return request.param


def test_it_keeps_the_contract(application, server, state_storage):
    app = application(state_storage=state_storage, TEST_DATABASE=server.new_database(SCHEMES[state_storage]))
    shutil.copy(Path(__file__).with_name(INNER[state_storage]), app.folder / "tests" / "model" / "test_on_mariadb.py")

    tested = app.run("python", "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/model/test_on_mariadb.py")

    assert tested.returncode == 0, tested.stdout
    assert " passed" in tested.stdout


def test_two_workers_take_each_step_once(application, server, sink, tmp_path, state_storage):
    """A confirmation goes to both workers at the same time: one welcomes, the other one knows of it."""
    settings = {"STATE_DATABASE": server.new_database(SCHEMES[state_storage]), "SECRET_KEY": "x" * 32}
    first = application(state_storage=state_storage, **settings)
    boot = first.folder / "config" / "__init__.py"
    boot.write_text(boot.read_text() + DRIVER)
    workers = [first.copy(tmp_path / f"worker-{number}") for number in range(2)]
    senders = [f"{number}@people.example" for number in range(12)]

    def send_until_taken(worker, sender, recipient):
        wait_until(lambda: worker.send(sender, recipient)[0] == 250, 60)

    with workers[0].start() as one, workers[1].start() as other, ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda sender: send_until_taken(one, sender, "news-subscribe"), senders))
        addresses = {reply.recipients[0]: reply["Reply-To"] for reply in sink.take(len(senders))}
        both = [(worker, sender, addresses[sender]) for sender in senders for worker in (one, other)]
        list(pool.map(lambda mail: send_until_taken(*mail), both))
        subjects = [reply["Subject"] for reply in sink.take(2 * len(senders))]
        kept = one.python(
            "import config.boot; from salmon.routing import Router; print(*Router.STATE_STORE, sep='\\n')"
        )
    assert sorted(subjects) == sorted(["Welcome to news", "You are subscribed to news already"] * len(senders))
    assert kept.stdout.count("'SUBSCRIBED'") == len(senders), kept.stderr
