"""Programs that use one storage, most an SQLite file, in processes of their own: `python programs.py NAME PATH ...`."""

import faulthandler
import logging
import os
import random
import resource
import signal
import sqlite3
import sys
import threading
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from types import SimpleNamespace

from salmon.routing import Router
from salmon.server import SMTPError

from mailroom import outbox, relay
from mailroom.outbox import Sending
from mailroom.storage.sqlite import SQLiteStorage

KEY = "app.handlers.tickets:42"


def hammer(path, name, threads, senders):
    """Let threads share one storage: each sets, changes, forgets and sets its own senders, and reads them in between."""
    storage = SQLiteStorage(path)

    def work(thread):
        for number in range(int(senders)):
            sender = f"{name}-{thread}-{number}@b.example"
            for state in ("CONFIRMING", "SUBSCRIBED", "START", f"STATE_{number}"):
                storage.set(KEY, sender, state)
                assert storage.get(KEY, sender) == state, sender
            storage.set(KEY, "everybody@b.example", f"{name}-{thread}")

    _in_threads(work, int(threads))


def hammer_apart(path, name, threads, senders):
    """The same with a storage for each thread."""
    _in_threads(lambda thread: hammer(path, f"{name}-{thread}", 1, senders), int(threads))


def count(path, sender):
    """Set a sender to 1, 2, 3, ... for ever, and say each number once it is set."""
    storage = SQLiteStorage(path)
    number = int((storage.get(KEY, sender)).removeprefix("START") or 0)
    while True:
        number += 1
        storage.set_all([(KEY, sender, str(number)), (KEY, f"twin of {sender}", str(number))])
        print(number, flush=True)


def count_rows(path, sender):
    """Handle mail after mail of a sender, each a state, a row and a note, and say each number once it is handled."""
    storage = storage_at(path)
    storage.create_tables(_posts)
    while True:
        with storage.transaction(sender) as transaction:
            number = int((storage.get(KEY, sender)).removeprefix("START") or 0) + 1
            assert not transaction.handled(f"{number} {sender}".encode())
            execute(transaction.connection, f"INSERT INTO posts VALUES ('{number} {sender}')")
            storage.set(KEY, sender, str(number))
        print(number, flush=True)


def count_rows_together(path, threads, mails):
    """Let threads share one storage: each handles so many mails of its sender, a state, a row and a note. Print the last states."""
    storage = storage_at(path)
    storage.create_tables(_posts)

    def work(thread):
        sender = f"{thread}@b.example"
        for number in range(1, int(mails) + 1):
            with storage.transaction(sender) as transaction:
                assert not transaction.handled(f"{number} {sender}".encode())
                assert storage.get(KEY, sender) == (str(number - 1) if number > 1 else "START")
                execute(transaction.connection, f"INSERT INTO posts VALUES ('{number} {sender}')")
                storage.set(KEY, sender, str(number))

    _in_threads(work, int(threads))
    with storage.transaction() as transaction:
        assert len(list(execute(transaction.connection, "SELECT text FROM posts"))) == int(threads) * int(mails)
    print(*(state for _, _, state in storage))


def send_and_die(path, port, step):
    """Handle a mail, state and answer, and die at a step of its way to the relay at that port; wait at "at the relay"."""
    outbox.QUEUED = 1 - outbox.seconds_for(0) - outbox.MARGIN  # a claim lasts a second
    storage, there = storage_at(path), relay.Relay("127.0.0.1", int(port))
    sending = Sending(SimpleNamespace(storage=storage, relay=there))
    sending._claim_due = list  # nothing of others
    sending.start()
    steps = {
        "before the commit": (storage, "commit"),
        "after the commit": (sending, "take"),
        "before the relay": (there, "transfer"),
        "before the content": (relay, "_stuffed"),
        "after the answer": (outbox, "settle"),
        "after the deletion": (outbox, "settle"),
    }
    if step in steps:
        owner, name = steps[step]
        whole = getattr(owner, name)

        def die(*arguments):
            if step == "after the deletion":
                whole(*arguments)
            os.kill(os.getpid(), signal.SIGKILL)

        setattr(owner, name, die)
    person = f"{step.replace(' ', '-')}@people.example"
    with storage.transaction(person, sending=sending) as transaction:
        storage.set(KEY, person, "SUBSCRIBED")
        transaction.send(f"Message-ID: <{person}>\r\n\r\n".encode(), person, "<>")
    threading.Event().wait()


def open_at_once(path):
    """Open a file that may not be there as others do, and use it."""
    _wait_for_the_others()
    storage = SQLiteStorage(path)
    storage.set(KEY, str(os.getpid()), "SUBSCRIBED")
    assert storage.get(KEY, str(os.getpid())) == "SUBSCRIBED"


