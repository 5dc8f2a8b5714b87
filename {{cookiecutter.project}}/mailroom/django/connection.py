"""What a mail must rely on and Django does not promise of a connection; nothing in here needs Salmon."""

import os
import weakref

from .patience import within

# The attribute of Django's connection that tells which file it has open: `(sqlite3.Connection, identity)`.
OPENED = "_mail_states_opened"


def make_fit_for_mail(connection, answer_timeout):
    """Open `connection`, one of `django.db.connections`, so that no mail waits for ever or is kept nowhere.

    With PostgreSQL and psycopg 3, a statement whose answer does not come within `answer_timeout` seconds
    raises `django.db.OperationalError` from here on. With SQLite, raises `OSError` when the file has gone
    or was replaced: Django would make an empty one, or write into one that nobody reads any more.
    """
    if connection.vendor == "sqlite" and not connection.is_in_memory_db():
        _open_file(connection)
    else:
        connection.ensure_connection()
    raw = connection.connection
    if connection.vendor == "postgresql" and hasattr(raw, "wait") and "wait" not in vars(raw):
        raw.wait = _patient(connection, raw, answer_timeout)


def _open_file(connection):
    path = connection.settings_dict["NAME"]
    identity = _identity(path)  # before SQLite makes a file that is not there
    connection.ensure_connection()
    opened, seen = getattr(connection, OPENED, (None, None))
    if opened is not connection.connection:
        setattr(connection, OPENED, (connection.connection, identity))
    elif seen != identity:
        connection.close()
        raise OSError(f"{path} was replaced while it was open")


def _identity(path):
    status = os.stat(path)
    return status.st_dev, status.st_ino


def _patient(connection, raw, seconds):
    """Return a `wait` for a psycopg connection that closes it when the server does not answer, and raises."""
    wait, error = type(raw).wait, connection.Database.OperationalError
    raw = weakref.proxy(raw)  # it will hold what is returned

    def give_up(reason):
        raw.close()
        return error(reason)

    def patient(generator, *arguments, **options):
        return wait(raw, within(seconds, generator, give_up), *arguments, **options)

    return patient
