"""Shelves of older applications are read, and nothing in them is executed."""

import dbm.dumb
import os
import pickle
import sqlite3
import struct
import sys

import pytest
from salmon.routing import ShelveStorage

from mailroom.commands import shelves

OLD_KEY = repr(["app.handlers.admin", "alice@people.example"])


@pytest.fixture
def shelf(tmp_path):
    """A function: make a shelf of these octets by these keys, and return its path."""

    def shelf(cells):
        with dbm.dumb.open(str(tmp_path / "states"), "c") as file:
            for cell, value in cells.items():
                file[cell] = value
        return str(tmp_path / "states")

    return shelf


def test_a_shelf_of_salmon_3(tmp_path):
    storage = ShelveStorage(str(tmp_path / "states"))
    storage.set("app.handlers.admin", "alice@people.example", "SUBSCRIBED")
    storage.set("app.handlers.admin", None, "CONFIRMING")

    assert sorted(shelves.rows(storage.database_path), key=repr) == [
        ("app.handlers.admin", "alice@people.example", "SUBSCRIBED"),
        ("app.handlers.admin", None, "CONFIRMING"),
    ]


def test_a_shelf_of_lamson_and_python_2(shelf):
    path = shelf(
        {
            OLD_KEY: b"S'SUBSCRIBED'\np0\n.",
            "['app.handlers.admin', u'b\\xe4@people.example']": b"VCONFIRMING\np0\n.",
            "['app.handlers.admin', 'stranger@people.example']": b"S'START'\np0\n.",
        }
    )
    assert list(shelves.rows(path)) == [
        ("app.handlers.admin", "alice@people.example", "SUBSCRIBED"),
        ("app.handlers.admin", "b\xe4@people.example", "CONFIRMING"),
    ]


def test_a_shelf_of_python_3_13_on_any_python(tmp_path):
    with sqlite3.connect(tmp_path / "states") as file:
        file.execute("CREATE TABLE Dict (key BLOB UNIQUE NOT NULL, value BLOB NOT NULL)")
        file.execute("INSERT INTO Dict VALUES (?, ?)", (OLD_KEY.encode(), pickle.dumps("SUBSCRIBED")))
    file.close()

    assert list(shelves.rows(tmp_path / "states")) == [("app.handlers.admin", "alice@people.example", "SUBSCRIBED")]


class Trap:
    """What an evil pickle does when it is read: it makes a folder."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_a_pickle_is_not_executed(shelf, tmp_path):
    path = shelf({OLD_KEY: pickle.dumps(Trap(str(tmp_path / "executed")))})

    with pytest.raises(ValueError, match="holds no state"):
        list(shelves.rows(path))
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("value", [b"", b"S'SUB", pickle.dumps(1), pickle.dumps(["SUBSCRIBED"]), b"\x80\x05r\xff\xff"])
def test_shelf_value_that_is_no_state_is_refused(shelf, value):
    with pytest.raises(ValueError, match="holds no state"):
        list(shelves.rows(shelf({OLD_KEY: value})))


@pytest.mark.parametrize("cell", ["alice", "[1, 2]", "['a']", "__import__('os')", "(" * 500])
def test_shelf_key_that_is_not_of_salmon_is_refused(shelf, cell):
    with pytest.raises(ValueError, match="no key of Salmon"):
        list(shelves.rows(shelf({cell: pickle.dumps("SUBSCRIBED")})))


def test_import_of_a_file_that_is_no_shelf_says_so(tmp_path):
    with pytest.raises(ValueError, match="is no shelf"):
        list(shelves.rows(tmp_path / "nothing"))
    (tmp_path / "text").write_text("this is no shelf")
    with pytest.raises(ValueError, match="is no shelf"):
        list(shelves.rows(tmp_path / "text"))
    sqlite3.connect(tmp_path / "other").execute("CREATE TABLE states (key)").connection.close()
    with pytest.raises(ValueError, match="cannot be read as a dbm.sqlite3 shelf"):
        list(shelves.rows(tmp_path / "other"))


def test_a_dbm_that_this_python_lacks_is_named(tmp_path, monkeypatch):
    (tmp_path / "states").write_bytes(struct.pack("=L", 0x13579ACE) + bytes(16))  # as a file of gdbm begins
    monkeypatch.setitem(sys.modules, "dbm.gnu", None)

    with pytest.raises(ValueError, match="this Python has no dbm.gnu; Debian's Python has it from .* python3-gdbm"):
        list(shelves.rows(tmp_path / "states"))