def full_disk(path):
    """Meet a limit of the file's size, the same as a full disk, and be relieved of it."""
    storage = SQLiteStorage(path)
    storage.set(KEY, "early@b.example", "SUBSCRIBED")
    resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, resource.RLIM_INFINITY))
    number = 0
    try:
        for number in range(10_000):
            storage.set(KEY, f"{number}-{'x' * 500}@b.example", "SUBSCRIBED")
        print("the disk was never full")
    except SMTPError as error:
        print(error.code, flush=True)
    assert number > 0
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    storage.set(KEY, "late@b.example", "SUBSCRIBED")
    kept = {sender for _, sender, _ in SQLiteStorage(path)}
    assert {"early@b.example", "late@b.example"} <= kept
    assert {f"{n}-{'x' * 500}@b.example" for n in range(number)} <= kept, "a state that was acknowledged is lost"
    assert len(kept) == number + 2, "a state that was refused is there"


def hide_a_full_disk(path):
    """Meet a full disk in a handler that hides it; the mail is refused, and the next one is handled."""
    storage = SQLiteStorage(path)
    storage.create_tables(_posts)
    storage.open()
    resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, resource.RLIM_INFINITY))
    try:
        with storage.transaction("alice@people.example") as transaction:
            storage.set(KEY, "alice@people.example", "SUBSCRIBED")
            transaction.connection.execute("PRAGMA cache_size = 10")
            for number in range(1000):
                with suppress(sqlite3.Error):
                    transaction.connection.execute("INSERT INTO posts VALUES (?)", (f"{number}{'x' * 3000}",))
        print("the disk was never full")
    except SMTPError as error:
        print(error.code)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    with storage.transaction("bob@people.example") as transaction:
        print(transaction.connection.execute("SELECT count(*) FROM posts").fetchone()[0])
        transaction.connection.execute("INSERT INTO posts VALUES ('late')")
    print(*storage, len(list(sqlite3.connect(path).execute("SELECT * FROM posts"))))


def between_marks(path, *kinds):
    """Handle mails of these kinds, `read`, `state`, `row` or `both`, each between two lines on stdout."""
    storage = SQLiteStorage(path)
    storage.create_tables(_posts)
    storage.set(KEY, "alice@people.example", "SUBSCRIBED")
    for number, kind in enumerate(kinds):
        os.write(1, f"{kind} begins\n".encode())
        with storage.transaction("alice@people.example") as transaction:
            transaction.handled(os.urandom(16))
            storage.get(KEY, "alice@people.example")
            storage.set(KEY, "alice@people.example", f"S{number}" if kind in ("state", "both") else "SUBSCRIBED")
            if kind != "state":
                list(transaction.connection.execute("SELECT * FROM posts"))
                transaction.connection.execute("DELETE FROM posts WHERE text = 'not there'")
            if kind in ("row", "both"):
                transaction.connection.execute("INSERT INTO posts VALUES ('hello')")
        os.write(1, f"{kind} ends\n".encode())
        storage.set(KEY, "alice@people.example", "SUBSCRIBED")


def write_slowly(path, seconds):
    """Write a row in a handler, say so, and be slow."""
    logging.basicConfig(format="%(message)s")
    storage = SQLiteStorage(path)
    storage.create_tables(_posts)

    def SLOW(message):
        transaction.connection.execute("INSERT INTO posts VALUES ('slow')")
        print("written", flush=True)
        time.sleep(float(seconds))

    with storage.transaction("alice@people.example") as transaction:
        SLOW.__module__ = "app.handlers.slow"
        Router.call_safely(SLOW, SimpleNamespace(To="slow@example.com"), {})


def migrate(path):
    """Open a file of version 0.1 as others do, with own tables, and use both."""
    _wait_for_the_others()
    storage = SQLiteStorage(path)
    storage.create_tables(_posts_once)
    sender = f"worker-{os.getpid()}@b.example"
    with storage.transaction(sender) as transaction:
        assert storage.get(KEY, "0@b.example") == "SUBSCRIBED"
        storage.set(KEY, sender, "SUBSCRIBED")
        transaction.connection.execute("INSERT INTO posts VALUES (?)", (sender,))
    print(sender)


def is_noted(path, digest):
    """Say whether a mail was handled."""
    with SQLiteStorage(path).transaction("bob@people.example") as transaction:
        print(transaction.handled(bytes.fromhex(digest)))


def storage_at(path):
    """Return the storage at a path or a URL; one that begins with django: is that of Django."""
    if path.startswith("django:"):
        return _django_storage(path.removeprefix("django:"))
    if "://" not in path:
        return SQLiteStorage(path)
    from mailroom.storage.sqlalchemy import SQLAlchemyStorage

    return SQLAlchemyStorage(path)


def _django_storage(url):
    import dj_database_url
    import django
    from django.conf import settings

    database = dj_database_url.parse(url, conn_max_age=None)
    if url.startswith("sqlite:"):  # as in webapp.py
        wal = "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL"
        database["OPTIONS"] = {"timeout": 10, "transaction_mode": "IMMEDIATE", "init_command": wal}
    settings.configure(DATABASES={"default": database}, INSTALLED_APPS=["mailroom.django"], USE_TZ=True)
    django.setup()
    from mailroom.django.storage import DjangoStorage

    return DjangoStorage()


