"""A fork at any moment leaves both sides with a storage that works."""

import sqlite3


def is_whole(path):
    with sqlite3.connect(path) as connection:
        return connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def test_both_sides_of_a_fork_go_on_while_other_threads_use_the_storage(run_all, path):
    run_all(("fork", 25), ("fork", 25))
    assert is_whole(path)


def test_children_of_many_threads_use_the_storage(run_all, path):
    run_all(("fork_in_threads", 15))
    assert is_whole(path)
