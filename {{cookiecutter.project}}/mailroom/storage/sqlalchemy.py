"""States and own tables in a database server, for any number of machines.

SQLAlchemy finds the driver and keeps the connections. Our own statements then go to the driver itself: to pass
them through SQLAlchemy takes longer than the server needs for a `get`.
"""

import os
import re
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import sqlalchemy
from sqlalchemy import URL, Connection, Engine, event
from sqlalchemy.exc import InvalidRequestError, SQLAlchemyError
from sqlalchemy.pool import StaticPool

from mailroom.settings import PASSWORD_IN_URL
from mailroom.storage import StorageError, Tables, Transaction, current, failing, is_locked, servers
from mailroom.storage.locks import lock_number
from mailroom.storage.tables import ADD_CHANGED, COLUMNS, TableStorage

PREPARE_PATIENCE = 60  # seconds, while other workers create the tables
DEADLOCK = 1213  # in MariaDB: everything was rolled back, and what came next would be committed at once


class SQLAlchemyStorage(TableStorage):
    """States and own tables in the database at `url`; what is missing there is created at the first use.

    `url` is one of SQLAlchemy's, for PostgreSQL by psycopg 3, MariaDB or, for tests, SQLite. The time-outs are in whole
    seconds: to connect, for each statement, and for the lock of a sender. A handler's connection is a `Connection`.
    """

    _engine: Any = None

    def __init__(
        self,
        url: str,
        protected: bool = False,
        connect_timeout: int = 3,
        statement_timeout: int = 5,
        lock_timeout: int = 2,
    ) -> None:
        self.url = url
        self.protected = protected
        self.timeouts = connect_timeout, statement_timeout, lock_timeout
        self._shown = PASSWORD_IN_URL.sub("***", str(url))
        self._tables: list[Tables] = []
        self._opening = threading.RLock()
        self._idle: dict[int, Any] = {}  # 0: a connection of the pool, which takes longer to lend one than a `get`

    def open(self) -> None:
        if not self._is_open:
            with failing(Exception), self._opening:  # whatever a driver makes of a URL
                if self._engine is None:
                    self._connect()
                if not self._is_open:
                    self._prepare()

    def close(self) -> None:
        if idle := self._idle.pop(0, None):
            idle.close()
        if self._engine is not None:
            self._engine.dispose()

    def in_memory(self) -> "SQLAlchemyStorage":
        return SQLAlchemyStorage("sqlite://")

    def clear(self) -> None:
        """Forget every state and note; in a database in memory, everything."""
        self.open()
        if self._database.is_in_memory:
            self.close()
            self._is_open = False
        else:
            super().clear()

    def set(self, key: str | None, sender: str | None, state: str) -> None:
        self.open()
        if self._database.limits_sessions and not self._joined():
            statement, row = self._change(key, sender, state)  # which is a transaction by itself
            self._at_once(lambda pooled, *values: servers.run(pooled.cursor(), *values), statement, [row])
        else:
            super().set(key, sender, state)

    def fetch(self, sql: str, parameters: Sequence[Any] = ()) -> list[Any]:
        self.open()
        here = current()
        connected = here and getattr(here.storage, "database", here.storage) is self and here.connected
        if not connected:
            return list(self._at_once(_fetch, sql, parameters))
        with self._failing():
            try:
                return list(_fetch(connected, self._database.sql(sql), parameters))
            except BaseException:
                if connected.is_valid:
                    connected.invalidate()  # nothing more happens in this transaction
                raise

    def execute(self, here: Transaction, sql: str, *rows: Sequence[Any]) -> None:
        with self._failing():
            here.has_written |= servers.run(here.connected.cursor(), self._database.sql(sql), rows)

    @contextmanager
    def lock(self, here: Transaction) -> Iterator[None]:
        """Lock the sender within the transaction of the database, which begins here or at the first use."""
        self.open()
        if here.locked is not None:
            self.begin(here, lock_number(self.cells("", here.locked)[1]))
        yield

    def begin(self, here: Transaction, number: int | None = None) -> None:
        if here.connected is None:
            here.connected, _ = self._first_use(self._database.begin, number, here)

    def connection(self, here: Transaction) -> Connection:
        """Return a `Connection` in a savepoint: a `Session` can be bound to it, and commits nothing."""
        self.begin(here)
        if here.savepoint is None:
            with self._failing():
                here.savepoint = Connection(self._engine, here.connected).begin_nested()
        connection: Connection = here.savepoint.connection
        if connection.invalidated or not here.savepoint.is_active:
            raise StorageError from InvalidRequestError("the database has rolled this transaction back")
        return connection

    def commit(self, here: Transaction) -> None:
        if here.changes() or here.has_written or here.outgoing:
            self.begin(here)
        if here.connected is not None:
            with self._failing():
                if here.savepoint is not None:
                    here.savepoint.commit()  # it fails where the database, or the handler, has ended the transaction
                with self._database.together(here.connected):
                    self.keep(here)
                    here.connected.cursor().execute("COMMIT")
                self._end(here)

    def rollback(self, here: Transaction) -> None:
        if here.connected is not None:
            try:
                here.connected.rollback()  # of the driver: after a commit that was refused, SQLAlchemy does none
            except Exception:
                if here.connected.is_valid:
                    here.connected.invalidate()
            self._end(here)

    def _end(self, here: Transaction) -> None:
        used = here.connected if here.savepoint is None else here.savepoint.connection
        here.connected = here.savepoint = None
        used.close()

    def _connect(self) -> None:
        database = self._database = _database(self.url, *self.timeouts)
        arguments = database.arguments()
        pool: Any = {"poolclass": StaticPool} if database.is_in_memory else {"max_overflow": -1}  # threads
        engine = sqlalchemy.create_engine(database.url, isolation_level="AUTOCOMMIT", connect_args=arguments, **pool)
        database.listen(engine)
        for name in ("commit", "rollback", "before_cursor_execute"):
            event.listen(engine, name, _before)
        event.listen(engine, "after_cursor_execute", _after)
        self._engine = engine
        _storages.add(self)

    def _prepare(self) -> None:
        """Create what is missing, or add it to the tables of version 0.1. Other workers may start at the same moment."""
        here, deadline = Transaction(self, None, False), time.monotonic() + PREPARE_PATIENCE
        while here.connected is None:
            try:
                self.begin(here, lock_number("the tables"))
            except StorageError as error:
                if not is_locked(error) or time.monotonic() > deadline:
                    raise
        with Connection(self._engine, here.connected) as connection:
            inspector, with_types = sqlalchemy.inspect(connection), self._database.with_types
            for name, columns in COLUMNS.items():
                if not inspector.has_table(name):
                    connection.exec_driver_sql(with_types(f"CREATE TABLE {name} ({columns})"))
                    if name == "handled":  # so that who forgets old ones does not wait for new ones
                        connection.exec_driver_sql("CREATE INDEX handled_at ON handled (at)")
            if "changed" not in [column["name"] for column in inspector.get_columns("states")]:
                connection.exec_driver_sql(with_types(ADD_CHANGED.format(time.time())))
            for tables in self._tables:
                tables(connection)
            connection.commit()
        self._is_open = True

    def _at_once(self, work: Callable[..., Any], sql: str, values: Sequence[Any]) -> Any:
        """Execute a statement that is a transaction by itself."""
        pooled, result = self._first_use(work, self._database.sql(sql), values)
        if self._idle.setdefault(0, pooled) is not pooled:
            pooled.close()
        return result

    def _first_use(self, work: Callable[..., Any], *arguments: Any) -> tuple[Any, Any]:
        """Return a connection of the pool, and `work(connection, *arguments)` as its first use.

        That the server closed a connection in the meantime, for a restart, shows at this use only.
        Nothing has happened then, or nothing that may not happen twice: try again on a new one.
        """
        is_last = False
        while True:
            pooled: Any = None
            try:
                pooled = self._idle.pop(0, None) or self._engine.raw_connection()
                return pooled, work(pooled, *arguments)
            except BaseException as error:
                with self._failing():
                    if pooled is None:
                        raise
                    is_closed = self._engine.dialect.is_disconnect(error, pooled.driver_connection, None)
                    if is_closed:
                        pooled.invalidate()
                    pooled.close()
                    if not is_closed or is_last:
                        raise
                    self.close()
                    is_last = True

    def _failing(self) -> AbstractContextManager[None]:
        return failing(Exception, self._engine.dialect.loaded_dbapi.DataError)


