"""One conversation of a sender at a time, by what the database has for that; nothing in here needs Salmon."""

import hashlib
import threading
from contextlib import contextmanager

from django.db import (
    DEFAULT_DB_ALIAS,
    DatabaseError,
    NotSupportedError,
    OperationalError,
    connections,
    transaction,
)

from .turns import Turns

INERROR = 3  # PQtransactionStatus of libpq: only a rollback is possible, and a commit becomes one


def conversation(sender, using=DEFAULT_DB_ALIAS, timeout=2):
    """Return a context that holds the turn of `sender`, waited for `timeout` seconds at most.

    With PostgreSQL, MySQL and MariaDB it is held among all machines, and what this thread does in
    the database within the block is one transaction: kept when the block ends well, else undone.
    With SQLite it is held among the processes of one machine, and there is no transaction: SQLite
    has one writer at a time, and nobody could write until the block ends.

    Raises `TimeoutError` when the turn does not come, and `django.db.Error` when the database fails.
    """
    connection = connections[using]
    try:
        turn = TURNS[connection.vendor]
    except KeyError:
        raise NotSupportedError(f"no conversations with {connection.display_name}") from None
    return turn(connection, sender, timeout)


@contextmanager
def _postgresql(connection, sender, timeout):
    # Whatever the site's level is: who has waited for the turn sees what the mail before has left.
    level = "" if connection.in_atomic_block else "SET TRANSACTION ISOLATION LEVEL READ COMMITTED;"
    with transaction.atomic(connection.alias):
        try:
            with connection.cursor() as cursor:
                # One round trip; the server ends lock and transaction when the worker dies.
                cursor.execute(
                    f"{level} SET LOCAL lock_timeout = '{timeout}s'; SELECT pg_advisory_xact_lock({_number(sender)})"
                )
        except OperationalError as error:
            if type(error.__cause__).__name__ == "LockNotAvailable":
                raise TimeoutError from error
            raise
        yield
        _end(connection)


@contextmanager
def _mysql(connection, sender, timeout):
    name = f"mail_states {_number(sender)}"
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
    return Turns(f"{connection.settings_dict['NAME']}-turns", timeout).turn(sender)


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


def _number(sender):
    digest = hashlib.blake2b(f"mail_states {sender}".encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=True)


TURNS = {"postgresql": _postgresql, "mysql": _mysql, "sqlite": _sqlite}
_one_at_a_time = threading.RLock()
