"""`SQLAlchemyStorage` keeps the contract on SQLite, PostgreSQL and MariaDB, and what its own documentation says."""

import re
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from unittest.mock import patch

import psycopg
import pymysql
import pytest
import sqlalchemy
from salmon.routing import Router
from salmon.server import SMTPError
from sqlalchemy import Column
from sqlalchemy.dialects import mysql, postgresql
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from mailroom.storage import StorageError
from mailroom.storage.sqlalchemy import SQLAlchemyStorage, _database
from mailroom.testing.contract import ALICE, BOB, KEY, in_thread, refused
from tests.mailroom.storage import ENVIRONMENT
from tests.mailroom.storage.contracts import OurSharedStorageContract, OurTablesContract
from tests.mailroom.storage.test_crashes import assert_whole, killed_again_and_again
from tests.waiting import wait_until


@pytest.fixture(scope="module")
def in_postgresql(postgresql):
    return sqlalchemy.make_url(postgresql.new_database())


@pytest.fixture(scope="module")
def in_mariadb(mariadb):
    return sqlalchemy.make_url(mariadb.new_database("mariadb"))


ENDS = {
    "commit": lambda connection: connection.commit(),
    "rollback": lambda connection: connection.rollback(),
    "begin": lambda connection: connection.begin(),
    "close": lambda connection: connection.close(),
    "commit of its transaction": lambda connection: connection.get_transaction().commit(),
    "rollback of its savepoint": lambda connection: connection.get_nested_transaction().rollback(),
    "COMMIT": lambda connection: connection.exec_driver_sql("COMMIT"),
    "ROLLBACK": lambda connection: connection.execute(sqlalchemy.text(" rollback")),
    "BEGIN": lambda connection: connection.exec_driver_sql("begin"),
}
WEEK = 7 * 24 * 3600


class Base(DeclarativeBase):
    pass


class Post(Base):
    __tablename__ = "posts"
    text: Mapped[str] = mapped_column(primary_key=True)


def storage_url(url):
    """Return the URL for SQLAlchemy itself, which has other drivers by default."""
    return sqlalchemy.make_url(url).set(drivername=_database(url, 1, 1, 1).names[0])


def text(length):
    """Return the type of a text in the table of version 0.1."""
    return (
        sqlalchemy.String(length)
        .with_variant(postgresql.VARCHAR(length, collation="C"), "postgresql")
        .with_variant(mysql.VARCHAR(length, charset="utf8mb4", collation="utf8mb4_nopad_bin"), "mariadb")
    )


def old_table():
    """Return the table of version 0.1."""
    columns = [Column("key", text(255), primary_key=True), Column("sender", text(400), primary_key=True)]
    return sqlalchemy.Table("states", sqlalchemy.MetaData(), *columns, Column("state", text(255), nullable=False))


