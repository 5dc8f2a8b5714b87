"""What differs between the databases that can keep the states.

A class says how a URL names it, how its driver gives up in time (time-outs are in whole seconds), how
a row is inserted or changed in one statement, how a transaction begins, and what a turn is: the lock
on a number of 64 bits by which one mail of a sender waits for another.
"""

import psycopg
from sqlalchemy import String, event
from sqlalchemy.dialects import mysql, postgresql, sqlite

from mailroom.storage.patience import within


def text(length):
    """Return the type of a column that holds at most `length` characters and compares octets.

    A collation for people would fold what is not the same, and its order changes with the
    system's C library, under the index.
    """
    return (
        String(length)
        .with_variant(postgresql.VARCHAR(length, collation="C"), "postgresql")
        .with_variant(mysql.VARCHAR(length, charset="utf8mb4", collation="utf8mb4_nopad_bin"), "mariadb")
    )


class PostgreSQL:
    """A turn is an advisory lock of the transaction; the server ends both when the worker dies."""

    names = ("postgresql+psycopg", "postgresql", "postgres")
    paramstyle = "format"
    # Whatever the server's default is: after the wait for a turn, the new state must be seen.
    begin = "BEGIN ISOLATION LEVEL READ COMMITTED"

    def arguments(self, query, connect_timeout, statement_timeout, turn_timeout):
        server = {
            "statement_timeout": statement_timeout * 1000,
            "lock_timeout": turn_timeout * 1000,
            # By these the server sees within 20 seconds that a machine has gone, and others get the turn.
            "tcp_keepalives_idle": 5,
            "tcp_keepalives_interval": 5,
            "tcp_keepalives_count": 3,
        }
        options = [*(f"-c {name}={value}" for name, value in server.items()), query.get("options", "")]
        return {"connect_timeout": connect_timeout, "options": " ".join(options)}

    def prepare(self, engine, statement_timeout):
        @event.listens_for(engine, "do_connect")
        def connect(dialect, record, arguments, options):
            connection = _Connection.connect(*arguments, **options)
            connection.answer_timeout = statement_timeout
            return connection

    def upsert(self, table):
        insert = postgresql.insert(table)
        return insert.on_conflict_do_update(index_elements=table.primary_key, set_={"state": insert.excluded.state})

    def take_turn(self, cursor, number, turn_timeout):
        try:
            cursor.execute("SELECT pg_advisory_xact_lock(%s)", [number])
        except psycopg.errors.LockNotAvailable as error:
            raise TimeoutError from error


class _Connection(psycopg.Connection):
    """Gives up by itself when the server does not answer."""

    answer_timeout = None

    def wait(self, generator, *arguments, **options):
        if self.answer_timeout:
            generator = within(self.answer_timeout, generator, psycopg.OperationalError)
        return super().wait(generator, *arguments, **options)


class MariaDB:
    """A turn is a named lock of the session, given back when the connection returns to the pool."""

    names = ("mariadb+pymysql", "mariadb")
    paramstyle = "format"
    begin = "BEGIN"

    def arguments(self, query, connect_timeout, statement_timeout, turn_timeout):
        return {
            "connect_timeout": connect_timeout,
            "read_timeout": statement_timeout,
            "write_timeout": statement_timeout,
            "init_command": f"SET tx_isolation = 'READ-COMMITTED', innodb_lock_wait_timeout = {turn_timeout}",
        }

    def prepare(self, engine, statement_timeout):
        @event.listens_for(engine, "reset")
        def give_turn_back(connection, record, state):
            connection.cursor().execute("DO RELEASE_ALL_LOCKS()")

    def upsert(self, table):
        insert = mysql.insert(table)
        return insert.on_duplicate_key_update(state=insert.inserted.state)

    def take_turn(self, cursor, number, turn_timeout):
        cursor.execute("SELECT GET_LOCK(%s, %s)", [f"turn {number}", turn_timeout])
        if cursor.fetchone()[0] != 1:
            raise TimeoutError


class SQLite:
    """For tests. A transaction is everybody's turn: SQLite has one writer at a time."""

    names = ("sqlite",)
    paramstyle = "qmark"
    begin = "BEGIN IMMEDIATE"

    def arguments(self, query, connect_timeout, statement_timeout, turn_timeout):
        return {"timeout": turn_timeout}

    def prepare(self, engine, statement_timeout):
        pass

    def upsert(self, table):
        insert = sqlite.insert(table)
        return insert.on_conflict_do_update(index_elements=table.primary_key, set_={"state": insert.excluded.state})

    def take_turn(self, cursor, number, turn_timeout):
        pass


DATABASES = (PostgreSQL(), MariaDB(), SQLite())
