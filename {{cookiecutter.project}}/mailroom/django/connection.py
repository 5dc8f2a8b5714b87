"""What a mail must rely on and Django does not promise of a connection; and the transaction of a mail."""

import os
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from typing import Any

from django.db import DatabaseError, Error, transaction

from mailroom.storage import StorageError, Transaction
from mailroom.storage.locks import PATIENCE, FileLocks
from mailroom.storage.servers import has_written, limit_waiting, postgresql_begin, postgresql_limits, refuse_end
from mailroom.storage.sqlite import allow, deny_transactions

OPENED = "_mail_states_opened"  # the attribute of a Django connection with its `(sqlite3.Connection, inode and device)`
_one_at_a_time = threading.RLock()  # in a database in memory, of tests


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
    is_file = connection.vendor == "sqlite" and not connection.is_in_memory_db()
    path = connection.settings_dict["NAME"]
    identity = os.stat(path)[1:3] if is_file else None  # before SQLite creates a file that is not there
    connection.ensure_connection()
    raw = connection.connection
    opened, seen = getattr(connection, OPENED, (None, None))
    if opened is raw and seen != identity:
        connection.close()
        raise OSError(f"{path} was replaced while it was open")
    setattr(connection, OPENED, (raw, identity))
    if connection.vendor == "postgresql" and hasattr(raw, "wait") and "wait" not in vars(raw):
        limit_waiting(raw, answer_timeout)


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
                stack.callback(connection.connection.set_authorizer, allow)
                connection.connection.set_authorizer(deny_transactions)  # `executescript` commits as well
            if connection.vendor == "mysql" and not here.waits:
                with connection.cursor() as cursor:
                    cursor.execute("SET innodb_lock_wait_timeout = 0")
            if connection.vendor == "postgresql":
                # Whatever the site's level is: who has waited for the lock sees what the mail before has left.
                begin = ["SET TRANSACTION ISOLATION LEVEL READ COMMITTED"] if self.is_outermost else []
                options = connection.settings_dict["OPTIONS"].get("options")
                limits = postgresql_limits(storage.answer_timeout, storage.lock_timeout, options)
                begin += [f"SET LOCAL {limit}" for limit in limits]
                with connection.cursor() as cursor:
                    postgresql_begin(cursor, begin, number, here.waits)
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
            connection.set_authorizer(allow)
            connection.execute("COMMIT")
            if not self.here.waits:
                connection.execute(f"PRAGMA busy_timeout = {PATIENCE * 1000:.0f}")
            try:
                connection.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError as error:
                self.connection.needs_rollback = True  # should the handler catch this
                raise StorageError from (TimeoutError("others write") if "locked" in str(error) else error)
            connection.set_authorizer(deny_transactions)

    def check(self) -> None:
        """Raise `django.db.Error` when what the handlers did cannot be committed: the database has undone some of it."""
        if self.here.savepoint is not None:
            self.connection.savepoint_commit(self.here.savepoint)
        if self.connection.needs_rollback:
            raise DatabaseError("an error within the transaction was caught, and the database undoes all of it")
        if self.connection.vendor == "postgresql" and self.here.has_written:
            with self.connection.cursor() as cursor:
                cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")  # Django's wait for the commit otherwise

    def commit(self) -> None:
        if self.is_outermost:
            self.after_commit, self.connection.run_on_commit = self.connection.run_on_commit, []
        self.stack.close()

    def run_after_commit(self) -> None:
        """Run what handlers gave to `transaction.on_commit`. The mail is handled, so what fails is only logged."""
        if self.after_commit:
            self.connection.run_on_commit = [(*hook[:2], True) for hook in self.after_commit]  # robust, as Django says
            self.connection.run_and_clear_commit_hooks()

    def _execute(self, execute: Callable[..., Any], sql: str, params: Any, many: bool, context: Any) -> Any:
        if self.is_ours:
            return execute(sql, params, many, context)
        refuse_end(sql)
        if self.here.savepoint is None:
            with self.ours():
                self.write()
                self.here.savepoint = self.connection.savepoint()
        result = execute(sql, params, many, context)
        self.here.has_written |= has_written(sql, context["cursor"])
        return result


def _sender_lock(connection: Any, number: int | None, timeout: float) -> AbstractContextManager[Any]:
    """Return the lock of a sender, where it is not the transaction's own; `TimeoutError` says that others keep it."""
    if number is None or connection.vendor == "postgresql":
        return nullcontext()
    if connection.vendor == "mysql":
        return _named_lock(connection, f"mailroom {number}", timeout)
    if connection.is_in_memory_db():
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
        with suppress(Error), connection.cursor() as cursor:  # the server has released it if it ended the connection
            cursor.execute("DO RELEASE_LOCK(%s)", [name])
