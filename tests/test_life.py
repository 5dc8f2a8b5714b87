"""A generated application runs, gets mail over loopback, is killed, and goes on."""

import signal
import stat
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.baking import STORAGES
from tests.waiting import wait_until

ALICE = "alice@people.example"
BOB = "bob@people.example"


@pytest.mark.parametrize("state_storage, protocol", [*((storage, "lmtp") for storage in STORAGES), ("sqlite", "smtp")])
def test_conversation_survives_a_kill_after_every_mail(application, sink, state_storage, protocol):
    app = application(state_storage=state_storage, protocol=protocol)
    replies = {}  # by Message-ID: a copy comes when the worker died between the relay's answer and its deletion

    def new_reply():
        while True:
            (reply,) = sink.take()
            if replies.setdefault(reply["Message-ID"], reply) is reply:
                return reply

    def mail(sender, recipient):
        assert app.send(sender, recipient)[0] == 250
        if state_storage == "shelve":  # its outbox is in memory
            sink.wait_for()
        elif state_storage != "sqlite":  # what a dead worker has claimed waits for a minute
            wait_until(lambda: "0 in all" in app.run("python", "operate.py", "outbox").stdout)
        app.kill()
        app.start()
        reply = new_reply()
        assert reply.recipients == (sender,)
        assert reply.sender == "<>"
        return reply

    app.start()
    confirmation = mail(ALICE, "news-subscribe")
    mail(ALICE, confirmation["Reply-To"])
    mail(BOB, confirmation["Reply-To"])
    mail(ALICE, "news")
    mail(ALICE, "news-unsubscribe")
    app.send(ALICE, "news")
    new_reply()

    assert [reply["Subject"] for reply in replies.values()] == [
        "Please confirm your subscription to news",
        "Welcome to news",
        "You are not subscribed to news",
        "Your mail to news has arrived",
        "Goodbye from news",
        "You are not subscribed to news",
    ]


def test_each_list_has_a_conversation_of_its_own(application, sink):
    app = application(LISTS="news,dev").start()

    def subject(recipient):
        assert app.send(ALICE, recipient)[0] == 250
        (reply,) = sink.take()
        return reply["Subject"], reply["Reply-To"]

    _, news = subject("news-subscribe")
    _, dev = subject("dev-subscribe")
    assert subject(news)[0] == "Welcome to news"
    assert subject("dev")[0] == "Your subscription to dev is not confirmed yet"
    assert subject(dev.replace("dev-", "news-"))[0] == "You are subscribed to news already"
    assert subject(dev)[0] == "Welcome to dev"
    assert subject("news-unsubscribe")[0] == "Goodbye from news"
    assert subject("dev")[0] == "Your mail to dev has arrived"
    assert app.send(ALICE, "other")[0] == 550


def test_workers_share_states_and_signing_key(application, sink):
    """Each mail comes to another worker; the key that signs the tokens is made by one of six that start at once."""
    first = application()
    workers = [first.worker(number) for number in range(6)]
    try:
        for worker in workers:
            worker.launch()
        for worker in workers:
            worker.port = worker.wait_until_ready(worker.logged)

        workers[0].send(ALICE, "news-subscribe")
        (confirmation,) = sink.take()
        workers[1].send(ALICE, confirmation["Reply-To"])
        workers[2].send(ALICE, "news")
        assert [reply["Subject"] for reply in sink.take(2)] == ["Welcome to news", "Your mail to news has arrived"]

        workers[0].send(BOB, "news-subscribe")
        (confirmation,) = sink.take()
        with ThreadPoolExecutor(len(workers)) as at_once:
            answers = list(at_once.map(lambda worker: worker.send(BOB, confirmation["Reply-To"])[0], workers))
        assert answers == [250] * len(workers)
        subjects = [reply["Subject"] for reply in sink.take(len(workers))]
        assert sorted(subjects) == ["Welcome to news"] + ["You are subscribed to news already"] * (len(workers) - 1)
    finally:
        for worker in workers:
            worker.kill()


def test_replies_of_a_conversation_without_a_relay_come_in_order_when_it_is_back(application, sink):
    app = application().start()
    sink.stop()
    for text in ("news-subscribe", "news", "news-subscribe"):
        assert app.send(ALICE, text)[0] == 250

    sink.start()
    subjects = [reply["Subject"].partition(" to ")[0] for reply in sink.take(3)]
    assert subjects == ["Please confirm your subscription", "Your subscription", "Please confirm your subscription"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT], ids=lambda number: number.name)
def test_stop_signal_finishes_the_reply_that_is_being_sent(application, sink, number):
    app = application().start()
    app.send(ALICE, "news-subscribe")
    (confirmation,) = sink.take()

    with sink.held():
        assert app.send(ALICE, confirmation["Reply-To"])[0] == 250
        wait_until(lambda: sink.offered == 2)
        app.process.send_signal(number)
        app.wait_for_log("is going down")

    assert app.process.wait(30) == 0
    assert [reply["Subject"] for reply in sink.take()] == ["Welcome to news"]
    app.start()
    app.send(ALICE, "news")
    assert [reply["Subject"] for reply in sink.take()] == ["Your mail to news has arrived"]


def test_signing_key_is_created_once_and_is_private(application, sink):
    app = application().start()
    key = app.folder / "run" / "secret_key"
    made = key.read_bytes()
    assert len(made) >= 64
    assert stat.S_IMODE(key.stat().st_mode) == 0o600

    assert app.terminate() == 0
    app.start()
    assert key.read_bytes() == made
