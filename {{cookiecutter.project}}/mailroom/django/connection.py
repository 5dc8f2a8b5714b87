"""What a mail must rely on and Django does not promise of a connection; and the transaction of a mail."""

import os
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any

from django.db import DatabaseError, NotSupportedError, connections, transaction

from mailroom.storage import StorageError, Transaction
from mailroom.storage.locks import PATIENCE, FileLocks
from mailroom.storage.servers import has_written, limit_waiting, lock_refused, postgresql_begin, refuse_end

# The attribute of Django's connection that tells which file it has open: `(sqlite3.Connection, identity)`.
OPENED = "_mail_states_opened"


def make_fit_for_mail(connection: Any, answer_timeout: float) -> None:
    """Open `connection`, one of `django.db.connections`, so that no mail waits for ever or is kept nowhere.

    With PostgreSQL and psycopg 3, a statement whose answer does not come within `answer_timeout` seconds
    raises `django.db.OperationalError` from here on. With SQLite, raises `OSError` when the file has gone
    or was replaced: Django would create an empty one, or write into one that nobody reads any more.
    """
    if connection.vendor == "sqlite" and not connection.is_in_memory_db():
        _open_file(connection)
    else:
        connection.ensure_connection()
    raw = connection.connection
    if connection.vendor == "postgresql" and hasattr(raw, "wait") and "wait" not in vars(raw):
        limit_waiting(raw, answer_timeout)


def _open_file(connection: Any) -> None:
    path = connection.settings_dict["NAME"]
    status = os.stat(path)  # before SQLite creates a file that is not there
    identity = status.st_dev, status.st_ino
    connection.ensure_connection()
    opened, seen = getattr(connection, OPENED, (None, None))
    if opened is not connection.connection:
        setattr(connection, OPENED, (connection.connection, identity))
    elif seen != identity:
        connection.close()
        raise OSError(f"{path} was replaced while it was open")


class MailTransaction:
    """The transaction of a mail on Django's connection, an `atomic` around its handlers.

    It ends with `commit` or `rollback`. What this class executes itself is within `ours`; anything else is a handler's.
    """

    def __init__(self, here: Transaction, using: str, number: int | None, lock_timeout: float, answer_timeout: float):
        self.here = here
        self.connection: Any = connections[using]
        self.savepoint: Any = None
        self.is_ours = True
        self.after_commit: list[Any] = []
        self.is_outermost = not self.connection.in_atomic_block
        # In SQLite one can write at a time: the transaction only reads until its handler uses it.
        self.may_write = not (self.is_outermost and self.connection.vendor == "sqlite")
        with ExitStack() as stack:
            stack.enter_context(_sender_lock(self.connection, number, lock_timeout if here.waits else 0))
            if not self.may_write:
                stack.callback(setattr, self.connection, "transaction_mode", self.connection.transaction_mode)
                self.connection.transaction_mode = None
            stack.enter_context(transaction.atomic(using))
            if self.connection.vendor == "postgresql":
                # Whatever the site's level is: who has waited for the lock sees what the mail before has left.
                begin = "SET TRANSACTION ISOLATION LEVEL READ COMMITTED" if self.is_outermost else "SELECT 1"
                options = self.connection.settings_dict["OPTIONS"].get("options")
                with lock_refused(), self.connection.cursor() as cursor:
                    cursor.execute(postgresql_begin(begin, number, answer_timeout, lock_timeout, options, here.waits))
            stack.enter_context(self.connection.execute_wrapper(self._execute))
            self._stack = stack.pop_all()
        self.is_ours = False

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
            connection.execute("COMMIT")
            if not self.here.waits:
                connection.execute(f"PRAGMA busy_timeout = {PATIENCE * 1000:.0f}")
            try:
                connection.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError as error:
                raise StorageError from TimeoutError(f"others write: {error}")

    def check(self) -> None:
        """Raise `django.db.Error` when what the handlers did cannot be committed: the database has undone some of it."""
        if self.savepoint is not None:
            self.connection.savepoint_commit(self.savepoint)
            self.savepoint = None
        if self.connection.needs_rollback:
            raise DatabaseError("an error within the transaction was caught, and the database undoes all of it")
        if self.connection.vendor == "postgresql" and self.here.has_written:
            with self.connection.cursor() as cursor:
                cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")  # Django's wait for the commit otherwise

    def commit(self) -> None:
        """Commit; `run_after_commit` is next."""
        if self.is_outermost:
            self.after_commit, self.connection.run_on_commit = self.connection.run_on_commit, []
        self._stack.close()

    def rollback(self) -> None:
        self.connection.set_rollback(True)
        self._stack.close()

    def run_after_commit(self) -> None:
        """Run what handlers gave to `transaction.on_commit`. The mail is handled, so what fails is only logged."""
        if self.after_commit:
            self.connection.run_on_commit = [(*hook[:2], True) for hook in self.after_commit]  # robust, as Django says
            self.connection.run_and_clear_commit_hooks()

    def _execute(self, execute: Callable[..., Any], sql: str, params: Any, many: bool, context: Any) -> Any:
        if self.is_ours:
            return execute(sql, params, many, context)
        refuse_end(sql)
        if self.savepoint is None:
            with self.ours():
                self.write()
                self.savepoint = self.connection.savepoint()
        result = execute(sql, params, many, context)
        self.here.has_written |= has_written(sql, context["cursor"])
        return result


def _sender_lock(connection: Any, number: int | None, timeout: float) -> AbstractContextManager[Any]:
    """Return what locks a sender where the transaction itself does not: among all machines, or with SQLite on one.

    Raises `TimeoutError` when the lock is not released in time.
    """
    if connection.vendor not in ("postgresql", "mysql", "sqlite"):
        raise NotSupportedError(f"no mail with {connection.display_name}")
    if number is None or connection.vendor == "postgresql":
        return nullcontext()
    if connection.vendor == "mysql":
        return _named_lock(connection, f"mailroom {number}", timeout)
    if connection.is_in_memory_db():  # of this process, for tests
        return _one_at_a_time
    return FileLocks(f"{connection.settings_dict['NAME']}-locks", timeout).lock(number)


@contextmanager
def _named_lock(connection: Any, name: str, timeout: float) -> Iterator[None]:
    with connection.cursor() as cursor:
        cursor.execute("SELECT GET_LOCK(%s, %s)", [name, timeout])
        if cursor.fetchone() != (1,):
            raise TimeoutError
    try:
        yield
    finally:
        with connection.cursor() as cursor:
            cursor.execute("DO RELEASE_LOCK(%s)", [name])


_one_at_a_time = threading.RLock()
