"""kill -9 at any moment: what was acknowledged is there, and nobody waits for the dead."""

import random
import time

from tests.mailroom.storage.programs import KEY, execute


def killed_again_and_again(start, program, path=None):
    """Let three writers go on where the last ones were killed; yield the number that each has acknowledged, by sender.

    They use the storage at `path`, by default that of the fixture `path`.
    """
    senders = [f"{number}@b.example" for number in range(3)]
    acknowledged = dict.fromkeys(senders, 0)
    for _ in range(6):
        writers = {sender: start(program, sender, path=path) for sender in senders}
        for sender, writer in writers.items():
            acknowledged[sender] = int(writer.stdout.readline() or writer.stderr.read())
        time.sleep(random.uniform(0, 0.2))
        for writer in writers.values():
            writer.kill()
        for sender, writer in writers.items():
            said = writer.stdout.read().split()
            acknowledged[sender] = int(said[-1]) if said else acknowledged[sender]
        yield acknowledged


def test_every_state_that_was_acknowledged_survives_a_kill(start, open_storage):
    for acknowledged in killed_again_and_again(start, "count"):
        storage = open_storage()
        for sender, number in acknowledged.items():
            kept = storage.get(KEY, sender)
            assert number <= int(kept) <= number + 1
            assert storage.get(KEY, f"twin of {sender}") == kept
        storage.close()


def test_the_lock_of_a_killed_process_is_free_at_once(start, open_storage):
    storage = open_storage(lock_timeout=0)  # it need not wait
    holder = start("hold", "alice@people.example")
    assert holder.stdout.readline() == "held\n"
    holder.kill()
    holder.wait()

    with storage.transaction("alice@people.example"):
        pass


def test_state_own_row_and_note_survive_a_kill_together_or_not_at_all(start, open_storage):
    for acknowledged in killed_again_and_again(start, "count_rows"):
        storage = open_storage()
        assert_whole(storage, acknowledged)
        storage.close()


def assert_whole(storage, acknowledged):
    """Fail unless each mail that was acknowledged, and perhaps one more of each sender, is there with all that is its own."""
    expected = set()
    for sender, number in acknowledged.items():
        with storage.transaction(sender):  # what was killed last may be in the middle of its commit
            kept = int(storage.get(KEY, sender))
        assert number <= kept <= number + 1
        expected |= {f"{number} {sender}" for number in range(1, kept + 1)}
        assert storage.is_handled(f"{kept} {sender}".encode())
        assert not storage.is_handled(f"{kept + 1} {sender}".encode())
    with storage.transaction() as transaction:
        posts = {text for (text,) in execute(transaction.connection, "SELECT text FROM posts")}
    assert posts == expected
