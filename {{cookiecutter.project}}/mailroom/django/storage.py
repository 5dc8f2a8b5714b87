"""States in the model `State`, in any database that Django knows well; and what it does not promise of a connection."""

import os
import random
import re
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from datetime import datetime
from typing import Any

from django.core.management import call_command
from django.db import DatabaseError, DataError, Error, NotSupportedError, connections, router, transaction
from django.utils import timezone

from mailroom.django import migrate, use_memory
from mailroom.django.models import State
from mailroom.storage import StorageError, Tables, Transaction, current, failing, servers
from mailroom.storage.locks import PATIENCE, FileLocks, lock_number
from mailroom.storage.tables import TableStorage

PREPARE_PATIENCE = 10  # seconds, while other workers create the tables
STORED = "mail_states_stored"  # the alias of the states' database, when Django has got another one in its place
OPENED = "_mail_states_opened"  # the attribute of a Django connection with its `(sqlite3.Connection, inode and device)`


class DjangoStorage(TableStorage):
    """States in the table of `State`, in the database that Django's settings call `using`, or a router names.

    Its first use runs the migrations. Each thread has a connection, to a server for CONN_MAX_AGE seconds. The lock
    of a sender is waited for `lock_timeout` seconds, and the answer of a PostgreSQL server `answer_timeout`.

    With PostgreSQL and MariaDB the lock holds among all machines, with SQLite among the processes of one. A mail is an
    `atomic` around its handlers. With SQLite, others can write until its handlers use the database.
    """

    def __init__(
        self, using: str | None = None, protected: bool = False, lock_timeout: float = 2, answer_timeout: float = 5
    ) -> None:
        self.using: str = using or router.db_for_write(State)
        self.protected = protected
        self.lock_timeout = lock_timeout
        self.answer_timeout = answer_timeout
        self._tables: list[Tables] = [migrate(State._meta.app_label)]

    def __repr__(self) -> str:
        database = connections.settings[self.using]
        server = ":".join(str(database[name]) for name in ("HOST", "PORT") if database.get(name))
        return f"<{type(self).__name__} {' on '.join(filter(None, (str(database['NAME']), server)))}>"

    def open(self) -> None:
        if not self._is_open:
            with failing(Exception):  # a backend may lack its driver
                self._prepare()
            self._is_open = True

    def close(self) -> None:
        connections[self.using].close()

    def in_memory(self) -> "DjangoStorage":
        """Let Django have empty databases in memory, wherever models are; this storage keeps its own."""
        memory = DjangoStorage(self.using)
        if _is_in_memory(connections[self.using]):
            memory.clear()
        else:
            stored = connections.settings[self.using]
            use_memory()
            connections.settings[STORED], self.using = stored, STORED
        return memory

    def clear(self) -> None:
        """Forget every state and note; in a database in memory, everything."""
        super().clear()
        if _is_in_memory(connections[self.using]):
            call_command("flush", database=self.using, interactive=False, inhibit_post_migrate=True, verbosity=0)

    def now(self) -> Any:
        return connections[self.using].ops.adapt_datetimefield_value(timezone.now())

    def seconds(self, cell: Any) -> float:
        when = datetime.fromisoformat(str(cell))
        return (when if when.tzinfo else when.replace(tzinfo=connections[self.using].timezone)).timestamp()

    def fetch(self, sql: str, parameters: Sequence[Any] = ()) -> list[Any]:
        with self._connected() as connection, connection.cursor() as cursor:
            cursor.execute(self._sql(sql), parameters)
            return list(cursor.fetchall())

    def execute(self, here: Transaction, sql: str, *rows: Sequence[Any]) -> None:
        with self._connected() as connection:
            here.connected.write()
            with connection.cursor() as cursor:
                here.has_written |= servers.run(cursor, self._sql(sql), rows)

    @contextmanager
    def lock(self, here: Transaction) -> Iterator[None]:
        _renew()
        try:
            number = None if here.locked is None else lock_number(self.cells("", here.locked)[1])
            with self._connected() as connection:
                mail = here.connected = MailTransaction(self, here, connection, number)
            yield
            if mail.after_commit:
                # What handlers gave to `on_commit`. The mail is handled, so what fails is only logged: it is "robust".
                connection.run_on_commit = [(*hook[:2], True) for hook in mail.after_commit]
                connection.run_and_clear_commit_hooks()
        finally:
            _renew()

    def begin(self, here: Transaction) -> Any:
        return here.connected.connection

    def commit(self, here: Transaction) -> None:
        with self._connected() as connection:
            if here.savepoint is not None:
                connection.savepoint_commit(here.savepoint)
            if connection.needs_rollback:
                raise DatabaseError("an error within the transaction was caught, and the database undoes all of it")
            if connection.vendor == "postgresql" and here.has_written:
                with connection.cursor() as cursor:
                    cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")  # Django's wait for the commit otherwise
            self.keep(here)
            mail, here.connected = here.connected, None
            if mail.is_outermost:
                mail.after_commit, connection.run_on_commit = connection.run_on_commit, []
            mail.stack.close()

    def rollback(self, here: Transaction) -> None:
        if here.connected is not None:
            mail, here.connected = here.connected, None
            with suppress(Error, mail.connection.Database.Error):
                mail.connection.set_rollback(True)
                mail.stack.close()

    def _prepare(self) -> None:
        """Run those migrations that have not run, and create own tables. Other workers may start at the same moment."""
        connection = connections[self.using]
        if connection.vendor not in ("postgresql", "mysql", "sqlite") or connection.display_name == "MySQL":
            raise NotSupportedError(f"no states in {connection.display_name}")
        if connection.vendor == "sqlite" and not _is_in_memory(connection):
            with suppress(FileExistsError):  # for its owner only, before SQLite creates it
                os.close(os.open(connection.settings_dict["NAME"], os.O_CREAT | os.O_EXCL, 0o600))
        deadline = time.monotonic() + PREPARE_PATIENCE
        for tables in self._tables:
            while True:
                try:
                    tables(connection)
                    break
                except Error as error:
                    # Another one may have done it; but a server that is not there, or refuses, will not change its mind.
                    if time.monotonic() > deadline or connection.connection is None and "locked" not in str(error):
                        raise
                time.sleep(random.uniform(0.01, 0.05))

    def _sql(self, statement: str) -> str:
        """Return what Django's database makes of a statement in the SQL of SQLite, with the tables of the models."""
        if connections[self.using].vendor == "mysql":
            statement = servers.mariadb(statement)
        statement = re.sub(r"\b(handled|outbox|outgoing)\b", r"mail_states_\1", statement)
        return re.sub(r"\bstates\b", "mail_states_state", statement).replace("?", "%s")

    @contextmanager
    def _connected(self) -> Iterator[Any]:
        """Return a context with the connection of this thread, for statements of ours in it."""
        self.open()
        connection, here = connections[self.using], current()
        mail = here.connected if here else None
        with failing((Error, OSError), DataError):
            if isinstance(mail, MailTransaction) and mail.connection is connection:
                with mail.ours():
                    yield connection
            else:
                make_fit_for_mail(connection, self.answer_timeout)
                yield connection


