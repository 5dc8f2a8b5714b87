"""What differs between the databases that `SQLAlchemyStorage` can use.

A class says how a URL names the database, how its driver gives up in time (time-outs are in seconds), how a row is
inserted or updated in one statement, and how a transaction begins and locks a sender, by a number of 64 bits.
"""

from typing import Any

from sqlalchemy import URL, Engine, Insert, String, Table, event, func
from sqlalchemy.dialects import mysql, postgresql, sqlite

from mailroom.storage.servers import is_pooled, limit_waiting, limits_in_postgresql

DEADLOCK = 1213  # in MariaDB: everything was rolled back, and what came next would be committed at once


def text(length: int) -> String:
    """Return the type of a column that holds at most `length` characters and compares octets.

    A collation for people would fold what is not the same, and its order changes with the
    system's C library, under the index.
    """
    return (
        String(length)
        .with_variant(postgresql.VARCHAR(length, collation="C"), "postgresql")
        .with_variant(mysql.VARCHAR(length, charset="utf8mb4", collation="utf8mb4_nopad_bin"), "mariadb")
    )


class Database:
    """One kind of database, with the `url` as SQLAlchemy wants it."""

    names: tuple[str, ...]
    paramstyle = "format"
    insert: Any = staticmethod(postgresql.insert)
    is_in_memory = False

    def __init__(self, url: URL, connect_timeout: float, statement_timeout: float, lock_timeout: float) -> None:
        self.url = url.set(drivername=self.names[0])
        self.connect_timeout = connect_timeout
        self.statement_timeout = statement_timeout
        self.lock_timeout = lock_timeout

    def options(self) -> dict[str, Any]:
        """Return what the driver gets to connect."""
        raise NotImplementedError

    def prepare(self, engine: Engine) -> None:
        """Listen to the connections of the engine."""

    def upsert(self, table: Table) -> Any:
        """Return a statement that leaves a row that has this state already as it is."""
        insert = self.insert(table)
        new = {"state": insert.excluded.state, "changed": insert.excluded.changed}
        return insert.on_conflict_do_update(
            index_elements=table.primary_key, set_=new, where=table.c.state != insert.excluded.state
        )

    def begin(self, cursor: Any, number: int | None) -> None:
        """Begin a transaction, and lock this number until it ends; raise `TimeoutError` after `lock_timeout`."""
        raise NotImplementedError


class PostgreSQL(Database):
    """The lock is an advisory one of the transaction; the server ends both when the worker dies."""

    names = ("postgresql+psycopg", "postgresql", "postgres")

    def options(self) -> dict[str, Any]:
        self.prepare_threshold = self.url.query.get("prepare_threshold")  # psycopg wants it as a number, or None
        self.url = self.url.difference_update_query(["prepare_threshold"])
        return {} if "connect_timeout" in self.url.query else {"connect_timeout": self.connect_timeout}

    def prepare(self, engine: Engine) -> None:
        @event.listens_for(engine, "connect", insert=True)
        def prepare(connection: Any, record: Any) -> None:
            limit_waiting(connection, self.statement_timeout)
            connection.autocommit = True
            if self.prepare_threshold is None and is_pooled(connection) or self.prepare_threshold == "None":
                connection.prepare_threshold = None
            elif self.prepare_threshold is not None:
                connection.prepare_threshold = int(str(self.prepare_threshold))

    def begin(self, cursor: Any, number: int | None) -> None:
        options = str(self.url.query.get("options"))
        limits = limits_in_postgresql(self.statement_timeout, self.lock_timeout, options)
        # Whatever the server's default is: after the wait for a lock, the new state must be seen.
        begin = ["BEGIN ISOLATION LEVEL READ COMMITTED", *limits]
        if number is not None:
            begin.append(f"SELECT pg_advisory_xact_lock({number})")
        try:
            cursor.execute("; ".join(begin))
        except Exception as error:
            if type(error).__name__ == "LockNotAvailable":
                raise TimeoutError from error
            raise


class MariaDB(Database):
    """The lock is a named one of the session, released when the connection returns to the pool."""

    names = ("mariadb+pymysql", "mariadb")

    def options(self) -> dict[str, Any]:
        limits = {
            "connect_timeout": self.connect_timeout,
            "read_timeout": self.statement_timeout,
            "write_timeout": self.statement_timeout,
            "init_command": f"SET tx_isolation = 'READ-COMMITTED', innodb_lock_wait_timeout = {self.lock_timeout}",
        }
        return {name: value for name, value in limits.items() if name not in self.url.query}

    def prepare(self, engine: Engine) -> None:
        @event.listens_for(engine, "reset")
        def release(connection: Any, record: Any, state: Any) -> None:
            connection.cursor().execute("DO RELEASE_ALL_LOCKS()")

        @event.listens_for(engine, "handle_error")
        def give_up(context: Any) -> None:
            if context.original_exception.args[:1] == (DEADLOCK,):
                context.is_disconnect, context.invalidate_pool_on_disconnect = True, False

    def upsert(self, table: Table) -> Insert:
        insert = mysql.insert(table)
        old, new = table.c, insert.inserted
        changed = func.if_(old.state == new.state, old.changed, new.changed)
        return insert.on_duplicate_key_update([("changed", changed), ("state", new.state)])  # in this order

    def begin(self, cursor: Any, number: int | None) -> None:
        if number is not None:
            cursor.execute("SELECT GET_LOCK(%s, %s)", [f"mailroom {number}", self.lock_timeout])
            if cursor.fetchone()[0] != 1:
                raise TimeoutError
        cursor.execute("BEGIN")


class SQLite(Database):
    """For tests. A transaction locks every sender: SQLite has one writer at a time."""

    names = ("sqlite",)
    paramstyle = "qmark"
    insert = staticmethod(sqlite.insert)

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.is_in_memory = self.url.database in (None, "", ":memory:")

    def options(self) -> dict[str, Any]:
        return {"timeout": self.lock_timeout, "check_same_thread": False}

    def begin(self, cursor: Any, number: int | None) -> None:
        cursor.execute("BEGIN IMMEDIATE")


DATABASES = (PostgreSQL, MariaDB, SQLite)
