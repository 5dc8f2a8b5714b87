"""States in the model `State`, in any database that Django knows well."""

import os
import random
import time
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from itertools import islice

from django.db import DataError, Error, InterfaceError, OperationalError, connections, router, transaction
from django.db.migrations.executor import MigrationExecutor
from salmon.routing import ROUTE_FIRST_STATE

from mailroom.django.connection import conversation, make_fit_for_mail, refuse_what_cannot_be_kept
from mailroom.django.models import State
from mailroom.storage import Storage, checked, failing

PAGE = 1000


class DjangoStorage(Storage):
    """States in the table of `State`, in the database that Django's settings call `using`, or a router names.

    The table is created, or changed by a newer migration, at first use. Each thread has a connection of its
    own, which is opened anew when it has gone stale. The lock of a sender is waited for `lock_timeout` seconds,
    and the answer of a PostgreSQL server `answer_timeout`.

    `mailroom.django.connection.conversation` says what locks a sender in each database.
    """

    _is_migrated = False

    def __init__(self, using=None, protected=False, lock_timeout=2, answer_timeout=5):
        self.using = using or router.db_for_write(State)
        self.protected = protected
        self.lock_timeout = lock_timeout
        self.answer_timeout = answer_timeout

    @property
    def _shown(self):
        database = connections.settings[self.using]
        server = ":".join(str(database[name]) for name in ("HOST", "PORT") if database.get(name))
        return " on ".join(filter(None, (str(database["NAME"]), server)))

    def open(self):
        if not self._is_migrated:
            with failing(Exception):  # a backend may lack its driver
                self._migrate()
            self._is_migrated = True

    def __repr__(self):
        return f"<{type(self).__name__} {self._shown}>"

    def read(self, key, sender):
        key, sender, _ = checked(key, sender)
        found = self._run(list, self._rows().filter(key=key, sender=sender).values_list("state", flat=True))
        return found[0] if found else ROUTE_FIRST_STATE

    def set_all(self, rows):
        rows = (checked(*row) for row in rows)
        self._run(self._rows().exists)  # a connection that has gone stale is replaced now, not in the transaction
        with self._held(transaction.atomic, self.using, False):
            while page := list(islice(rows, PAGE)):
                self._run(self._write, page)

    def clear(self):
        self.refuse_when_protected()
        self._run(self._rows().delete)

    def rows(self):
        following = self._rows().order_by("pk").values_list("pk", "key", "sender", "state", "changed")
        page = self._run(list, following[:PAGE])
        while page:
            for _, *row, changed in page:
                yield (*row, changed.timestamp())
            page = self._run(list, following.filter(pk__gt=page[-1][0])[:PAGE])

    def changed(self, key, sender):
        key, sender, _ = checked(key, sender)
        found = self._run(list, self._rows().filter(key=key, sender=sender).values_list("changed", flat=True))
        return found[0].timestamp() if found else None

    def lock(self, here):
        self._renew()
        if here.sender is None or here.stateless:
            return nullcontext()
        return self._held(conversation, here.sender, self.using, self.lock_timeout)

    def check(self, here):
        connection = connections[self.using]
        if connection.in_atomic_block:
            with _failing():
                refuse_what_cannot_be_kept(connection)

    def commit(self, here):
        changes = here.changes()
        if changes:
            self.set_all(changes)

    def rollback(self, here):
        """The block of `lock` does it."""

    def _renew(self):
        """Close those connections of this thread, in whatever database, that an error has left of no use.

        Django does so between two requests, and a mail application has none.
        """
        for connection in connections.all(initialized_only=True):
            if connection.errors_occurred and not connection.in_atomic_block:
                if connection.is_usable():
                    connection.errors_occurred = False
                else:
                    connection.close()

    def close(self):
        """Close the connection of this thread; the next call opens a new one."""
        connections[self.using].close()

    def _migrate(self):
        """Run those of our migrations that have not run. Other workers may start at the same moment."""
        if connections[self.using].vendor == "sqlite" and not connections[self.using].is_in_memory_db():
            with suppress(FileExistsError):  # for its owner only, before SQLite creates it
                os.close(os.open(connections[self.using].settings_dict["NAME"], os.O_CREAT | os.O_EXCL, 0o600))
        deadline = time.monotonic() + 10
        while True:
            missing = []
            try:
                executor = MigrationExecutor(connections[self.using])
                newest = executor.loader.graph.leaf_nodes(State._meta.app_label)
                missing = executor.migration_plan(newest)
                if missing:
                    executor.migrate(newest, missing)
                return
            except Error as error:
                may_be_done_by_another = missing or "locked" in str(error)
                if not may_be_done_by_another or time.monotonic() > deadline:
                    raise
            time.sleep(random.uniform(0.01, 0.05))

    def _rows(self):
        return State.objects.using(self.using)

    def _write(self, rows):
        states = {(key, sender): state for key, sender, state in rows}  # the last one of each counts
        # In the same order everywhere, so that two of these do not wait for each other.
        cells = sorted(states)
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

    @contextmanager
    def _held(self, context, *arguments):
        """Hold `context(*arguments)`. What the database raises as it begins and ends is the answer to the mail."""
        with ExitStack() as stack:
            self._run(lambda: stack.enter_context(context(*arguments)))
            yield
            with _failing():
                stack.close()

    def _run(self, work, *arguments):
        """Return `work(*arguments)`, tried again where the server has closed the connection since its last use.

        A mail application has no request cycle, in which Django would look after that. Nothing has
        happened then, or nothing that may not happen twice.
        """
        self.open()
        with _failing():
            connection = connections[self.using]
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


def _failing():
    return failing((Error, OSError), DataError)


def _before_fork():
    # A connection must not cross a fork; either side opens its own at the next call.
    for connection in connections.all(initialized_only=True):
        if not connection.in_atomic_block:
            connection.close()


os.register_at_fork(before=_before_fork)
