"""Many threads and many processes on one file: nothing is lost, nobody starves, nobody is served twice."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor

from mailroom.storage.sqlite import SQLiteStorage
from tests.mailroom.storage.programs import KEY


def test_threads_and_processes_lose_no_state(run_all, open_storage):
    """A storage that waited longer than its timeout would answer 451, and the program would fail."""
    programs = [("hammer", f"shared-{n}", 8, 6) for n in range(3)]
    run_all(*programs, ("hammer_apart", "apart", 8, 6))

    rows = dict(((sender, state) for _, sender, state in open_storage()))

    assert rows.pop("everybody@b.example")
    assert Counter(rows.values()) == {f"STATE_{number}": 4 * 8 for number in range(6)}
    assert len(rows) == 4 * 8 * 6


def test_a_fresh_file_is_opened_by_many_at_once(run_all, open_storage, path):
    for _ in range(3):
        run_all(*[("open_at_once",)] * 6, at_once=True)
        storage = open_storage()
        assert len(list(storage)) == 6
        storage.close()
        for file in path.parent.iterdir():
            file.unlink()


def test_a_fresh_file_is_opened_by_many_threads_at_once(tmp_path):
    for number in range(20):
        file = tmp_path / f"run-{number}" / "states.sqlite3"
        with ThreadPoolExecutor(8) as pool:
            storages = list(pool.map(lambda _, file=file: SQLiteStorage(file), range(8)))
            list(pool.map(lambda storage: storage.set(KEY, str(id(storage)), "SUBSCRIBED"), storages))
        assert len(list(storages[0])) == 8
        for storage in storages:
            storage.close()


def test_new_sender_is_new_to_only_one_worker(run_all):
    printed = run_all(*[("subscribe", 2, 30)] * 4, at_once=True)

    met = Counter(" ".join(printed).split())

    assert met == {f"{number}@b.example": 1 for number in range(30)}
