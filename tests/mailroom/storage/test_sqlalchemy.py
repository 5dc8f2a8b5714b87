"""`SQLAlchemyStorage` keeps the contract on SQLite, PostgreSQL and MariaDB, and what its own documentation says."""

import subprocess
import sys

import psycopg
import pymysql
import pytest
import sqlalchemy
from salmon.routing import Router
from salmon.server import SMTPError

from mailroom.storage.sqlalchemy import SQLAlchemyStorage
from mailroom.testing.contract import ALICE, BOB, KEY, refused
from tests.mailroom.storage import ENVIRONMENT
from tests.mailroom.storage.contracts import OurSharedStorageContract


@pytest.fixture(scope="module")
def in_postgresql(postgresql):
    return sqlalchemy.make_url(postgresql.new_database())


@pytest.fixture(scope="module")
def in_mariadb(mariadb):
    return sqlalchemy.make_url(mariadb.new_database("mariadb"))


class SQLAlchemyContract(OurSharedStorageContract):
    @pytest.fixture
    def storage(self, url):
        storage = SQLAlchemyStorage(url)
        yield storage
        storage.close()

    @pytest.fixture
    def reopen(self):
        def reopen(storage):
            storage.close()
            return SQLAlchemyStorage(storage.url)

        return reopen

    @pytest.fixture
    def other(self, storage):
        other = SQLAlchemyStorage(storage.url, lock_timeout=1)
        yield other
        other.close()

    @pytest.mark.parametrize("text", [None, "\0", "a\0b", "\ud800", "\udfff <j@x.example>", "x" * 3000, "\xe4" * 3000])
    def test_a_text_that_no_database_holds_is_refused_for_good(self, storage, text):
        calls = [
            lambda: storage.get(text, ALICE),
            lambda: storage.get(KEY, text),
            lambda: storage.set(text, ALICE, "SUBSCRIBED"),
            lambda: storage.set(KEY, text, "SUBSCRIBED"),
            lambda: storage.set(KEY, ALICE, text),
            *([] if text is None else [lambda: storage.transaction(text).__enter__()]),  # None locks nobody
        ]
        for call in calls:
            with refused(554):
                call()
        assert list(storage) == []

    def test_the_longest_texts_fit(self, storage):
        row = ("\U0001f41f" * 255, "\U0001f420" * 400, "\U0001f421" * 255)
        storage.set(*row)
        assert list(storage) == [row]

    def test_a_transaction_that_fails_changes_nothing(self, storage):
        storage.set(KEY, ALICE, "CONFIRMING")
        with pytest.raises(ZeroDivisionError), storage.transaction(ALICE):
            storage.set(KEY, ALICE, "SUBSCRIBED")
            storage.set_all([(KEY, BOB, "SUBSCRIBED")])
            assert storage.get(KEY, BOB) == "SUBSCRIBED"
            raise ZeroDivisionError
        assert list(storage) == [(KEY, ALICE, "CONFIRMING")]

    def test_a_transaction_that_hides_a_failure_of_the_database_changes_nothing(self, storage):
        storage.set(KEY, ALICE, "CONFIRMING")
        with refused(451), storage.transaction(ALICE):
            storage.set(KEY, ALICE, "SUBSCRIBED")
            with refused(451):
                storage._run(lambda connection: connection.cursor().execute("no SQL"))
        assert storage.get(KEY, ALICE) == "CONFIRMING"


class TestOnSQLite(SQLAlchemyContract):
    test_senders_do_not_wait_for_each_other = None  # SQLite has one writer at a time

    @pytest.fixture
    def url(self, tmp_path):
        return f"sqlite:///{tmp_path}/states.sqlite3"


class ServerContract(SQLAlchemyContract):
    """What holds of a server beyond that. `end_connections` ends those of the storage, as a restart does."""

    @pytest.fixture
    def url(self, database):
        storage = SQLAlchemyStorage(database)
        storage.clear()
        storage.close()
        return database

    def test_no_call_fails_after_a_restart_of_the_server(self, storage, end_connections):
        storage.open()
        for call in (
            lambda: storage.get(KEY, ALICE),
            lambda: storage.set(KEY, ALICE, "SUBSCRIBED"),
            lambda: storage.set_all([(KEY, ALICE, "SUBSCRIBED")]),
            lambda: storage.transaction(ALICE).__enter__(),
        ):
            end_connections()
            call()

    def test_a_connection_that_breaks_in_a_transaction_changes_nothing(self, storage, end_connections):
        with refused(451), storage.transaction(ALICE):
            storage.set(KEY, ALICE, "SUBSCRIBED")
            end_connections()
        assert storage.get(KEY, ALICE) == "START"
        with storage.transaction(ALICE):
            storage.set(KEY, ALICE, "CONFIRMING")
        assert storage.get(KEY, ALICE) == "CONFIRMING"


