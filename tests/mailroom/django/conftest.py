"""Django, set up with `webapp.py` of the template as its settings."""

import sys
from contextlib import contextmanager
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from types import ModuleType
from unittest.mock import patch

import django
import pytest
from django.core.signals import request_started
from django.db import DEFAULT_DB_ALIAS, connections
from django.test.utils import setup_databases, setup_test_environment, teardown_databases, teardown_test_environment

from tests.baking import APPLICATION


def load_webapp():
    """Load `webapp.py`, which finds these settings of an application."""
    application = ModuleType("config")
    application.settings = ModuleType("config.settings")
    application.settings.state_database = "nowhere/states.sqlite3"  # each test has a database of its own
    application.settings.secret_key = "only for tests, but longer than 32 characters"
    application.settings.mail_domain = "example.com"
    path = APPLICATION / "{{ 'webapp.py' if cookiecutter.state_storage == 'django' }}"
    webapp = module_from_spec(spec_from_loader("webapp", SourceFileLoader("webapp", str(path))))
    sys.modules["config"] = application
    webapp.__spec__.loader.exec_module(webapp)
    del sys.modules["config"]
    request_started.disconnect(webapp.load_handlers)  # here is no config.boot
    return webapp


sys.modules["webapp"] = webapp = load_webapp()
with patch.dict("os.environ", {"DJANGO_SETTINGS_MODULE": "webapp"}):
    django.setup()
del sys.modules["webapp"]


@pytest.fixture(scope="session")
def pages():
    """What Django's own tests need: a database in memory, and a mail server that sends nothing."""
    setup_test_environment()
    created = setup_databases(verbosity=0, interactive=False)
    yield
    teardown_databases(created, verbosity=0)
    teardown_test_environment()


@pytest.fixture
def database(tmp_path):
    """The alias by which Django knows a new SQLite database: its path."""
    path = str(tmp_path / "states.sqlite3")
    with known_as(path, path):
        yield path


@contextmanager
def known_as(alias, address):
    """Let Django have the database at `address` under this alias within the block."""
    settings, opened = connections.settings.get(alias), drop(alias)
    configured = connections.configure_settings({DEFAULT_DB_ALIAS: {}, alias: webapp.database(address)})
    connections.settings[alias] = configured[alias]
    try:
        yield
    finally:
        new = drop(alias)
        if new:
            new.close()
        connections.settings[alias] = settings
        if settings is None:
            del connections.settings[alias]
        if opened:
            connections[alias] = opened


def drop(alias):
    """Take its connection, if any, from this thread, and return it."""
    for connection in connections.all(initialized_only=True):
        if connection.alias == alias:
            del connections[alias]
            return connection
    return None
