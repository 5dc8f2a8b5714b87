"""What differs between the databases that `SQLAlchemyStorage` can use.

A class says how a URL names the database, how its driver gives up in time (time-outs are in seconds), what it makes
of the SQL for SQLite, and how a transaction begins and locks a sender, by a number of 64 bits.
"""

import re
from contextlib import nullcontext
from typing import Any

from sqlalchemy import URL, Engine, event

from mailroom.storage import Transaction
from mailroom.storage.servers import limit_waiting, mariadb, postgresql_begin, postgresql_limits

DEADLOCK = 1213  # in MariaDB: everything was rolled back, and what came next would be committed at once


class PostgreSQL:
    """The lock is an advisory one of the transaction; the server ends both when the worker dies."""

    names: tuple[str, ...] = ("postgresql+psycopg", "postgresql", "postgres")
    # Texts are compared octet by octet: a collation for people would fold what is not the same, and its order changes
    # with the system's C library, under the index.
    types = {
        r"VARCHAR.*?\)|TEXT": r'\g<0> COLLATE "C"',
        "REAL": "DOUBLE PRECISION",
        "BLOB": "BYTEA",
        "INTEGER": "BIGINT",
    }
    is_in_memory = False
    limits_sessions = False  # a session has limits that end its waiting, else a transaction

    def __init__(self, url: URL, connect_timeout: float, statement_timeout: float, lock_timeout: float) -> None:
        self.url = url.set(drivername=self.names[0])
        self.connect_timeout = connect_timeout
        self.statement_timeout = statement_timeout
        self.lock_timeout = lock_timeout
        self.limits = postgresql_limits(statement_timeout, lock_timeout, url.query.get("options"))

    def sql(self, statement: str) -> str:
        """Return what this database makes of a statement in the SQL of SQLite."""
        return statement.replace("?", "%s")

    def with_types(self, statement: str) -> str:
        """Return such a statement, which names types of columns, with those of this database."""
        for name, ours in self.types.items():
            statement = re.sub(name, ours, statement)
        return self.sql(statement)

    def arguments(self) -> dict[str, Any]:
        """Return what the driver gets to connect."""
        self.prepare_threshold = self.url.query.get("prepare_threshold")  # psycopg wants it as a number, or None
        self.url = self.url.difference_update_query(["prepare_threshold"])
        return {} if "connect_timeout" in self.url.query else {"connect_timeout": self.connect_timeout}

    def listen(self, engine: Engine) -> None:
        """Listen to the connections of the engine."""

        @event.listens_for(engine, "connect", insert=True)
        def prepare(connection: Any, record: Any) -> None:
            limit_waiting(connection, self.statement_timeout)
            connection.autocommit = True
            # A pooler such as PgBouncer has numbers of its own. With it a connection moves to another session
            # between two transactions, which has other limits and has not prepared its statements.
            (number,) = connection.execute("SELECT pg_backend_pid()").fetchone()
            self.limits_sessions = number == connection.info.backend_pid
            if self.limits_sessions:
                connection.execute("; ".join(f"SET {limit}" for limit in self.limits))
            threshold: Any = connection.prepare_threshold if self.limits_sessions else "None"
            threshold = self.prepare_threshold or threshold
            connection.prepare_threshold = None if threshold == "None" else int(threshold)

    def begin(self, connection: Any, number: int | None, here: Transaction) -> None:
        """Begin a transaction, and lock this number until it ends; raise `TimeoutError` after `lock_timeout`."""
        # Whatever the server's default is: after the wait for a lock, the new state must be seen.
        begin = ["BEGIN ISOLATION LEVEL READ COMMITTED"]
        if not here.durable:
            begin.append("SET LOCAL synchronous_commit = off")
        if not self.limits_sessions:
            begin += [f"SET LOCAL {limit}" for limit in self.limits]
        postgresql_begin(connection.cursor(), begin, number, here.waits, prepare=False)

    def together(self, connection: Any) -> Any:
        """Return a context whose statements take one round trip, as far as nobody asks for their results."""
        return connection.driver_connection.pipeline()


class MariaDB(PostgreSQL):
    """The lock is a named one of the session, released when the connection returns to the pool."""

    together: Any = nullcontext
    names: tuple[str, ...] = ("mariadb+pymysql", "mariadb")
    types = {
        r"VARCHAR.*?\)|TEXT": r"\g<0> CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin",
        "REAL": "DOUBLE",
        "BLOB": "LONGBLOB",
        "INTEGER": "BIGINT",
    }

    def sql(self, statement: str) -> str:
        return super().sql(mariadb(statement))

    def arguments(self) -> dict[str, Any]:
        limits: dict[str, Any] = {
            "connect_timeout": self.connect_timeout,
            "read_timeout": self.statement_timeout,
            "write_timeout": self.statement_timeout,
            "init_command": f"SET tx_isolation = 'READ-COMMITTED', innodb_lock_wait_timeout = {self.lock_timeout}",
        }
        if self.url.host in (None, "localhost", "127.0.0.1", "::1") and "ssl" not in str(self.url.query):
            limits["ssl_disabled"] = True  # for each connection, PyMySQL loads all certificates, which takes 0.1 s
        return {name: value for name, value in limits.items() if name not in self.url.query}

    def listen(self, engine: Engine) -> None:
        @event.listens_for(engine, "reset")
        def release(connection: Any, record: Any, state: Any) -> None:
            connection.cursor().execute("DO RELEASE_ALL_LOCKS()")

        @event.listens_for(engine, "handle_error")
        def give_up(context: Any) -> None:
            if context.original_exception.args[:1] == (DEADLOCK,):
                context.is_disconnect, context.invalidate_pool_on_disconnect = True, False

    def begin(self, connection: Any, number: int | None, here: Transaction) -> None:
        cursor, wait = connection.cursor(), self.lock_timeout if here.waits else 0
        if getattr(cursor.connection, "lock_wait", self.lock_timeout) != wait:
            cursor.execute("SET innodb_lock_wait_timeout = %s", [wait])
            cursor.connection.lock_wait = wait
        if number is not None:
            cursor.execute("SELECT GET_LOCK(%s, %s)", [f"mailroom {number}", wait])
            if cursor.fetchone()[0] != 1:
                raise TimeoutError
        cursor.execute("BEGIN")


class SQLite(MariaDB):
    """For tests. A transaction locks every sender: SQLite has one writer at a time."""

    names: tuple[str, ...] = ("sqlite",)
    types = {}

    def sql(self, statement: str) -> str:
        return statement

    def arguments(self) -> dict[str, Any]:
        self.is_in_memory = self.url.database in (None, "", ":memory:")
        return {"timeout": self.lock_timeout, "check_same_thread": False}

    def listen(self, engine: Engine) -> None:
        pass

    def begin(self, connection: Any, number: int | None, here: Transaction) -> None:
        connection.cursor().execute("BEGIN IMMEDIATE")


DATABASES = (PostgreSQL, MariaDB, SQLite)
