"""Runs in a baked application, against the MariaDB that TEST_DATABASE names; see `tests/test_mariadb.py`."""

import os

import pymysql
import pytest
import sqlalchemy

from app.model.state_storage import SQLAlchemyStorage
from tests.model.test_state_storage import ServerContract

URL = sqlalchemy.make_url(os.environ["TEST_DATABASE"])


class TestOnMariaDB(ServerContract):
    @pytest.fixture
    def url(self):
        storage = SQLAlchemyStorage(URL)
        storage.clear()
        storage.close()
        return URL

    @pytest.fixture
    def end_connections(self):
        def end_connections():
            server = {"host": URL.host, "port": URL.port, "user": URL.username, "password": URL.password}
            with pymysql.connect(**server) as connection, connection.cursor() as cursor:
                cursor.execute("SELECT id FROM information_schema.processlist WHERE id <> connection_id()")
                for (number,) in cursor.fetchall():
                    cursor.execute(f"KILL HARD CONNECTION {number}")

        return end_connections
