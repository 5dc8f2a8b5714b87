"""The memory of the state machine: one table of a database server, for any number of machines.

What Salmon asks of a storage stands in its "Writing A State Storage Backend": `get`, `set` and
`clear`, thread safe, process safe, and every key exactly as it was given.

SQLAlchemy finds the driver, writes the SQL and keeps the connections. The statements then go to the
driver itself: to pass them through SQLAlchemy takes longer than the server needs for a `get`.
"""

import hashlib
import os
import re
import threading
import weakref
from contextlib import contextmanager, suppress
from itertools import groupby, islice
from operator import itemgetter

from salmon.routing import ROUTE_FIRST_STATE, StateStorage
from salmon.server import SMTPError
from sqlalchemy import (
    Column,
    MetaData,
    Table,
    bindparam,
    create_engine,
    delete,
    inspect,
    literal_column,
    make_url,
    select,
    tuple_,
)
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.schema import CreateTable

from mailroom.storage.databases import DATABASES, text

# In characters; key and sender must fit an index together, 2704 octets in PostgreSQL, 3072 in MariaDB.
KEY, SENDER, STATE = 255, 400, 255
# NUL ends a text of PostgreSQL, and a lone surrogate has no UTF-8.
IMPOSSIBLE = re.compile("[\0\ud800-\udfff]")
CANNOT_HOLD = "5.3.0 The state storage cannot hold this sender, or the key or state that a handler gave"
UNAVAILABLE = "4.3.0 The state storage is not available"

STATES = Table(
    "states",
    MetaData(),
    Column("key", text(KEY), primary_key=True),
    Column("sender", text(SENDER), primary_key=True),
    Column("state", text(STATE), nullable=False),
)
key, sender = bindparam("key"), bindparam("sender")
SELECT = select(STATES.c.state).where(STATES.c.key == key, STATES.c.sender == sender)
DELETE = delete(STATES).where(STATES.c.key == key, STATES.c.sender == sender)
FIRST_PAGE = (
    select(STATES)
    .order_by(STATES.c.key, STATES.c.sender)
    .limit(literal_column("1000"))
    .offset(literal_column("0"))  # which SQLite's dialect would add as a parameter
)
NEXT_PAGE = FIRST_PAGE.where(tuple_(STATES.c.key, STATES.c.sender) > tuple_(key, sender))


