"""States and own tables in a database server, for any number of machines.

SQLAlchemy finds the driver and keeps the connections. Our own statements then go to the driver itself: to pass
them through SQLAlchemy takes longer than the server needs for a `get`.
"""

import os
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, TypeVar

import sqlalchemy
from sqlalchemy import Connection, event
from sqlalchemy.exc import InvalidRequestError, SQLAlchemyError
from sqlalchemy.pool import StaticPool

from mailroom.settings import PASSWORD_IN_URL
from mailroom.storage import StorageError, Tables, Transaction, current, failing
from mailroom.storage.databases import DATABASES, PostgreSQL
from mailroom.storage.locks import lock_number
from mailroom.storage.servers import has_written, refuse_end, run
from mailroom.storage.tables import ADD_CHANGED, COLUMNS, TableStorage

PREPARE_PATIENCE = 60  # seconds, while other workers create the tables

T = TypeVar("T")


class SQLAlchemyStorage(TableStorage):
    """States and own tables in the database at `url`; what is missing there is created at the first use.

    `url` is one of SQLAlchemy's, for PostgreSQL, MariaDB or, for tests, SQLite; `postgresql://` means
    psycopg 3, and the query is for the driver. The time-outs are in whole seconds: to connect, for each
    statement, and for the lock of a sender. The connection of a transaction is a `sqlalchemy.Connection`.
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

    def open(self) -> None:
        if not self._is_open:
            with failing(Exception):  # whatever a driver makes of a URL
                if self._engine is None:
                    self._connect()
                self._prepare()

    def close(self) -> None:
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

    def fetch(self, sql: str, parameters: Sequence[Any] = ()) -> list[Any]:
        self.open()

        def fetch(pooled: Any) -> list[Any]:
            cursor = pooled.cursor()
            cursor.execute(self._database.sql(sql), parameters)
            return list(cursor.fetchall())

        here = current()
        connected: Any = here and here.connected
        with self._failing():
            if getattr(connected, "engine", None) is not self._engine:
                pooled, rows = self._first_use(self._engine.raw_connection, fetch)
                pooled.close()
                return rows
            if connected.invalidated:
                raise StorageError
            try:
                return fetch(connected.connection)
            except BaseException:
                connected.invalidate()  # nothing more happens in this transaction
                raise

    def execute(self, here: Transaction, sql: str, *rows: Sequence[Any]) -> None:
        with self._failing():
            here.has_written |= run(here.connected.connection.cursor(), self._database.sql(sql), rows)

    @contextmanager
    def lock(self, here: Transaction) -> Iterator[None]:
        """Lock the sender within the transaction of the database, which begins here or at the first use."""
        self.open()
        if here.locked is not None:
            self._begin(here, lock_number(self.cells("", here.locked)[1]))
        yield

    def begin(self, here: Transaction) -> Any:
        """Return the `Connection`, in a savepoint: a `Session` can be bound to it, and commits nothing."""
        if here.connected is None:
            self._begin(here)
        if here.savepoint is None:
            with self._failing():
                here.savepoint = here.connected.begin_nested()
        if here.connected.invalidated or not here.savepoint.is_active:
            raise StorageError from InvalidRequestError("the database has rolled this transaction back")
        connection: Connection = here.connected
        return connection

    def commit(self, here: Transaction) -> None:
        if here.connected is None:
            if not (here.changes() or here.has_written or here.outgoing):
                return
            self._begin(here)
        with self._failing():
            if here.savepoint is not None:
                here.savepoint.commit()  # it fails where the database, or the handler, has ended the transaction
            self.keep(here)
            connection, here.connected = here.connected, None
            with connection:
                connection.commit()

    def rollback(self, here: Transaction) -> None:
        if here.connected is not None:
            connection, here.connected = here.connected, None
            try:
                connection.connection.rollback()  # of the driver: after a commit that was refused, SQLAlchemy does none
            except Exception:
                if not connection.closed:
                    connection.invalidate()
            connection.close()

    def _connect(self) -> None:
        self._database = _database(self.url, *self.timeouts)
        arguments = self._database.arguments()
        pool: Any = {"poolclass": StaticPool} if self._database.is_in_memory else {"max_overflow": -1}  # threads
        engine = sqlalchemy.create_engine(
            self._database.url, isolation_level="AUTOCOMMIT", pool_reset_on_return=None, connect_args=arguments, **pool
        )
        self._database.listen(engine)
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
                self._begin(here, lock_number("the tables"))
            except StorageError as error:
                if not isinstance(error.__cause__, TimeoutError) or time.monotonic() > deadline:
                    raise
        with here.connected as connection:
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

    def _begin(self, here: Transaction, number: int | None = None) -> None:
        with self._failing():
            begin = self._database.begin
            here.connected, _ = self._first_use(
                self._engine.connect, lambda pooled: begin(pooled.cursor(), number, here)
            )
            here.connected.begin()

    def _first_use(self, connect: Callable[[], Any], work: Callable[[Any], T]) -> tuple[Any, T]:
        """Return `connect()`, and `work(pooled)` as its first use: one of SQLAlchemy's, or of its pool, which is faster.

        That the server closed a connection in the meantime, for a restart, shows at this use only.
        Nothing has happened then, or nothing that may not happen twice: try again on a new one.
        """
        for is_last in (False, True):
            connection = connect()
            pooled = connection.connection if isinstance(connection, Connection) else connection
            try:
                return connection, work(pooled)
            except BaseException as error:
                dialect: Any = self._engine.dialect
                is_closed = dialect.is_disconnect(error, pooled.driver_connection, None)
                connection.invalidate()
                connection.close()
                if not is_closed or is_last:
                    raise
                self._engine.dispose()
        raise AssertionError

    def _failing(self) -> AbstractContextManager[None]:
        driver = self._engine.dialect.loaded_dbapi
        return failing((driver.Error, SQLAlchemyError), driver.DataError)


def _before(connection: Connection, cursor: Any = None, statement: str = "COMMIT", *arguments: Any) -> None:
    here = current()
    if here is not None and here.connected is connection:
        refuse_end(statement)


def _after(connection: Connection, cursor: Any, statement: str, *arguments: Any) -> None:
    here = current()
    if here is not None and here.connected is connection:
        here.has_written |= has_written(statement, cursor)


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
    for database in DATABASES:
        if parsed.drivername in database.names:
            return database(parsed, *timeouts)
    raise ValueError("it must begin with postgresql:// (psycopg 3), mariadb:// (PyMySQL) or sqlite:///")


def _after_fork_in_child() -> None:
    # The connections are the parent's.
    for storage in list(_storages):
        storage._engine.dispose(close=False)


_storages: "weakref.WeakSet[SQLAlchemyStorage]" = weakref.WeakSet()
os.register_at_fork(after_in_child=_after_fork_in_child)
