"""What PostgreSQL costs: `python -m benchmarks.postgresql` prints two tables, after some minutes.

`SQLAlchemyStorage` beside bare psycopg, one connection each, on the same server, which syncs what it
commits; and the mails a second that one worker handles, and two, with a reply to each.
"""

import random
import statistics
import tempfile
import time

import psycopg

from benchmarks.client import Client
from tests.application import Application
from tests.baking import bake, import_baked
from tests.postgresql import Server
from tests.sink import Sink

KEY = "app.handlers.subscription:news"
SELECT = "SELECT state FROM states WHERE key = %s AND sender = %s"
UPSERT = "INSERT INTO states VALUES (%s, %s, %s) ON CONFLICT (key, sender) DO UPDATE SET state = excluded.state"
PAIRS = 3000
SENDERS = (1_000, 100_000, 1_000_000)
MAILS = 2000


def main():
    with tempfile.TemporaryDirectory() as folder, Server(folder, fsync="on") as server:
        application = bake(folder, state_storage="postgresql")
        storage_module = import_baked(application, "app.model.state_storage")
        print("senders    get, bare psycopg          set, bare psycopg          us, medians of interleaved pairs")
        for senders in SENDERS:
            storage_beside_psycopg(storage_module, server, senders)
        for workers in (1, 2):
            throughput(application, server, workers)


def storage_beside_psycopg(storage_module, server, senders):
    url = server.new_database()
    storage = storage_module.SQLAlchemyStorage(url)
    storage.set_all((KEY, sender(number), "CONFIRMING") for number in range(senders))
    with psycopg.connect(url, autocommit=True) as bare:
        bare.execute("VACUUM ANALYZE states")

        def bare_get(number):
            return bare.execute(SELECT, (KEY, sender(number))).fetchone()[0]

        def bare_set(number):
            bare.execute(UPSERT, (KEY, sender(number), f"STATE_{time.time()}"))

        def get(number):
            return storage.get(KEY, sender(number))

        def set(number):
            storage.set(KEY, sender(number), f"STATE_{time.time()}")

        got = medians(get, bare_get, senders), medians(set, bare_set, senders)
    storage.close()
    texts = [f"{ours:6.0f} {theirs:6.0f}  ratio {ours / theirs:.2f}" for ours, theirs in got]
    print(f"{senders:>9}  {'     '.join(texts)}", flush=True)


def medians(one, other, senders):
    """Return the median of each in microseconds; they take turns, so that both meet the same machine."""
    times = {one: [], other: []}
    for _ in range(PAIRS):
        for function in random.sample([one, other], 2):
            number = random.randrange(senders)
            started = time.perf_counter()
            function(number)
            times[function].append(time.perf_counter() - started)
    return [statistics.median(times[function]) * 1e6 for function in (one, other)]


def throughput(folder, server, workers):
    with Sink() as sink:
        settings = {"RELAY_PORT": sink.port, "STATE_DATABASE": server.new_database(), "SECRET_KEY": "x" * 32}
        apps = [Application(folder, **settings).start() for _ in range(workers)]
        client = Client("lmtp", [app.port for app in apps], 8)
        mails = [(sender(number), "news-subscribe@example.com") for number in range(MAILS)]
        client.send(mails[:200])
        sent = client.send(mails[200:])
        client.close()
        for app in apps:
            app.terminate()
    print(f"{workers} workers: {sent.rate:.0f} mails a second, each with a reply and a new state")


def sender(number):
    return f"user{number}@people.example"


if __name__ == "__main__":
    main()
