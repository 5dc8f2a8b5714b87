"""A reusable Django app: the states as a model, and the admin to look at them.

A site adds "mailroom.django" to its INSTALLED_APPS.
"""

import os
from typing import Any

import django
from django.core.exceptions import ImproperlyConfigured
from django.db import connections
from django.db.migrations.executor import MigrationExecutor

from mailroom.settings import refuse
from mailroom.storage import Tables


def setup_django(settings: str, in_memory: bool = False) -> None:
    """Set Django up with the module of settings that DJANGO_SETTINGS_MODULE names, or else with `settings`.

    With `in_memory`, for tests, every database is an empty one in memory. Ends the process with one line when the
    settings cannot be used.
    """
    name = os.environ.setdefault("DJANGO_SETTINGS_MODULE", settings)
    try:
        django.setup()
        if in_memory:
            use_memory()
    except (ImportError, ImproperlyConfigured) as error:
        refuse("DJANGO_SETTINGS_MODULE", name, f"cannot be used: {error}")


def use_memory() -> None:
    """Let Django have empty SQLite databases in memory from here on, in the place of its own."""
    for connection in connections.all(initialized_only=True):
        connection.close()
        del connections[connection.alias]
    engine = "django.db.backends.sqlite3"
    memory = {alias: {"ENGINE": engine, "NAME": f"file:{alias}?mode=memory&cache=shared"} for alias in connections}
    connections.settings = connections.configure_settings(memory)


def migrate(label: str) -> Tables:
    """Return a function of a connection that runs the migrations of an app, and of those it needs, that have not run."""

    def tables(connection: Any) -> None:
        executor = MigrationExecutor(connection)
        newest = executor.loader.graph.leaf_nodes(label)
        if missing := executor.migration_plan(newest):
            executor.migrate(newest, missing)

    return tables
