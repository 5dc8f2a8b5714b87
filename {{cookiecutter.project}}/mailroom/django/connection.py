"""What a mail must rely on and Django does not promise of a connection; and the lock of a sender."""

import os
import threading
from contextlib import contextmanager

from django.db import DatabaseError, NotSupportedError, OperationalError, connections, transaction

from mailroom.storage.locks import FileLocks, lock_number
from mailroom.storage.servers import limit_waiting

# The attribute of Django's connection that tells which file it has open: `(sqlite3.Connection, identity)`.
OPENED = "_mail_states_opened"
INERROR = 3  # PQtransactionStatus of libpq: only a rollback is possible, and a commit becomes one


def make_fit_for_mail(connection, answer_timeout):
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


def _open_file(connection):
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


def conversation(sender, using, timeout=2):
    """Return a context manager that locks `sender`, whose lock is waited for `timeout` seconds at most.

    With PostgreSQL, MySQL and MariaDB it holds among all machines, and what this thread does in the database
    within the block is one transaction: committed when the block ends well, else rolled back. With SQLite it
    holds among the processes of one machine, and there is no transaction: SQLite has one writer at a time, and
    nobody could write until the block ends.

    Raises `TimeoutError` when the lock is not released in time, and `django.db.Error` when the database fails.
    """
    connection = connections[using]
    try:
        lock = LOCKS[connection.vendor]
    except KeyError:
        raise NotSupportedError(f"no conversations with {connection.display_name}") from None
    return lock(connection, sender, timeout)


@contextmanager
def _postgresql(connection, sender, timeout):
    # Whatever the site's level is: who has waited for the lock sees what the mail before has left.
    level = "" if connection.in_atomic_block else "SET TRANSACTION ISOLATION LEVEL READ COMMITTED;"
    with transaction.atomic(connection.alias):
        try:
            with connection.cursor() as cursor:
                # One round trip; the server ends lock and transaction when the worker dies.
                cursor.execute(
                    f"{level} SET LOCAL lock_timeout = '{timeout}s'; SELECT pg_advisory_xact_lock({lock_number(sender)})"
                )
        except OperationalError as error:
            if type(error.__cause__).__name__ == "LockNotAvailable":
                raise TimeoutError from error
            raise
        yield
        _end(connection)


@contextmanager
def _mysql(connection, sender, timeout):
    name = f"mailroom {lock_number(sender)}"
    with connection.cursor() as cursor:
        cursor.execute("SELECT GET_LOCK(%s, %s)", [name, timeout])
        if cursor.fetchone() != (1,):
            raise TimeoutError
    try:
        with transaction.atomic(connection.alias):
            yield
            _end(connection)
    finally:
        with connection.cursor() as cursor:
            cursor.execute("DO RELEASE_LOCK(%s)", [name])


def _sqlite(connection, sender, timeout):
    if connection.is_in_memory_db():  # of this process, for tests
        return _one_at_a_time
    return FileLocks(f"{connection.settings_dict['NAME']}-locks", timeout).lock(lock_number(sender))


def refuse_what_cannot_be_kept(connection):
    """Raise `django.db.Error` when the block cannot be committed: an error was caught in it, a key refers to nothing."""
    _refuse_what_is_undone(connection)
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")  # Django's wait for the commit otherwise


def _refuse_what_is_undone(connection):
    aborted = connection.vendor == "postgresql" and connection.connection.info.transaction_status == INERROR
    if aborted or connection.needs_rollback:
        raise DatabaseError("an error within the conversation was caught, and the database undoes all of it")


def _end(connection):
    _refuse_what_is_undone(connection)
    # After the commit nothing can fail any more: Django logs what such a function raises.
    connection.run_on_commit = [(blocks, function, True) for blocks, function, _ in connection.run_on_commit]


LOCKS = {"postgresql": _postgresql, "mysql": _mysql, "sqlite": _sqlite}
_one_at_a_time = threading.RLock()
