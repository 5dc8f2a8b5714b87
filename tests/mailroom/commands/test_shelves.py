"""Shelves of older applications are read, and nothing in them is executed."""

import dbm.dumb
import os
import pickle
import struct

import pytest
from salmon.routing import ShelveStorage

from mailroom.commands import transfer

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


def test_shelf_of_salmon_3_is_read(tmp_path):
    storage = ShelveStorage(str(tmp_path / "states"))
    storage.set("app.handlers.admin", "alice@people.example", "SUBSCRIBED")
    storage.set("app.handlers.admin", None, "CONFIRMING")

    assert sorted(transfer.shelf(storage.database_path), key=repr) == [
        ("app.handlers.admin", "alice@people.example", "SUBSCRIBED"),
        ("app.handlers.admin", None, "CONFIRMING"),
    ]


def test_shelf_of_lamson_and_python_2_is_read(shelf):
    path = shelf(
        {
            OLD_KEY: b"S'SUBSCRIBED'\np0\n.",
            "['app.handlers.admin', u'b\\xe4@people.example']": b"VCONFIRMING\np0\n.",
            "['app.handlers.admin', 'stranger@people.example']": b"S'START'\np0\n.",
        }
    )
    assert list(transfer.shelf(path)) == [
        ("app.handlers.admin", "alice@people.example", "SUBSCRIBED"),
        ("app.handlers.admin", "b\xe4@people.example", "CONFIRMING"),
    ]


class Trap:
    """What an evil pickle does when it is read: it makes a folder."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_pickle_in_a_shelf_is_not_executed(shelf, tmp_path):
    path = shelf({OLD_KEY: pickle.dumps(Trap(str(tmp_path / "executed")))})

    with pytest.raises(ValueError, match="no state of Salmon"):
        list(transfer.shelf(path))
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("value", [b"", b"S'SUB", pickle.dumps(1), pickle.dumps(["SUBSCRIBED"]), b"\x80\x05r\xff\xff"])
def test_value_in_a_shelf_that_is_no_state_is_refused(shelf, value):
    with pytest.raises(ValueError, match="no state of Salmon"):
        list(transfer.shelf(shelf({OLD_KEY: value})))


@pytest.mark.parametrize("cell", ["alice", "[1, 2]", "['a']", "__import__('os')", "(" * 500])
def test_key_in_a_shelf_that_salmon_did_not_write_is_refused(shelf, cell):
    with pytest.raises(ValueError, match="no state of Salmon"):
        list(transfer.shelf(shelf({cell: pickle.dumps("SUBSCRIBED")})))


HINT = r"; give its name without \.db, \.dat or \.dir; Debian's Python reads GDBM with python3-gdbm$"


def test_file_that_is_no_shelf_is_refused_with_a_hint(tmp_path):
    (tmp_path / "text").write_text("this is no shelf")

    for name in ("text", "nothing"):
        with pytest.raises(ValueError, match=f"{name} cannot be read as a shelf: .*{HINT}"):
            list(transfer.shelf(str(tmp_path / name)))


def test_dbm_that_this_python_lacks_is_named(tmp_path, monkeypatch):
    (tmp_path / "states").write_bytes(struct.pack("=L", 0x13579ACE) + bytes(16))  # as a file of GDBM begins
    monkeypatch.setattr(dbm, "_modules", {"dbm.dumb": dbm.dumb})

    with pytest.raises(ValueError, match=f"db type is dbm.gnu, but the module is not available{HINT}"):
        list(transfer.shelf(str(tmp_path / "states")))