class TestOnPostgreSQL(ServerContract):
    @pytest.fixture
    def database(self, in_postgresql):
        return in_postgresql

    @pytest.fixture
    def end_connections(self, database):
        def end_connections():
            with psycopg.connect(database.render_as_string(False), autocommit=True) as connection:
                mine = (
                    "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity"
                    " WHERE datname = %s AND pid <> pg_backend_pid()"
                )
                assert connection.execute(mine, [database.database]).fetchall()

        return end_connections

    def test_ten_workers_create_one_table(self, postgresql):
        command = [sys.executable, "-c", TEN_WORKERS, *(postgresql.new_database() for _ in range(3))]
        ran = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True)
        assert ran.returncode == 0, ran.stderr


class TestOnMariaDB(ServerContract):
    @pytest.fixture
    def database(self, in_mariadb):
        return in_mariadb

    @pytest.fixture
    def end_connections(self, database):
        def end_connections():
            server = {"host": database.host, "port": database.port, "user": "mail", "password": "secret"}
            with pymysql.connect(**server) as connection, connection.cursor() as cursor:
                mine = "SELECT id FROM information_schema.processlist WHERE db = %s"
                assert cursor.execute(mine, [database.database])
                for (number,) in cursor.fetchall():
                    cursor.execute(f"KILL HARD CONNECTION {number}")

        return end_connections


TEN_WORKERS = """
import os, sys
from mailroom.storage.sqlalchemy import SQLAlchemyStorage
for url in sys.argv[1:]:
    waiting, all_are_there = os.pipe()
    children = []
    for number in range(10):
        children.append(os.fork())
        if children[-1] == 0:
            status = 1
            try:
                os.close(all_are_there)
                os.read(waiting, 1)
                SQLAlchemyStorage(url).set("key", str(number), "SUBSCRIBED")
                status = 0
            finally:
                os._exit(status)
    os.close(all_are_there)
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * 10
    assert len(list(SQLAlchemyStorage(url))) == 10
"""


@pytest.mark.parametrize(
    "url, reason",
    [
        ("postgresql://mail:secret@127.0.0.1:1/mail", "refused"),
        ("postgresql://mail@127.0.0.1:1/mail?password=secret", "refused"),
        ("postgresql://mail:sec@ret@127.0.0.1/mail", "%40"),
        ("postgresql://mail:sec:ret@127.0.0.1:x/mail", "no URL"),
        ("postgresql:/mail:secret@127.0.0.1/mail", "no URL"),
        ("oracle://mail:secret@127.0.0.1/mail", "mariadb://"),
        ("postgresql+psycopg2://mail:secret@127.0.0.1/mail", "psycopg 3"),
    ],
)
def test_a_database_that_cannot_be_used_ends_the_start_in_one_line_without_the_password(
    room, monkeypatch, tmp_path, url, reason
):
    monkeypatch.chdir(tmp_path)
    Router.STATE_STORE = SQLAlchemyStorage(url)

    with pytest.raises(SystemExit) as ended:
        room.start()

    line = ended.value.code
    assert line.startswith("ERROR: STATE_DATABASE <SQLAlchemyStorage ")
    assert reason in line
    assert "\n" not in line
    assert "sec" not in line and "ret" not in line


def test_a_database_that_cannot_be_used_is_451_at_every_call():
    storage = SQLAlchemyStorage("postgresql://mail:sec@ret@127.0.0.1/mail")
    for call in (storage.open, lambda: storage.get(KEY, ALICE), lambda: storage.transaction(ALICE).__enter__()):
        with pytest.raises(SMTPError) as refusal:
            call()
        assert refusal.value.code == 451
        assert isinstance(refusal.value.__cause__, ValueError)
