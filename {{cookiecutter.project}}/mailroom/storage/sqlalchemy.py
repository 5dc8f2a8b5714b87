"""States in one table of a database server, for any number of machines.

SQLAlchemy finds the driver, writes the SQL and keeps the connections. The statements then go to the
driver itself: to pass them through SQLAlchemy takes longer than the server needs for a `get`.
"""

import os
import threading
import weakref
from contextlib import contextmanager, suppress
from itertools import groupby, islice
from operator import itemgetter, methodcaller

import sqlalchemy
from salmon.routing import ROUTE_FIRST_STATE
from salmon.server import SMTPError
from sqlalchemy.exc import SQLAlchemyError

from mailroom.settings import PASSWORD_IN_URL
from mailroom.storage import MAX_KEY, MAX_SENDER, MAX_STATE, Storage, StorageError, checked, failing
from mailroom.storage.databases import DATABASES, text
from mailroom.storage.locks import lock_number

STATES = sqlalchemy.Table(
    "states",
    sqlalchemy.MetaData(),
    sqlalchemy.Column("key", text(MAX_KEY), primary_key=True),
    sqlalchemy.Column("sender", text(MAX_SENDER), primary_key=True),
    sqlalchemy.Column("state", text(MAX_STATE), nullable=False),
)
key, sender = sqlalchemy.bindparam("key"), sqlalchemy.bindparam("sender")
ROW = sqlalchemy.and_(STATES.c.key == key, STATES.c.sender == sender)
PAGE = (
    STATES.select()
    .order_by(STATES.c.key, STATES.c.sender)
    .limit(sqlalchemy.literal_column("1000"))
    .offset(sqlalchemy.literal_column("0"))  # which SQLite's dialect would add as a parameter
)
STATEMENTS = {
    "select": sqlalchemy.select(STATES.c.state).where(ROW),
    "delete": STATES.delete().where(ROW),
    "clear": STATES.delete(),
    "select first page": PAGE,
    "select next page": PAGE.where(sqlalchemy.tuple_(STATES.c.key, STATES.c.sender) > sqlalchemy.tuple_(key, sender)),
}