def _is_in_memory(connection: Any) -> bool:
    return bool(connection.vendor == "sqlite" and connection.is_in_memory_db())


def make_fit_for_mail(connection: Any, answer_timeout: float) -> None:
    """Open `connection`, anew where the server has ended it, so that no mail waits for ever or is kept nowhere.

    With PostgreSQL and psycopg 3, a statement whose answer does not come within `answer_timeout` seconds raises
    `OperationalError` from here on. With SQLite, raises `OSError` when the file has gone or was replaced: Django would
    create an empty one, or write into one that nobody reads any more.
    """
    if not connection.in_atomic_block:
        if connection.connection is not None and not connection.is_usable():
            connection.close()
        connection.health_check_done = True  # Django need not try it again
    path, is_file = connection.settings_dict["NAME"], connection.vendor == "sqlite" and not _is_in_memory(connection)
    identity = os.stat(path)[1:3] if is_file else None  # before SQLite creates a file that is not there
    connection.ensure_connection()
    raw = connection.connection
    opened, seen = getattr(connection, OPENED, (None, None))
    if opened is raw and seen != identity:
        connection.close()
        raise OSError(f"{path} was replaced while it was open")
    setattr(connection, OPENED, (raw, identity))
    if connection.vendor == "postgresql" and hasattr(raw, "wait") and "wait" not in vars(raw):
        servers.limit_waiting(raw, answer_timeout)