def execute(connection, sql):
    """Execute a statement on a connection, whichever kind it is; return the rows."""
    if hasattr(connection, "exec_driver_sql"):
        return connection.exec_driver_sql(sql)
    if hasattr(connection, "execute"):
        return connection.execute(sql)
    with connection.cursor() as cursor:
        cursor.execute(sql)
        return cursor.fetchall() if cursor.description else []


def _posts(connection):
    execute(connection, "CREATE TABLE IF NOT EXISTS posts (text TEXT)")


def _posts_once(connection):
    if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'posts'").fetchone():
        connection.execute("CREATE TABLE posts (text TEXT)")
        connection.execute("INSERT INTO posts VALUES ('the first one')")


def fork(path, rounds):
    """Fork while other threads are in statements, conversations and constructors; both sides go on."""
    storage = SQLiteStorage(path)
    stop = threading.Event()
    failures = []

    def busy(thread):
        number = 0
        while not stop.is_set():
            number += 1
            sender = f"{os.getpid()}-{thread}@b.example"
            with storage.transaction(sender):
                storage.set(KEY, sender, str(number))
                if storage.get(KEY, sender) != str(number):
                    failures.append(sender)
            if thread == 0:
                SQLiteStorage(path).set(KEY, sender, f"other {number}")

    threads = [threading.Thread(target=_reported, args=(failures, busy, thread)) for thread in range(4)]
    for thread in threads:
        thread.start()
    try:
        for round in range(int(rounds)):
            time.sleep(random.uniform(0, 0.01))
            child = os.fork()
            if child == 0:
                faulthandler.dump_traceback_later(30, exit=True)  # ends a child that hangs, and says where
                _in_child(storage, path, f"child-{round}")
            storage.set(KEY, "forker@b.example", str(round))
            _, status = os.waitpid(child, 0)
            assert status == 0, f"the child of round {round} ended with {status}"
            assert storage.get(KEY, f"child-{round}@b.example") == "SUBSCRIBED"
            assert storage.get(KEY, f"thread of child-{round}@b.example") == "SUBSCRIBED"
    finally:
        stop.set()
        for thread in threads:
            thread.join(60)
    assert not any(thread.is_alive() for thread in threads)
    assert not failures, failures


def fork_in_threads(path, rounds):
    """Let several threads fork at the same time, each child using the storage."""
    storage = SQLiteStorage(path)

    def work(thread):
        for round in range(int(rounds)):
            name = f"child-{thread}-{round}"
            child = os.fork()
            if child == 0:
                faulthandler.dump_traceback_later(30, exit=True)
                _in_child(storage, path, name)
            assert os.waitpid(child, 0)[1] == 0
            assert storage.get(KEY, f"{name}@b.example") == "SUBSCRIBED"

    _in_threads(work, 3)


def subscribe(path, threads, senders):
    """Handle a first mail of each of the same new senders, and say for whom the step at START was run."""
    storage = SQLiteStorage(path)
    _wait_for_the_others()

    def work(thread):
        numbers = list(range(int(senders)))
        random.Random(os.getpid() + thread).shuffle(numbers)
        for number in numbers:
            sender = f"{number}@b.example"
            with storage.transaction(sender):
                if storage.get(KEY, sender) == "START":
                    time.sleep(0.002)
                    os.write(1, f"{sender}\n".encode())  # at once, unlike what print does
                    storage.set(KEY, sender, "CONFIRMING")

    _in_threads(work, int(threads))


def hold(path, sender):
    """Lock a sender, say so, and never release it."""
    with SQLiteStorage(path).transaction(sender):
        print("held", flush=True)
        time.sleep(600)


def _wait_for_the_others():
    """Say that this process is ready, and go on when all are: what starts them sends a line then."""
    print("ready", flush=True)
    sys.stdin.readline()


def _in_child(storage, path, name):
    status = 1
    try:
        for file in os.scandir("/proc/self/fd"):
            with suppress(FileNotFoundError):
                assert os.readlink(file.path) not in (path, f"{path}-wal", f"{path}-shm"), "open across a fork"
        storage.set(KEY, f"{name}@b.example", "SUBSCRIBED")
        thread = threading.Thread(target=storage.set, args=(KEY, f"thread of {name}@b.example", "SUBSCRIBED"))
        thread.start()
        thread.join()
        with storage.transaction(name):
            assert SQLiteStorage(path).get(KEY, f"{name}@b.example") == "SUBSCRIBED"
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def _reported(failures, work, *arguments):
    try:
        work(*arguments)
    except BaseException as error:
        failures.append(error)


def _in_threads(work, threads):
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(work, range(threads)))


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
