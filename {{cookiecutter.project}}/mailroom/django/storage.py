"""States in the model `State`, in any database that Django knows well."""

import os
import random
import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from itertools import islice
from typing import Any, TypeVar

from django.core.management.color import no_style
from django.db import DataError, Error, InterfaceError, OperationalError, connections, router
from salmon.routing import ROUTE_FIRST_STATE

from mailroom import outbox
from mailroom.django import migrate, use_memory
from mailroom.django.connection import MailTransaction, make_fit_for_mail
from mailroom.django.models import Handled, Outbox, Outgoing, State
from mailroom.storage import HANDLED_KEPT, NONE, Row, Storage, StoredRow, Tables, Transaction, checked, current, failing
from mailroom.storage.locks import lock_number

PAGE = 1000
PREPARE_PATIENCE = 10  # seconds, while other workers create the tables
SWEEP_INTERVAL = 3600  # seconds
STORED = "mail_states_stored"  # the alias of the states' database, when Django has got another one in its place
T = TypeVar("T")


class DjangoStorage(Storage):
    """States in the table of `State`, in the database that Django's settings call `using`, or a router names.

    The tables are created, or changed by a newer migration, at first use. Each thread has a connection of its
    own, which is opened anew when it has gone stale. The lock of a sender is waited for `lock_timeout` seconds,
    and the answer of a PostgreSQL server `answer_timeout`.

    With PostgreSQL, MySQL and MariaDB the lock holds among all machines, with SQLite among the processes of one. A
    mail is an `atomic` around its handlers. With SQLite, others can write until its handlers use the database.
    """

    _is_open = False
    _next_sweep = 0.0

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
        """Close the connection of this thread; the next call opens a new one."""
        connections[self.using].close()

    def create_tables(self, tables: Tables) -> None:
        self._tables.append(tables)
        self._is_open = False

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
        self.refuse_when_protected()
        self._run(self._rows().delete)
        for model in (Handled, Outbox, Outgoing):
            self._run(model.objects.using(self.using).all().delete)
        if self._is_in_memory():
            connection = connections[self.using]
            tables = connection.introspection.django_table_names(only_existing=True, include_views=False)
            connection.ops.execute_sql_flush(connection.ops.sql_flush(no_style(), tables, allow_cascade=False))

    def read(self, key: str | None, sender: str | None) -> str:
        found = self._values("state", key, sender)
        return str(found[0] if found else ROUTE_FIRST_STATE)

    def changed(self, key: str | None, sender: str | None) -> float | None:
        found = self._values("changed", key, sender)
        return found[0].timestamp() if found else None

    def rows(self) -> Iterator[StoredRow]:
        following = self._rows().order_by("pk").values_list("pk", "key", "sender", "state", "changed")
        page: list[Any] = self._run(list, following[:PAGE])
        while page:
            for _, key, sender, state, changed in page:
                yield *(None if text == NONE else text for text in (key, sender)), state, changed.timestamp()
            page = self._run(list, following.filter(pk__gt=page[-1][0])[:PAGE])

    def fetch(self, sql: str, parameters: Sequence[Any] = ()) -> list[Any]:
        def fetch() -> list[Any]:
            with connections[self.using].cursor() as cursor:
                cursor.execute(_sql(sql), parameters)
                return list(cursor.fetchall())

        return self._run(fetch)

    def execute(self, here: Transaction, sql: str, parameters: Sequence[Any] = ()) -> None:
        with _failing(), here.connected.ours():
            here.connected.write()
            with here.connected.connection.cursor() as cursor:
                cursor.execute(_sql(sql), parameters)

    def is_handled(self, digest: bytes) -> bool:
        return bool(self._run(Handled.objects.using(self.using).filter(digest=digest.hex()).exists))

    @contextmanager
    def lock(self, here: Transaction) -> Iterator[None]:
        """Lock the sender and begin the transaction of the database."""
        self._renew()
        number = None
        if here.sender is not None and not here.stateless:
            number = lock_number(checked("", here.sender)[1])
        waits = self.lock_timeout, self.answer_timeout
        mail = here.connected = self._run(MailTransaction, here, self.using, number, *waits)
        yield
        mail.run_after_commit()

    def begin(self, here: Transaction) -> Any:
        """Return Django's connection."""
        return here.connected.connection

    def write(self, here: Transaction, rows: Iterable[Row]) -> None:
        changes = (checked(*row) for row in rows)
        with _failing(), here.connected.ours():
            here.connected.write()
            while page := list(islice(changes, PAGE)):
                self._write(page)

    def check(self, here: Transaction) -> None:
        with _failing(), here.connected.ours():
            here.connected.check()

    def commit(self, here: Transaction) -> None:
        changes = here.changes()
        self.check(here)
        if changes:
            self.write(here, changes)
        outbox.store(here)
        with _failing(), here.connected.ours():
            if here.note and (changes or here.has_written or here.outgoing):
                here.connected.write()
                Handled.objects.using(self.using).create(digest=here.note.hex(), at=time.time())
            mail, here.connected = here.connected, None
            mail.commit()
        now = time.time()
        if now > self._next_sweep:
            self._next_sweep = now + SWEEP_INTERVAL
            with suppress(Error):  # next time
                Handled.objects.using(self.using).filter(at__lt=now - HANDLED_KEPT).delete()

    def rollback(self, here: Transaction) -> None:
        if here.connected is not None:
            mail, here.connected = here.connected, None
            with suppress(Error), mail.ours():
                mail.rollback()

    def _renew(self) -> None:
        """Close those connections of this thread, in whatever database, that an error has left of no use.

        Django does so between two requests, and a mail application has none.
        """
        for connection in connections.all(initialized_only=True):
            if connection.errors_occurred and not connection.in_atomic_block:
                if connection.is_usable():
                    connection.errors_occurred = False
                else:
                    connection.close()

    def _prepare(self) -> None:
        """Run those migrations that have not run, and create own tables. Other workers may start at the same moment."""
        connection = connections[self.using]
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
                    is_there = connection.connection is not None and connection.is_usable()
                    if not (is_there or "locked" in str(error)) or time.monotonic() > deadline:
                        raise
                time.sleep(random.uniform(0.01, 0.05))

    def _is_in_memory(self) -> bool:
        connection = connections[self.using]
        return bool(connection.vendor == "sqlite" and connection.is_in_memory_db())

    def _rows(self) -> Any:
        return State.objects.using(self.using)

    def _values(self, field: str, key: str | None, sender: str | None) -> list[Any]:
        key, sender, _ = checked(key, sender)
        return self._run(list, self._rows().filter(key=key, sender=sender).values_list(field, flat=True))

    def _write(self, rows: list[tuple[str, str, str]]) -> None:
        states = {(key, sender): state for key, sender, state in rows}  # the last one of each counts
        stored = self._rows().filter(sender__in={sender for _, sender in states})
        before = {(key, sender): state for key, sender, state in stored.values_list("key", "sender", "state")}
        # In the same order everywhere, so that two of these do not wait for each other.
        cells = sorted(cell for cell, state in states.items() if state != before.get(cell, ROUTE_FIRST_STATE))
        target = connections[self.using].features.supports_update_conflicts_with_target
        kept = [cell for cell in cells if states[cell] != ROUTE_FIRST_STATE]
        self._rows().bulk_create(
            [State(key=key, sender=sender, state=states[key, sender]) for key, sender in kept],
            update_conflicts=True,
            update_fields=["state", "changed"],
            unique_fields=["key", "sender"] if target else None,
        )
        for key, sender in cells:
            if states[key, sender] == ROUTE_FIRST_STATE:
                self._rows().filter(key=key, sender=sender).delete()

    def _run(self, work: Callable[..., T], *arguments: Any) -> T:
        """Return `work(*arguments)`, tried again where the server has closed the connection since its last use.

        A mail application has no request cycle, in which Django would look after that. Nothing has
        happened then, or nothing that may not happen twice.
        """
        self.open()
        connection = connections[self.using]
        with _failing():
            here = current()
            mail = here and here.connected
            if isinstance(mail, MailTransaction) and mail.connection is connection:
                with mail.ours():
                    return work(*arguments)
            make_fit_for_mail(connection, self.answer_timeout)
            used = None if connection.in_atomic_block else connection.connection
            try:
                return work(*arguments)
            except (OperationalError, InterfaceError):
                # Django may have opened another one already, at the end of a transaction.
                if used is None or connection.connection is used and connection.is_usable():
                    raise
            connection.close()
            make_fit_for_mail(connection, self.answer_timeout)
            return work(*arguments)


def _sql(statement: str) -> str:
    """Return a statement of `outbox.py` with our names of its tables."""
    return re.sub(r"\b(outbox|outgoing)\b", r"mail_states_\1", statement).replace("?", "%s")


def _failing() -> AbstractContextManager[None]:
    return failing((Error, OSError), DataError)


def _before_fork() -> None:
    # A connection must not cross a fork; either side opens its own at the next call.
    for connection in connections.all(initialized_only=True):
        if not connection.in_atomic_block:
            connection.close()


os.register_at_fork(before=_before_fork)