class PostgreSQL:
    """What differs between databases, here of PostgreSQL: URL, time-outs in seconds, SQL, begin and lock of a transaction.

    The lock, by a number of 64 bits, is an advisory one of the transaction; the server ends both when the worker dies.
    """

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

    def __init__(self, url: URL, *timeouts: int) -> None:
        self.url = url.set(drivername=self.names[0])
        self.connect_timeout, self.statement_timeout, self.lock_timeout = timeouts
        self.limits = servers.postgresql_limits(self.statement_timeout, self.lock_timeout, url.query.get("options"))

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
            servers.limit_waiting(connection, self.statement_timeout)
            connection.autocommit = True
            # A pooler such as PgBouncer has numbers of its own. With it a connection moves to another session
            # between two transactions, which has other limits and has not prepared its statements.
            (number,) = connection.execute("SELECT pg_backend_pid()").fetchone()
            self.limits_sessions = number == connection.info.backend_pid
            if self.limits_sessions:
                connection.execute("; ".join(f"SET {limit}" for limit in self.limits))
            threshold: Any = self.prepare_threshold or (
                connection.prepare_threshold if self.limits_sessions else "None"
            )
            connection.prepare_threshold = None if threshold == "None" else int(threshold)

    def begin(self, connection: Any, number: int | None, here: Transaction) -> None:
        """Begin a transaction, and lock this number until it ends; raise `TimeoutError` after `lock_timeout`."""
        # Whatever the server's default is: after the wait for a lock, the new state must be seen.
        begin = ["BEGIN ISOLATION LEVEL READ COMMITTED"]
        if not here.durable:
            begin.append("SET LOCAL synchronous_commit = off")
        if not self.limits_sessions:
            begin += [f"SET LOCAL {limit}" for limit in self.limits]
        servers.postgresql_begin(connection.cursor(), begin, number, here.waits, prepare=False)

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
        return super().sql(servers.mariadb(statement))

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