class SQLAlchemyContract(OurSharedStorageContract, OurTablesContract):
    def execute(self, connection, sql):
        return connection.exec_driver_sql(sql)

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

    @pytest.mark.parametrize(
        "text", ["\0", "\ufdd0", "a\0b", "\ud800", "\udfff <j@x.example>", "x" * 3000, "\xe4" * 3000]
    )
    def test_a_text_that_no_database_holds_is_refused_for_good(self, storage, text):
        calls = [
            lambda: storage.get(text, ALICE),
            lambda: storage.get(KEY, text),
            lambda: storage.set(text, ALICE, "SUBSCRIBED"),
            lambda: storage.set(KEY, text, "SUBSCRIBED"),
            lambda: storage.set(KEY, ALICE, text),
            lambda: storage.set(KEY, ALICE, None),
            lambda: storage.transaction(text).__enter__(),
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
            with patch.object(storage._database, "sql", lambda statement: "no SQL"), refused(451):
                storage.get(KEY, BOB)
        assert storage.get(KEY, ALICE) == "CONFIRMING"

    @pytest.mark.parametrize("then", ["fails", "goes on"])
    def test_handler_that_ends_the_transaction_itself_keeps_no_half_of_a_mail(self, storage, posts, then):
        for end in ENDS:
            self.end_it(storage, end, then)
            kept = posts()
            if then == "goes on" and kept:
                assert kept == [f"after {end}", f"before {end}"]
                assert storage.get(KEY, ALICE) == end
                with storage.transaction() as transaction:
                    self.execute(transaction.connection, "DELETE FROM posts")
            else:
                assert kept == [], end
                assert storage.get(KEY, ALICE) != end

    def end_it(self, storage, end, then):
        """Handle a mail whose handler ends the transaction."""
        with suppress(ZeroDivisionError, StorageError), storage.transaction(ALICE) as transaction:
            storage.set(KEY, ALICE, end)
            self.write(transaction, f"before {end}")
            with suppress(RuntimeError, SQLAlchemyError):
                ENDS[end](transaction.connection)
            with suppress(StorageError, SQLAlchemyError):
                self.write(transaction, f"after {end}")
            if then == "fails":
                raise ZeroDivisionError

    @pytest.mark.parametrize("then", ["fails", "goes on"])
    def test_session_of_the_orm_commits_with_the_mail_or_not_at_all(self, storage, posts, then):
        with suppress(ZeroDivisionError), storage.transaction(ALICE) as transaction:
            storage.set(KEY, ALICE, "SUBSCRIBED")
            with Session(transaction.connection) as session:
                session.add(Post(text="kept"))
                session.commit()
                session.add(Post(text="undone"))
                session.flush()
                session.rollback()
            if then == "fails":
                raise ZeroDivisionError
        assert posts() == (["kept"] if then == "goes on" else [])
        assert storage.get(KEY, ALICE) == ("SUBSCRIBED" if then == "goes on" else "START")

    def test_connection_of_a_mail_that_has_been_handled_is_refused(self, storage, posts):
        with storage.transaction(ALICE) as ended:
            kept = ended.connection
            self.write(ended)
        with pytest.raises(RuntimeError, match="has been handled"):
            self.write(ended)
        with pytest.raises(SQLAlchemyError, match="closed"):
            kept.exec_driver_sql("INSERT INTO posts VALUES ('late')")
        assert posts() == ["hello"]

    def test_row_knows_when_its_state_changed(self, storage):
        storage.set_all([(KEY, ALICE, "CONFIRMING"), (KEY, BOB, "CONFIRMING")])
        with patch.object(time, "time", lambda: 5.5):
            storage.set_all([(KEY, ALICE, "CONFIRMING"), (KEY, BOB, "SUBSCRIBED")])
        assert storage.changed(KEY, ALICE) == pytest.approx(time.time(), abs=60)
        assert list(storage.rows())[1] == (KEY, BOB, "SUBSCRIBED", 5.5)

    def test_note_is_forgotten_after_a_week(self, storage, monkeypatch):
        def note(digest):
            with storage.transaction(ALICE) as transaction:
                assert not transaction.handled(digest)
                storage.set(KEY, ALICE, storage.get(KEY, ALICE) + "+")

        now = time.time()
        note(self.DIGEST)
        for later, is_noted in ((WEEK - 60, True), (WEEK + 2 * 3600, False)):
            monkeypatch.setattr(time, "time", lambda later=later: now + later)
            note(f"of a mail {later:9}".encode())
            assert storage.is_handled(self.DIGEST) == is_noted

    def test_tables_of_0_1_keep_their_states(self, storage, url):
        engine = sqlalchemy.create_engine(storage_url(url))
        with engine.begin() as connection:
            for table in ("states", "handled"):
                connection.exec_driver_sql(f"DROP TABLE IF EXISTS {table}")
            old_table().create(connection)
            connection.execute(old_table().insert(), {"key": KEY, "sender": ALICE, "state": "CONFIRMING"})
        engine.dispose()
        assert list(storage.rows()) == [(KEY, ALICE, "CONFIRMING", pytest.approx(time.time(), abs=60))]
        with storage.transaction(ALICE) as transaction:
            assert not transaction.handled(self.DIGEST)
            storage.set(KEY, ALICE, "SUBSCRIBED")
        assert storage.get(KEY, ALICE) == "SUBSCRIBED"
        assert storage.is_handled(self.DIGEST)


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
        storage.create_tables(lambda connection: connection.exec_driver_sql("DROP TABLE IF EXISTS posts"))
        storage.clear()
        storage.close()
        return database

    def test_deadlock_that_a_handler_hides_is_451_and_keeps_nothing(self, storage, posts):
        def handle(sender, *texts):
            with storage.transaction(sender) as transaction:
                for text in texts:
                    with suppress(SQLAlchemyError, StorageError):
                        self.execute(
                            transaction.connection,
                            f"UPDATE posts SET text = '{text} of {sender}' WHERE text = '{text}'",
                        )
                    with suppress(threading.BrokenBarrierError):
                        both_have_one.wait(30)
                    both_have_one.abort()
                with suppress(SQLAlchemyError, StorageError):
                    self.write(transaction, f"three of {sender}")
            return sender

        def answer(*arguments):
            try:
                return handle(*arguments)
            except StorageError as error:
                return error.code

        storage.create_tables(lambda connection: self.execute(connection, "CREATE INDEX posts_text ON posts (text)"))
        with storage.transaction() as transaction:
            for text in ("one", "two"):
                self.write(transaction, text)
        both_have_one = threading.Barrier(2)
        with ThreadPoolExecutor(2) as pool:
            answers = list(pool.map(answer, (ALICE, BOB), ("one", "two"), ("two", "one")))
        (winner,) = {*answers} - {451}
        assert posts() == [f"{text} of {winner}" for text in ("one", "three", "two")]

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

    def test_a_connection_that_breaks_in_a_transaction_changes_nothing(self, storage, posts, end_connections):
        for used in ("not at all", "before", "before and after"):
            with refused(451), storage.transaction(ALICE) as transaction:
                storage.set(KEY, ALICE, "SUBSCRIBED")
                if used != "not at all":
                    self.write(transaction)
                end_connections()
                if used == "before and after":
                    for _ in range(2):
                        with suppress(SQLAlchemyError, StorageError):
                            self.write(transaction, "more")
                    with suppress(StorageError):
                        storage.get(KEY, BOB)
            assert storage.get(KEY, ALICE) == "START"
            assert posts() == []
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

    def test_ten_workers_create_the_tables_once_or_migrate_those_of_0_1(self, postgresql):
        urls = [postgresql.new_database() for _ in range(3)]
        with psycopg.connect(urls[0]) as connection:
            connection.execute("CREATE TABLE states (key text, sender text, state text, PRIMARY KEY (key, sender))")
            connection.execute("INSERT INTO states SELECT 'key', n || '@b.example', 'OLD' FROM generate_series(1, 9) n")
        ran = subprocess.run(
            [sys.executable, "-c", TEN_WORKERS, *urls], env=ENVIRONMENT, capture_output=True, text=True
        )
        assert ran.returncode == 0, ran.stderr
        assert ran.stdout.split() == ["19", "10", "10"]

    @pytest.mark.parametrize("trouble", ["read-only", "locked table", "idle for too long"])
    def test_store_that_cannot_be_written_is_451_and_keeps_nothing(self, storage, posts, database, trouble):
        posts()
        with psycopg.connect(database.render_as_string(False), autocommit=True) as other:
            if trouble == "read-only":
                name = database.database
                other.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
                storage.close()
            elif trouble == "locked table":
                other.execute("BEGIN; LOCK TABLE states IN SHARE MODE")
            try:
                with refused(451), storage.transaction(ALICE) as transaction:
                    assert not transaction.handled(self.DIGEST)
                    assert storage.get(KEY, ALICE) == "START"
                    storage.set(KEY, ALICE, "SUBSCRIBED")
                    if trouble == "idle for too long":
                        connection = transaction.connection
                        number = self.execute(connection, "SELECT pg_backend_pid()").scalar()
                        connection.exec_driver_sql("SET LOCAL idle_in_transaction_session_timeout = 1")
                        is_there = "SELECT 1 FROM pg_stat_activity WHERE pid = %s"
                        wait_until(lambda: not other.execute(is_there, [number]).fetchall())
            finally:
                other.rollback()
                other.execute(f"ALTER DATABASE {database.database} RESET default_transaction_read_only")
        storage.close()
        assert storage.get(KEY, ALICE) == "START"
        assert not storage.is_handled(self.DIGEST)

    def test_own_rows_of_a_mail_that_hides_an_error_are_not_lost_with_a_250(self, storage, posts):
        with refused(451), storage.transaction(ALICE) as transaction:
            self.write(transaction)
            with suppress(SQLAlchemyError):
                self.execute(transaction.connection, "SELECT 1 / 0")
        assert posts() == []

    def test_mail_without_a_sender_lock_holds_a_connection_only_when_it_uses_one(self, storage, posts, database):
        def connections_with_another_thread():
            in_thread(storage.get, KEY, BOB)
            with psycopg.connect(database.render_as_string(False)) as connection:
                mine = "SELECT count(*) FROM pg_stat_activity WHERE datname = %s AND pid <> pg_backend_pid()"
                return connection.execute(mine, [database.database]).fetchone()[0]

        posts()
        with storage.transaction(ALICE, stateless=True) as transaction:
            assert not transaction.handled(self.DIGEST)
            storage.get(KEY, BOB)
            wait_until(lambda: connections_with_another_thread() == 1)
            self.write(transaction)
            wait_until(lambda: connections_with_another_thread() == 2)
        assert posts() == ["hello"]
        wait_until(lambda: connections_with_another_thread() == 2)  # that of the last count has ended

    def test_get_and_set_take_one_round_trip_and_a_mail_one_for_each_answer_that_it_needs(self, storage, tmp_path):
        def mail():
            with storage.transaction(ALICE) as transaction:  # the lock
                assert not transaction.handled(self.DIGEST)
                assert storage.get(KEY, ALICE) == "CONFIRMING"
                storage.set(KEY, ALICE, "SUBSCRIBED")
                transaction.send(self.MAIL, [ALICE, BOB], "<>")  # and the commit

        with storage.transaction() as transaction:
            traced = transaction.connection.connection.driver_connection.pgconn
        for work, trips in (
            (lambda: storage.set(KEY, ALICE, "CONFIRMING"), 1),
            (lambda: storage.get(KEY, ALICE), 1),
            (mail, 4),
        ):
            with open(tmp_path / "trace", "w+b") as trace:
                traced.trace(trace.fileno())
                work()
                traced.untrace()
                trace.seek(0)
                ways = "".join(re.findall(r"^\d.*\t([FB])\t", trace.read().decode(), re.MULTILINE))
            assert len(re.findall("F+", ways)) == trips, ways

    def test_state_own_row_and_note_survive_a_kill_together_or_not_at_all(self, start, storage, url):
        for acknowledged in killed_again_and_again(start, "count_rows", url.render_as_string(False)):
            assert_whole(storage, acknowledged)


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
                storage = SQLAlchemyStorage(url)
                storage.create_tables(lambda connection: connection.exec_driver_sql("CREATE TABLE IF NOT EXISTS posts (x int)"))
                storage.set("key", str(number), "SUBSCRIBED")
                status = 0
            finally:
                os._exit(status)
    os.close(all_are_there)
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * 10
    print(len(list(SQLAlchemyStorage(url))))
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


@pytest.mark.parametrize("place", ["in_postgresql", "in_mariadb"])
def test_threads_that_use_a_storage_first_at_the_same_moment_open_it_once(place, request):
    storage = SQLAlchemyStorage(request.getfixturevalue(place))
    together = threading.Barrier(8)

    def use(number):
        together.wait(10)
        return storage.get("first use", f"{number}@b.example")

    with patch.object(storage, "_prepare", wraps=storage._prepare) as prepare, ThreadPoolExecutor(8) as pool:
        assert set(pool.map(use, range(8))) == {"START"}
    storage.close()
    assert prepare.call_count == 1
