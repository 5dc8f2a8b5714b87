"""Two workers on one database, and mails that come to both at the same time."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor

from tests.waiting import wait_until

KEY = "app.handlers.subscription:news"


def assert_each_step_is_taken_once(first, sink, folder):
    """Send each confirmation to two copies of the application `first`: one welcomes, the other one knows of it."""
    workers = [first.copy(folder / f"worker-{number}") for number in range(2)]
    senders = [f"{number}@people.example" for number in range(12)]

    def send_until_taken(worker, sender, recipient):
        wait_until(lambda: worker.send(sender, recipient)[0] == 250, 60)

    with workers[0].start() as one, workers[1].start() as other, ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda sender: send_until_taken(one, sender, "news-subscribe"), senders))
        addresses = {reply.recipients[0]: reply["Reply-To"] for reply in sink.take(len(senders))}
        both = [(worker, sender, addresses[sender]) for sender in senders for worker in (one, other)]
        list(pool.map(lambda mail: send_until_taken(*mail), both))
        answers = Counter((reply.recipients[0], reply["Subject"]) for reply in sink.take(2 * len(senders)))
        kept = one.python(
            "import config.boot; from salmon.routing import Router; print(*Router.STATE_STORE, sep='\\n')"
        )

    assert set(answers.values()) == {1}, answers
    assert {subject for _, subject in answers} == {"Welcome to news", "You are subscribed to news already"}
    assert sorted(kept.stdout.splitlines()) == sorted(str((KEY, sender, "SUBSCRIBED")) for sender in senders)
