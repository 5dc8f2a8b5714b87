"""The storages that are measured: ours, Salmon's, the bare databases below them, and what is on PyPI.

Each is a class that opens the path or URL it gets and has `get`, `set` and `fill`. What comes from
PyPI is set to keep what it was given, as ours does, where it has such a setting.
"""

import dbm
import importlib
import importlib.util
import os
import shelve
import sqlite3
import sys
import time
from dataclasses import dataclass

from salmon import routing

# What our storages are called; a choice of the template that is not here is not measured.
CLASSES = {
    "sqlite": ("mailroom.storage.sqlite", "SQLiteStorage"),
    "postgresql": ("mailroom.storage.sqlalchemy", "SQLAlchemyStorage"),
    "django": ("mailroom.django.storage", "DjangoStorage"),
}

# The statements of `mailroom.storage.tables`.
COLUMNS = """
    key {0} NOT NULL, sender {0} NOT NULL, state {0} NOT NULL, changed {1} NOT NULL, PRIMARY KEY (key, sender)"""
SELECT = "SELECT state, changed FROM states WHERE key = ? AND sender = ?"
UPSERT = """
    INSERT INTO states (key, sender, state, changed) VALUES (?, ?, ?, ?)
    ON CONFLICT (key, sender) DO UPDATE SET state = excluded.state, changed = excluded.changed
    WHERE states.state <> excluded.state"""


class SQLite:
    """The floor: `sqlite3` with the statements and pragmas of our storage, and nothing around them."""

    synchronous = "FULL"

    def __init__(self, path):
        self._connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=60)
        self._connection.execute("PRAGMA journal_mode = WAL")
        self._connection.execute(f"PRAGMA synchronous = {self.synchronous}")
        self._connection.execute("PRAGMA secure_delete = ON")
        self._connection.execute(f"CREATE TABLE IF NOT EXISTS states ({COLUMNS.format('TEXT', 'REAL')}) WITHOUT ROWID")

    def get(self, key, sender):
        return self._connection.execute(SELECT, (key, sender)).fetchone()[0]

    def set(self, key, sender, state):
        self._connection.execute(UPSERT, (key, sender, state, time.time()))

    def fill(self, rows):
        self._connection.execute("BEGIN IMMEDIATE")
        self._connection.executemany(UPSERT, [(*row, time.time()) for row in rows])
        self._connection.execute("COMMIT")


class SQLiteNormal(SQLite):
    """The same, but a commit does not wait for the disk."""

    synchronous = "NORMAL"


class PostgreSQL:
    """The floor of PostgreSQL: a connection of psycopg, and a commit for each set."""

    def __init__(self, url):
        self._connection = importlib.import_module("psycopg").connect(url, autocommit=True)
        columns = COLUMNS.format('text COLLATE "C"', "double precision")
        self._connection.execute(f"CREATE TABLE IF NOT EXISTS states ({columns})")
        self._select, self._upsert = SELECT.replace("?", "%s"), UPSERT.replace("?", "%s")

    def get(self, key, sender):
        return self._connection.execute(self._select, (key, sender)).fetchone()[0]

    def set(self, key, sender, state):
        self._connection.execute(self._upsert, (key, sender, state, time.time()))

    def fill(self, rows):
        with self._connection.transaction(), self._connection.cursor() as cursor:
            cursor.executemany(self._upsert, [(*row, time.time()) for row in rows])


class Memory(routing.MemoryStorage):
    """Salmon's `MemoryStorage`."""

    def __init__(self, path):
        super().__init__()

    def fill(self, rows):
        for row in rows:
            self.set(*row)


class Shelve(routing.ShelveStorage):
    """Salmon's `ShelveStorage`, on the dbm that the name says."""

    dbm = None

    def __init__(self, path):
        super().__init__(str(path))
        importlib.import_module(self.dbm).open(self.database_path, "c").close()

    def fill(self, rows):
        with shelve.open(self.database_path) as shelf:
            for key, sender, state in rows:
                shelf[self.key(key.encode("ascii"), sender)] = state


class DiskCache:
    """`diskcache.Cache`, told to wait for the disk."""

    def __init__(self, path):
        self._cache = importlib.import_module("diskcache").Cache(
            str(path), sqlite_synchronous=2, eviction_policy="none", timeout=60
        )

    def get(self, key, sender):
        return self._cache[key, sender]

    def set(self, key, sender, state):
        self._cache[key, sender] = state

    def fill(self, rows):
        with self._cache.transact():
            for row in rows:
                self.set(*row)


class SqliteDict:
    """`sqlitedict.SqliteDict` with a commit for each set; it never waits for the disk."""

    def __init__(self, path):
        # Its journal of its own choice, DELETE, locks readers out.
        self._dictionary = importlib.import_module("sqlitedict").SqliteDict(str(path), journal_mode="WAL")

    def get(self, key, sender):
        return self._dictionary[f"{key} {sender}"]

    def set(self, key, sender, state):
        self._dictionary[f"{key} {sender}"] = state
        self._dictionary.commit()

    def fill(self, rows):
        self._dictionary.update((f"{key} {sender}", state) for key, sender, state in rows)
        self._dictionary.commit()


def ours(folder, choice):
    """Return a class for the storage in the baked application `folder`."""

    def opened(path):
        sys.path.insert(0, str(folder))
        if choice == "django":
            os.environ["STATE_DATABASE"] = path  # Django's settings have it from there
            importlib.import_module("mailroom.django").setup_django("webapp")
        module, name = CLASSES[choice]
        storage = getattr(importlib.import_module(module), name)(*[path] * (choice != "django"))
        storage.fill = storage.set_all
        storage.open()
        return storage

    return opened


@dataclass
class Store:
    """A contestant: how it is opened, up to how many senders it is asked, and what it keeps through a power cut."""

    open: object
    most_senders: int = 10**6
    keeps: str = "all"
    shared: bool = True  # among processes
    server: bool = False


def stores(folders):
    """Return the `Store`s by name; `folders` has that of a baked application for each choice."""
    found = {"MemoryStorage": Store(Memory, keeps="nothing", shared=False)}
    for name in [*dbm._names]:
        if importlib.util.find_spec(name) and _is_there(name):
            kind = type("Shelve", (Shelve,), {"dbm": name})
            slow = {"dbm.dumb": 10**4}.get(name, 10**6)
            found[f"ShelveStorage on {name}"] = Store(kind, slow, "nothing sure", shared=False)
    found["bare sqlite3"] = Store(SQLite)
    found["bare sqlite3, NORMAL"] = Store(SQLiteNormal, keeps="up to a checkpoint")
    for name, kind, keeps in (("diskcache", DiskCache, "all"), ("sqlitedict", SqliteDict, "nothing sure")):
        if importlib.util.find_spec(name):
            found[name] = Store(kind, 10**5, keeps)
    if "postgresql" in folders:
        found["bare psycopg"] = Store(PostgreSQL, server=True)
    for choice, folder in folders.items():
        if choice in CLASSES:
            found[f"ours: {choice}"] = Store(ours(folder, choice), server=choice == "postgresql")
    return found


def _is_there(name):
    try:
        importlib.import_module(name)
    except ImportError:
        return False
    return True
