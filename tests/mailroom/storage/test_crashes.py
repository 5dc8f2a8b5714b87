"""kill -9 at any moment: what was acknowledged is there, and nobody waits for the dead."""

import random
import time
from collections import Counter
from types import SimpleNamespace

import pytest

from mailroom import outbox
from mailroom.outbox import Sending
from mailroom.relay import Relay
from tests.mailroom.storage.programs import KEY, execute, storage_at
from tests.waiting import wait_until

COPIES = {
    "before the commit": 0,
    "after the commit": 1,
    "before the relay": 1,
    "before the content": 1,
    "after the answer": 2,  # the relay has the mail, and nobody knows
    "after the deletion": 1,
}


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


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_answer_of_a_mail_leaves_once_wherever_its_worker_is_killed_and_again_where_that_is_between_answer_and_deletion(
    request, start, path, sink, kind
):
    where = str(path) if kind == "sqlite" else request.getfixturevalue("postgresql").new_database()
    with sink.held():
        worker = start("send_and_die", sink.port, "at the relay", path=where)
        wait_until(lambda: sink.offered)
        worker.kill()
        worker.wait()
    workers = [start("send_and_die", sink.port, step, path=where) for step in COPIES]
    assert [worker.wait(30) for worker in workers] == [-9] * len(COPIES)

    storage = storage_at(where)
    sending = Sending(SimpleNamespace(storage=storage, relay=Relay(sink.host, sink.port)))
    sending.start()
    wait_until(lambda: not outbox.rows(storage), 30, lambda: outbox.rows(storage))
    sending.stop(5)
    copies = Counter((reply.recipients, reply["Message-ID"]) for reply in sink.replies)
    people = {step: f"{step.replace(' ', '-')}@people.example" for step in (*COPIES, "at the relay")}
    found = {step: copies[(person,), f"<{person}>"] for step, person in people.items()}
    assert found.pop("at the relay") in (1, 2)
    assert found == COPIES
    kept = {step: storage.get(KEY, people[step]) for step in COPIES}
    assert kept == dict.fromkeys(COPIES, "SUBSCRIBED") | {"before the commit": "START"}
    storage.close()