class MailTransaction:
    """An `atomic` around the handlers of a mail. What is not executed within `ours`, a handler executes."""

    def __init__(self, storage: Any, here: Transaction, connection: Any, number: int | None) -> None:
        self.here = here
        self.connection = connection
        self.is_ours = False
        self.after_commit: list[Any] = []
        self.is_outermost = not connection.in_atomic_block
        # In SQLite one can write at a time: the transaction only reads until its handler uses it.
        self.may_write = not (self.is_outermost and connection.vendor == "sqlite")
        with ExitStack() as stack:
            stack.enter_context(_sender_lock(connection, number, storage.lock_timeout if here.waits else 0))
            if not self.may_write:
                stack.callback(setattr, connection, "transaction_mode", connection.transaction_mode)
                connection.transaction_mode = None
            stack.enter_context(transaction.atomic(connection.alias))
            if connection.vendor == "sqlite":
                stack.callback(connection.connection.set_authorizer, _allow)
                connection.connection.set_authorizer(_deny_transactions)  # `executescript` commits as well
            if connection.vendor == "mysql" and not here.waits:
                with connection.cursor() as cursor:
                    cursor.execute("SET innodb_lock_wait_timeout = 0")
            if connection.vendor == "postgresql":
                # Whatever the site's level is: who has waited for the lock sees what the mail before has left.
                begin = ["SET TRANSACTION ISOLATION LEVEL READ COMMITTED"] if self.is_outermost else []
                options = connection.settings_dict["OPTIONS"].get("options")
                limits = servers.postgresql_limits(storage.answer_timeout, storage.lock_timeout, options)
                begin += [f"SET LOCAL {limit}" for limit in limits]
                with connection.cursor() as cursor:
                    servers.postgresql_begin(cursor, begin, number, here.waits)
            stack.enter_context(connection.execute_wrapper(self._execute))
            self.stack = stack.pop_all()

    @contextmanager
    def ours(self) -> Iterator[None]:
        before, self.is_ours = self.is_ours, True
        try:
            yield
        finally:
            self.is_ours = before

    def write(self) -> None:
        """Begin to write, where that has not begun."""
        if not self.may_write:
            self.may_write = True
            connection = self.connection.connection
            connection.set_authorizer(_allow)
            connection.execute("COMMIT")
            if not self.here.waits:
                connection.execute(f"PRAGMA busy_timeout = {PATIENCE * 1000:.0f}")
            try:
                connection.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError as error:
                self.connection.needs_rollback = True  # should the handler catch this
                raise StorageError from (TimeoutError("others write") if "locked" in str(error) else error)
            connection.set_authorizer(_deny_transactions)

    def _execute(self, execute: Callable[..., Any], sql: str, params: Any, many: bool, context: Any) -> Any:
        if self.is_ours:
            return execute(sql, params, many, context)
        servers.refuse_end(sql)
        if self.here.savepoint is None:
            with self.ours():
                self.write()
                self.here.savepoint = self.connection.savepoint()
        result = execute(sql, params, many, context)
        self.here.has_written |= servers.has_written(sql, context["cursor"])
        return result


def _allow(*arguments: Any) -> int:
    return sqlite3.SQLITE_OK


def _deny_transactions(action: int, *arguments: Any) -> int:
    return sqlite3.SQLITE_DENY if action == sqlite3.SQLITE_TRANSACTION else sqlite3.SQLITE_OK


@contextmanager
def _sender_lock(connection: Any, number: int | None, timeout: float) -> Iterator[None]:
    """Lock a sender, where that is not the transaction's own; raise `TimeoutError` when others keep the lock."""
    if (
        number is None or connection.vendor == "postgresql" or _is_in_memory(connection)
    ):  # tests have one mail at a time
        yield
    elif connection.vendor == "mysql":
        name = f"mailroom {number}"
        with connection.cursor() as cursor:
            cursor.execute("SELECT GET_LOCK(%s, %s)", [name, timeout])
            if cursor.fetchone() != (1,):
                raise TimeoutError
        try:
            yield
        finally:
            with suppress(Error), connection.cursor() as cursor:  # the server has released it if it has ended
                cursor.execute("DO RELEASE_LOCK(%s)", [name])
    else:
        with FileLocks(f"{connection.settings_dict['NAME']}-locks", timeout).lock(number):
            yield


def _renew() -> None:
    """Close the connections of this thread that are broken, or too old, as Django does before and after a request."""
    for connection in connections.all(initialized_only=True):
        if not connection.in_atomic_block:
            if connection.vendor == "sqlite":
                connection.close_at = None  # no server has to keep it
            connection.close_if_unusable_or_obsolete()


def _before_fork() -> None:  # a connection must not cross a fork; either side opens its own at the next call
    for connection in connections.all(initialized_only=True):
        if not connection.in_atomic_block:
            connection.close()


os.register_at_fork(before=_before_fork)
