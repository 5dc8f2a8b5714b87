"""The commands that the README gives for a backup bring the states back, also after a crash."""

import re
import shutil

import pytest

pytestmark = pytest.mark.skipif(not shutil.which("sqlite3"), reason="there is no sqlite3 command here")

SET = """
import os, sys
from mailroom.storage.sqlite import SQLiteStorage
storage = SQLiteStorage("run/states.sqlite3")
for number in range(int(sys.argv[1])):
    storage.set("key", f"{number}@people.example", "SUBSCRIBED")
os._exit(0)  # as by kill -9: what is in the -wal file stays there
"""


def test_backup_is_restored_over_the_wal_of_a_crash(application):
    app = application(state_storage="sqlite")
    backup, restore = re.findall(r"^sqlite3 .*", (app.folder / "README.md").read_text(), re.MULTILINE)
    assert app.python(SET, "1").returncode == 0
    assert app.run("sh", "-c", backup).returncode == 0
    assert app.python(SET, "1100").returncode == 0
    assert (app.folder / "run" / "states.sqlite3-wal").stat().st_size

    restored = app.run("sh", "-c", restore)

    assert restored.returncode == 0, restored.stderr
    assert app.run("python", "operate.py", "states", "list").stdout.count("SUBSCRIBED") == 1