def _fetch(pooled: Any, sql: str, parameters: Sequence[Any]) -> Any:
    cursor = pooled.cursor()
    cursor.execute(sql, parameters)
    return cursor.fetchall()


def _before(connection: Connection, cursor: Any = None, statement: str = "COMMIT", *arguments: Any) -> None:
    if _mail(connection):
        servers.refuse_end(statement)


def _after(connection: Connection, cursor: Any, statement: str, *arguments: Any) -> None:
    if here := _mail(connection):
        here.has_written |= servers.has_written(statement, cursor)


def _mail(connection: Connection) -> Transaction | None:
    """Return the transaction whose handler has this connection."""
    here = current()
    return here if here and here.savepoint and here.savepoint.connection is connection else None


def _database(url: str, *timeouts: int) -> PostgreSQL:
    """Return the database that a URL is for. Raises `ValueError`, without what may be a part of a password."""
    try:
        parsed = sqlalchemy.make_url(url)
    except (SQLAlchemyError, ValueError):
        parsed = None
    if parsed is None or "@" in (parsed.host or ""):
        raise ValueError(
            "it is no URL like postgresql://mail@localhost/states; a password has %40 for @, %3A for :, %2F for /"
        )
    for database in (PostgreSQL, MariaDB, SQLite):
        if parsed.drivername in database.names:
            return database(parsed, *timeouts)
    raise ValueError("it must begin with postgresql:// (psycopg 3), mariadb:// (PyMySQL) or sqlite:///")


def _after_fork_in_child() -> None:
    # The connections are the parent's.
    for storage in list(_storages):
        if idle := storage._idle.pop(0, None):
            idle.detach()
        storage._opening = threading.RLock()
        storage._engine.dispose(close=False)


_storages: "weakref.WeakSet[SQLAlchemyStorage]" = weakref.WeakSet()
os.register_at_fork(after_in_child=_after_fork_in_child)
