"""On a real MariaDB, by SQLAlchemy and by Django, the storages keep what they promise of PostgreSQL."""

import shutil
from pathlib import Path

import pytest

from tests import mariadb
from tests.both_workers import assert_each_step_is_taken_once

pytestmark = pytest.mark.skipif(not mariadb.IS_THERE, reason=mariadb.REASON)

INNER = {"postgresql": "sqlalchemy_mariadb.py", "django": "django_on_a_server.py"}
SCHEMES = {"postgresql": "mariadb", "django": "mysql"}
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
    with open(first.folder / "config" / "__init__.py", "a") as package:
        package.write(DRIVER)
    assert_each_step_is_taken_once(first, sink, tmp_path)
