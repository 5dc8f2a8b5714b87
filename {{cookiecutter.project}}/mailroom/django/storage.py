"""States in the model `State`, in any database that Django knows well."""

import os
import random
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from typing import Any

from django.core.management.color import no_style
from django.db import DataError, Error, NotSupportedError, connections, router
from django.utils import timezone

from mailroom.django import migrate, use_memory
from mailroom.django.connection import MailTransaction, make_fit_for_mail
from mailroom.django.models import State
from mailroom.storage import Tables, Transaction, current, failing
from mailroom.storage.locks import lock_number
from mailroom.storage.servers import mariadb, run
from mailroom.storage.tables import TableStorage

PREPARE_PATIENCE = 10  # seconds, while other workers create the tables
STORED = "mail_states_stored"  # the alias of the states' database, when Django has got another one in its place


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
        if self._is_in_memory():
            memory.clear()
        else:
            stored = connections.settings[self.using]
            use_memory()
            connections.settings[STORED], self.using = stored, STORED
        return memory

    def clear(self) -> None:
        """Forget every state and note; in a database in memory, everything."""
        super().clear()
        if self._is_in_memory():
            connection = connections[self.using]
            tables = connection.introspection.django_table_names(only_existing=True, include_views=False)
            connection.ops.execute_sql_flush(connection.ops.sql_flush(no_style(), tables, allow_cascade=False))

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
                here.has_written |= run(cursor, self._sql(sql), rows)

    @contextmanager
    def lock(self, here: Transaction) -> Iterator[None]:
        _renew()
        try:
            number = None if here.locked is None else lock_number(self.cells("", here.locked)[1])
            with self._connected() as connection:
                mail = here.connected = MailTransaction(self, here, connection, number)
            yield
            mail.run_after_commit()
        finally:
            _renew()

    def begin(self, here: Transaction) -> Any:
        return here.connected.connection

    def commit(self, here: Transaction) -> None:
        with self._connected():
            here.connected.check()
            self.keep(here)
            mail, here.connected = here.connected, None
            mail.commit()

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
        if connection.vendor == "sqlite" and not self._is_in_memory():
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

    def _is_in_memory(self) -> bool:
        connection = connections[self.using]
        return bool(connection.vendor == "sqlite" and connection.is_in_memory_db())

    def _sql(self, statement: str) -> str:
        """Return what Django's database makes of a statement in the SQL of SQLite, with the tables of the models."""
        if connections[self.using].vendor == "mysql":
            statement = mariadb(statement)
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
