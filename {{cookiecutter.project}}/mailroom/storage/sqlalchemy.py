"""States and own tables in a database server, for any number of machines.

SQLAlchemy finds the driver and keeps the connections. Our own statements then go to the driver itself: to pass
them through SQLAlchemy takes longer than the server needs for a `get`.
"""

import os
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import sqlalchemy
from sqlalchemy import Connection, event
from sqlalchemy.exc import InvalidRequestError, SQLAlchemyError
from sqlalchemy.pool import StaticPool

from mailroom.settings import PASSWORD_IN_URL
from mailroom.storage import StorageError, Tables, Transaction, current, failing, is_locked
from mailroom.storage.databases import DATABASES, PostgreSQL
from mailroom.storage.locks import lock_number
from mailroom.storage.servers import has_written, refuse_end, run
from mailroom.storage.tables import ADD_CHANGED, COLUMNS, TableStorage

PREPARE_PATIENCE = 60  # seconds, while other workers create the tables


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
        self._idle: dict[int, Any] = {}  # 0: a connection of the pool, which takes longer to lend one than a `get`

    def open(self) -> None:
        if not self._is_open:
            with failing(Exception):  # whatever a driver makes of a URL
                if self._engine is None:
                    self._connect()
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
            self._at_once(lambda pooled, *values: run(pooled.cursor(), *values), statement, [row])
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
            here.has_written |= run(here.connected.cursor(), self._database.sql(sql), rows)

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


def _fetch(pooled: Any, sql: str, parameters: Sequence[Any]) -> Any:
    cursor = pooled.cursor()
    cursor.execute(sql, parameters)
    return cursor.fetchall()


def _before(connection: Connection, cursor: Any = None, statement: str = "COMMIT", *arguments: Any) -> None:
    if _mail(connection):
        refuse_end(statement)


def _after(connection: Connection, cursor: Any, statement: str, *arguments: Any) -> None:
    if here := _mail(connection):
        here.has_written |= has_written(statement, cursor)


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
    for database in DATABASES:
        if parsed.drivername in database.names:
            return database(parsed, *timeouts)
    raise ValueError("it must begin with postgresql:// (psycopg 3), mariadb:// (PyMySQL) or sqlite:///")


def _after_fork_in_child() -> None:
    # The connections are the parent's.
    for storage in list(_storages):
        if idle := storage._idle.pop(0, None):
            idle.detach()
        storage._engine.dispose(close=False)


_storages: "weakref.WeakSet[SQLAlchemyStorage]" = weakref.WeakSet()
os.register_at_fork(after_in_child=_after_fork_in_child)