class SQLAlchemyStorage(Storage):
    """States in the table `states` of the database at `url`, created at first use when it is missing.

    `url` is one of SQLAlchemy's, for PostgreSQL, MariaDB or, for tests, SQLite; `postgresql://` means
    psycopg 3, and the query is for the driver. The time-outs are in whole seconds: to connect, for each
    statement, and for the lock of a sender.

    A transaction has states only: `begin` raises `NotImplementedError`.
    """

    _engine = None

    def __init__(self, url, protected=False, connect_timeout=3, statement_timeout=5, lock_timeout=2):
        self.url = url
        self.protected = protected
        self.timeouts = connect_timeout, statement_timeout, lock_timeout
        self._shown = PASSWORD_IN_URL.sub("***", str(url))
        self._here = _Here()

    def open(self):
        if self._engine is None:
            with failing(Exception):  # whatever a driver makes of a URL
                self._connect()

    def __repr__(self):
        return f"<{type(self).__name__} {self._shown}>"

    def read(self, key, sender):
        rows = self._run(self._execute, "select", checked(key, sender)[:2])
        return rows[0][0] if rows else ROUTE_FIRST_STATE

    def set_all(self, rows):
        changes = (_change(*row) for row in rows)
        with self._transaction():
            # By the same order everywhere, so that two of these do not wait for each other.
            while some := sorted(islice(changes, 1000), key=lambda change: change[1][:2]):
                self._run(self._execute_all, some)

    def clear(self):
        self.refuse_when_protected()
        self._run(self._execute, "clear")

    def rows(self):
        rows = self._run(self._execute, "select first page")
        while rows:
            yield from ((*row, None) for row in rows)
            rows = self._run(self._execute, "select next page", rows[-1][:2])

    @contextmanager
    def lock(self, here):
        """Lock the sender and begin the transaction of the database, which ends with the block."""
        number = here.sender is not None and not here.stateless and lock_number(checked("", here.sender)[1])
        with self._transaction():
            if number:
                self._run(self._lock, number)
            yield

    def commit(self, here):
        self.set_all(here.changes())

    def rollback(self, here):
        """The block of `lock` does it."""

    def close(self):
        if self._engine is not None:
            self._engine.dispose()

    def _connect(self):
        connect_timeout, statement_timeout, _ = self.timeouts
        self._database, url = _parsed(self.url)
        arguments = self._database.arguments(url.query, *self.timeouts)
        arguments = {name: value for name, value in arguments.items() if name == "options" or name not in url.query}
        engine = sqlalchemy.create_engine(
            url,
            isolation_level="AUTOCOMMIT",
            paramstyle=self._database.paramstyle,
            pool_timeout=connect_timeout,
            pool_reset_on_return=None,
            connect_args=arguments,
        )
        self._database.prepare(engine, statement_timeout)
        statements = {**STATEMENTS, "upsert": self._database.upsert(STATES)}
        self._sql = {name: str(statement.compile(dialect=engine.dialect)) for name, statement in statements.items()}
        self._sql["begin"] = self._database.begin
        try:
            STATES.create(engine, checkfirst=True)
        except SQLAlchemyError:  # another worker may be faster
            if not sqlalchemy.inspect(engine).has_table(STATES.name):
                raise
        self._engine = engine
        _storages.add(self)

    def _execute(self, connection, statement, parameters=()):
        cursor = connection.cursor()
        cursor.execute(self._sql[statement], parameters)
        return cursor.fetchall() if statement.startswith("select") else None

    def _execute_all(self, connection, changes):
        for statement, some in groupby(changes, key=itemgetter(0)):
            connection.cursor().executemany(self._sql[statement], [parameters for _, parameters in some])

    def _lock(self, connection, number):
        self._database.lock(connection.cursor(), number, self.timeouts[-1])

    @contextmanager
    def _transaction(self):
        """Hold a transaction for this thread, or stay in the one that it holds."""
        if self._here.connection is not None:
            yield
            return
        self.open()
        with self._failing():
            connection, _ = self._first_use(self._execute, "begin")
        self._here.connection = connection
        try:
            yield
            self._run(methodcaller("commit"))
        except BaseException:
            with suppress(SMTPError):
                self._run(methodcaller("rollback"))
            raise
        finally:
            self._here.connection = None
            connection.close()

    def _run(self, work, *arguments):
        """Return `work(connection, *arguments)`, in the transaction of this thread or by itself."""
        self.open()
        with self._failing():
            connection = self._here.connection
            if connection is None:
                connection, result = self._first_use(work, *arguments)
                connection.close()
                return result
            if not connection.is_valid:
                raise StorageError
            try:
                return work(connection, *arguments)
            except BaseException:
                connection.invalidate()  # nothing more happens in this transaction
                raise

    def _first_use(self, work, *arguments, again=True):
        """Return a connection, and `work(connection, *arguments)` as its first use.

        That the server closed a connection in the meantime, for a restart, shows at this use only.
        Nothing has happened then, or nothing that may not happen twice: try again on a new one.
        """
        connection = self._engine.raw_connection()
        try:
            return connection, work(connection, *arguments)
        except BaseException as error:
            closed = self._engine.dialect.is_disconnect(error, connection.driver_connection, None)
            connection.invalidate()
            if not closed or not again:
                raise
            self.close()
        return self._first_use(work, *arguments, again=False)

    def _failing(self):
        driver = self._engine.dialect.loaded_dbapi
        return failing((driver.Error, SQLAlchemyError), driver.DataError)


class _Here(threading.local):
    """The connection of the transaction that this thread is in."""

    connection = None


def _parsed(url):
    """Return the database that a URL is for, and the `sqlalchemy.URL`.

    Raises `ValueError`, without what may be a part of a password.
    """
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
            return database, parsed.set(drivername=database.names[0])
    raise ValueError("it must begin with postgresql:// (psycopg 3), mariadb:// (PyMySQL) or sqlite:///")


def _change(*row):
    key, sender, state = checked(*row)
    if state == ROUTE_FIRST_STATE:
        return "delete", (key, sender)
    return "upsert", (key, sender, state)


def _after_fork_in_child():
    # The connections are the parent's.
    for storage in list(_storages):
        storage._engine.dispose(close=False)
        storage._here = _Here()


_storages = weakref.WeakSet()
os.register_at_fork(after_in_child=_after_fork_in_child)