class SQLAlchemyStorage(StateStorage):
    """States in the table `states` of the database at `url`, which is made when it is missing.

    `url` is one of SQLAlchemy's, for PostgreSQL, MariaDB or, for tests, SQLite; `postgresql://` means
    psycopg 3, and the query is for the driver. With `protected`, `clear` refuses. The time-outs are
    in whole seconds: to connect, for each statement, and for the turn of a sender.

    Every method raises `salmon.server.SMTPError`: 451 when the database fails, so that the sending
    server keeps the mail and tries again, and 554 for a text that a database cannot hold.
    """

    def __init__(self, url, protected=False, connect_timeout=3, statement_timeout=5, turn_timeout=2):
        self._database, self.url = _parsed(url)
        self.protected = protected
        self.turn_timeout = turn_timeout
        query = self.url.query
        arguments = self._database.arguments(query, connect_timeout, statement_timeout, turn_timeout)
        self._engine = create_engine(
            self.url,
            isolation_level="AUTOCOMMIT",
            paramstyle=self._database.paramstyle,
            pool_timeout=connect_timeout,
            pool_reset_on_return=None,
            connect_args={name: value for name, value in arguments.items() if name == "options" or name not in query},
        )
        self._database.prepare(self._engine, statement_timeout)
        self._here = _Here()
        self._select, self._delete, self._upsert, self._first_page, self._next_page = (
            str(statement.compile(dialect=self._engine.dialect))
            for statement in (SELECT, DELETE, self._database.upsert(STATES), FIRST_PAGE, NEXT_PAGE)
        )
        self._create()
        _storages.add(self)

    def __repr__(self):
        return f"<{type(self).__name__} {self.url.difference_update_query(['password'])}>"

    def get(self, key, sender):
        """Return the state of `sender` under `key`, `START` where there is none."""
        rows = self._run(_fetch, self._select, _cell(key, sender))
        return rows[0][0] if rows else ROUTE_FIRST_STATE

    def set(self, key, sender, state):
        """Remember `state`; `START` forgets the row."""
        self._run(_execute, *self._change(key, sender, state))

    def set_all(self, rows):
        """Remember many `(key, sender, state)` rows: all of them or, if anything fails, none."""
        changes = (self._change(*row) for row in rows)
        with self._transaction():
            # By the same order everywhere, so that two of these do not wait for each other.
            while some := sorted(islice(changes, 1000), key=lambda change: change[1][:2]):
                self._run(_execute_all, some)

    def clear(self):
        """Forget every state; raise `RuntimeError` when the storage is protected."""
        if self.protected:
            raise RuntimeError(f"{self} is protected; tests import config.testing and clear its states")
        self._run(_execute, "DELETE FROM states")

    def __iter__(self):
        """Yield `(key, sender, state)` rows by a page at a time; nothing is held in between."""
        rows = self._run(_fetch, self._first_page)
        while rows:
            yield from map(tuple, rows)
            rows = self._run(_fetch, self._next_page, rows[-1][:2])

    @contextmanager
    def conversation(self, sender):
        """Wait for the turn of `sender`; within the block all calls of this thread are one transaction.

        It is committed when the block ends well, and rolled back on an exception.
        """
        number = _number(*_cell("", sender))
        with self._transaction():
            self._run(self._take_turn, number)
            yield

    def close(self):
        """Close the connections; the next call opens a new one."""
        self._engine.dispose()

    def _create(self):
        if inspect(self._engine).has_table(STATES.name):
            return
        # One after the other: IF NOT EXISTS does not keep two processes from making the same table.
        with self._transaction():
            self._run(self._take_turn, _number("CREATE TABLE", STATES.name))
            self._run(_execute, str(CreateTable(STATES, if_not_exists=True).compile(dialect=self._engine.dialect)))

    def _change(self, key, sender, state):
        if state == ROUTE_FIRST_STATE:
            return self._delete, _cell(key, sender)
        return self._upsert, (*_cell(key, sender), _checked(state, STATE))

    def _take_turn(self, connection, number):
        self._database.take_turn(connection.cursor(), number, self.turn_timeout)

    @contextmanager
    def _transaction(self):
        """Hold a transaction for this thread, or stay in the one that it holds."""
        if self._here.connection is not None:
            yield
            return
        connection, _ = self._refusing(self._opened, _execute, self._database.begin)
        self._here.connection = connection
        try:
            yield
            self._run(_commit)
        except BaseException:
            with suppress(SMTPError):
                self._run(_rollback)
            raise
        finally:
            self._here.connection = None
            connection.close()

    def _run(self, work, *arguments):
        """Return `work(connection, *arguments)`, in the transaction of this thread or by itself."""
        if self._here.connection is not None:
            return self._refusing(self._in_transaction, work, *arguments)
        connection, result = self._refusing(self._opened, work, *arguments)
        connection.close()
        return result

    def _in_transaction(self, work, *arguments):
        """Return `work(connection, *arguments)`; when it fails, nothing more happens in this transaction."""
        connection = self._here.connection
        if not connection.is_valid:
            raise SMTPError(451, UNAVAILABLE)
        try:
            return work(connection, *arguments)
        except BaseException:
            connection.invalidate()
            raise

    def _opened(self, work, *arguments, again=True):
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
        return self._opened(work, *arguments, again=False)

    def _refusing(self, function, *arguments):
        """Return `function(*arguments)`; what the database raises becomes the answer to the mail."""
        driver = self._engine.dialect.loaded_dbapi
        try:
            return function(*arguments)
        except TimeoutError as error:
            raise SMTPError(451, "4.3.0 Another mail of this sender is being handled") from error
        except driver.DataError as error:
            raise SMTPError(554, CANNOT_HOLD) from error
        except (driver.Error, SQLAlchemyError) as error:
            raise SMTPError(451, UNAVAILABLE) from error


class _Here(threading.local):
    """The connection of the transaction that this thread is in."""

    connection = None


def _parsed(url):
    """Return the database that a URL is for, and the `sqlalchemy.URL`.

    Raises `ValueError`, without what may be a part of a password.
    """
    try:
        parsed = make_url(url)
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


def _execute(connection, sql, parameters=()):
    connection.cursor().execute(sql, parameters)


def _execute_all(connection, changes):
    for sql, some in groupby(changes, key=itemgetter(0)):
        connection.cursor().executemany(sql, [parameters for _, parameters in some])


def _fetch(connection, sql, parameters=()):
    cursor = connection.cursor()
    cursor.execute(sql, parameters)
    return cursor.fetchall()


def _commit(connection):
    connection.commit()


def _rollback(connection):
    connection.rollback()


def _cell(key, sender):
    return _checked(key, KEY), _checked(sender, SENDER)


def _checked(value, length):
    """Return `value`, a text that every database can hold; otherwise refuse the mail for good."""
    if not isinstance(value, str) or len(value) > length or IMPOSSIBLE.search(value):
        raise SMTPError(554, CANNOT_HOLD)
    return value


def _number(*names):
    """Return the number of the turn of what has these names, 64 bits."""
    digest = hashlib.blake2b("\0".join(names).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=True)


def _after_fork_in_child():
    # The connections are the parent's.
    for storage in list(_storages):
        storage._engine.dispose(close=False)
        storage._here = _Here()


_storages = weakref.WeakSet()
os.register_at_fork(after_in_child=_after_fork_in_child)
