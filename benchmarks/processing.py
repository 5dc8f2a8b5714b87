"""Run in the folder of an application: what a mail takes without the wire. Prints µs as JSON.

Processor time of one process, in turn; Salmon's own share is `MailRequest` and `Router.deliver`
with `MemoryStorage` and a handler that does nothing.
"""

import json
import logging
import os
import sys
import time

sys.path.insert(0, os.getcwd())

from salmon.mail import MailRequest  # noqa: E402
from salmon.routing import MemoryStorage, Router  # noqa: E402

import config.testing  # noqa: E402, F401
from app.handlers import subscription  # noqa: E402
from config import settings  # noqa: E402
from mailroom.storage.sqlite import SQLiteStorage  # noqa: E402

MAILS = 200
PEER = ("127.0.0.1", 0)
HEADERS = "From: A Person <{0}>\nTo: news@example.com\nSubject: hello\nMessage-ID: <{1}@people.example>\n"
MORE = "Date: Mon, 24 Nov 2025 10:00:00 +0000\nMIME-Version: 1.0\nContent-Type: text/plain; charset=utf-8\n\n"
TEXT = "This is one of the ten lines that a person wrote into this mail.\n" * 10


def by_salmon(sender, data):
    Router.deliver(MailRequest(PEER, sender, "news-subscribe@example.com", data))


def by_us(sender, data):
    settings.room.deliver(PEER, sender, "news-subscribe@example.com", data)


def without_log(handle):
    def quiet(*mail):
        logging.disable()
        handle(*mail)
        logging.disable(logging.NOTSET)

    return quiet


def main(rounds, senders):
    logging.basicConfig(stream=open(os.devnull, "w"), level=logging.INFO)
    bare, sqlite = MemoryStorage(), SQLiteStorage("run/processing.sqlite3")
    for sender in senders:
        for storage in (bare, sqlite):
            storage.set("app.handlers.subscription:news", sender, "SUBSCRIBED")
    reply = subscription.answer
    mails = [
        (s, (HEADERS.format(s, n) + MORE + TEXT).encode()) for n, s in enumerate(senders * (MAILS // len(senders)))
    ]
    contestants = {
        "Salmon: parse and route": (bare, None, by_salmon),
        "ours with MemoryStorage, no reply": (bare, None, by_us),
        "the same, without the line in the log": (bare, None, without_log(by_us)),
        "ours with sqlite, no reply": (sqlite, None, by_us),
        "ours with sqlite, a reply a mail": (sqlite, reply, by_us),
    }
    figures = {name: [] for name in contestants}
    for number in range(int(rounds) + 1):
        for name, (storage, answer, handle) in contestants.items():
            Router.STATE_STORE = storage
            subscription.answer = answer or (lambda *arguments, **options: None)
            settings.relay.sent.clear()
            settings.room.reply_limit.clear()
            started = time.process_time()
            for mail in mails:
                handle(*mail)
            taken = time.process_time() - started
            if len(settings.relay.sent) != (len(mails) if answer else 0):
                raise RuntimeError(f"{name}: {len(settings.relay.sent)} replies")
            if number:  # the first does not count
                figures[name].append(taken / len(mails) * 1e6)
    print(json.dumps(figures))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
