"""Runs in a baked application, against the MariaDB that TEST_DATABASE names; see `tests/test_mariadb.py`."""

import os

import pymysql
import pytest
import sqlalchemy

from app.model.state_storage import SQLAlchemyStorage
from tests.model.storage_contract import ALICE, KEY, refused
from tests.model.test_state_storage import SQLAlchemyContract

URL = sqlalchemy.make_url(os.environ["TEST_DATABASE"])


def end_connections():
    """Let the server end all connections but our own, as in a restart."""
    server = {"host": URL.host, "port": URL.port, "user": URL.username, "password": URL.password}
    with pymysql.connect(**server) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT id FROM information_schema.processlist WHERE id <> connection_id()")
        for (number,) in cursor.fetchall():
            cursor.execute(f"KILL HARD CONNECTION {number}")


class TestOnMariaDB(SQLAlchemyContract):
    @pytest.fixture
    def url(self):
        storage = SQLAlchemyStorage(URL)
        storage.clear()
        storage.close()
        return URL

    def test_a_server_that_was_restarted_is_not_noticed(self, storage):
        for call in (
            lambda: storage.get(KEY, ALICE),
            lambda: storage.set(KEY, ALICE, "SUBSCRIBED"),
            lambda: storage.set_all([(KEY, ALICE, "SUBSCRIBED")]),
            lambda: storage.conversation(ALICE).__enter__(),
        ):
            end_connections()
            call()

    def test_a_connection_that_breaks_in_a_conversation_changes_nothing(self, storage):
        with refused(451), storage.conversation(ALICE):
            storage.set(KEY, ALICE, "SUBSCRIBED")
            end_connections()
        assert storage.get(KEY, ALICE) == "START"
        with storage.conversation(ALICE):
            storage.set(KEY, ALICE, "CONFIRMING")
        assert storage.get(KEY, ALICE) == "CONFIRMING"
