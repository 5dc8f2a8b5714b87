"""Two workers on a real MariaDB, by SQLAlchemy and by Django, keep what they promise of PostgreSQL."""

import pytest

from tests.both_workers import assert_each_step_is_taken_once

SCHEMES = {"postgresql": "mariadb", "django": "mysql"}
# Where the driver is another one, its user has it under the name that Django asks for.
DRIVER = "import pymysql\npymysql.install_as_MySQLdb()\n"


@pytest.mark.parametrize("state_storage", SCHEMES)
def test_two_workers_take_each_step_once(application, mariadb, sink, tmp_path, state_storage):
    """A confirmation goes to both workers at the same time: one welcomes, the other one knows of it."""
    settings = {"STATE_DATABASE": mariadb.new_database(SCHEMES[state_storage]), "SECRET_KEY": "x" * 32}
    first = application(state_storage=state_storage, **settings)
    with open(first.folder / "config" / "__init__.py", "a") as package:
        package.write(DRIVER)
    assert_each_step_is_taken_once(first, sink, tmp_path)
