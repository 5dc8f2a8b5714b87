"""Several workers, one PostgreSQL: what is promised holds between them, and when the server goes away."""

import re
import signal
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from itertools import count

import psycopg
import pytest

from tests.postgresql import Server
from tests.waiting import wait_until

ALICE = "alice@people.example"
BOB = "bob@people.example"
KEY = "app.handlers.subscription:news"


@pytest.fixture
def workers(application, tmp_path):
    """A function: start so many workers, each from a folder of its own as on machines of their own.

    `receiver` are arguments of its receiver.
    """
    started = []

    def workers(number, receiver="", **settings):
        first = application(state_storage="postgresql", **settings)
        boot = first.folder / "config" / "boot.py"
        boot.write_text(boot.read_text().replace("settings.receiver_port)", f"settings.receiver_port{receiver})"))
        started.extend(first.copy(tmp_path / f"machine-{n}") for n in range(number))
        return [worker.start() for worker in started]

    yield workers
    for worker in started:
        worker.__exit__()


@pytest.fixture
def server(tmp_path):
    """A running `Server` of the test's own."""
    with Server(tmp_path) as server:
        yield server


def states(worker):
    """Return the state of each sender, by sender, as the database has it."""
    with psycopg.connect(worker.settings["STATE_DATABASE"]) as connection:
        return dict(connection.execute("SELECT sender, state FROM states WHERE key = %s", [KEY]).fetchall())


def send(worker, *mail):
    """Send a mail as `Application.send` does; return the code of the answer, and the seconds that it took."""
    started = time.monotonic()
    code, _ = worker.send(*mail)
    return code, time.monotonic() - started


def header(reply, name):
    """Return a short header of a `Reply`, without the time that it takes to parse all of it."""
    return re.search(rf"^{name}: (.*)\r$", reply.data.decode("ascii"), re.MULTILINE)[1]


def send_until_taken(worker, *mail):
    """Send a mail again for as long as it is answered 451, as a mail server does."""
    wait_until(lambda: send(worker, *mail)[0] == 250, 60)


def test_each_step_of_a_conversation_is_taken_once_whichever_worker_gets_it(workers, sink):
    """Every mail is sent to both workers at the same time: one takes the step, the other one comes after it."""
    pair = workers(2)
    mine = threading.local()

    def to_both(sender, recipient):
        if not hasattr(mine, "pool"):
            mine.pool, mine.clients = ThreadPoolExecutor(2), [worker.client() for worker in pair]
        list(mine.pool.map(lambda client: send_over(client, sender, pair[0].address(recipient)), mine.clients))

    def send_over(client, sender, recipient):
        client.mail(sender)
        client.rcpt(recipient)
        answer = client.data(b"Subject: hello\r\n\r\nHello.\r\n")
        if answer[0] == 451:  # as a mail server does, which tries again
            return send_over(client, sender, recipient)
        assert answer[0] == 250

    def converse(number):
        sender = f"{number}@people.example"
        to_both(sender, "news-subscribe")
        confirm = wait_until(lambda: confirmation(sender), 60)
        to_both(sender, confirm)
        if number % 2:
            to_both(sender, "news-unsubscribe")

    def confirmation(sender):
        found = [header(reply, "Reply-To") for reply in list(sink.replies) if reply.recipients == (sender,)]
        return found and found[0]

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(converse, range(100)))

    subjects = Counter((reply.recipients[0], header(reply, "Subject")) for reply in sink.wait_for(500, 60))
    for number in range(100):
        sender = f"{number}@people.example"
        assert subjects[sender, "Please confirm your subscription to news"] == 2
        assert subjects[sender, "Welcome to news"] == 1
        assert subjects[sender, "You are subscribed to news already"] == 1
        assert subjects[sender, "Goodbye from news"] == number % 2
        assert subjects[sender, "You are not subscribed to news"] == number % 2
    assert states(pair[0]) == {f"{number}@people.example": "SUBSCRIBED" for number in range(0, 100, 2)}


def test_a_server_that_is_stopped_or_killed_loses_nothing_that_was_acknowledged(workers, server):
    pair = workers(2, STATE_DATABASE=server.new_database())
    numbers, answers, over = count(), [], threading.Event()

    def senders(worker):
        while not over.is_set():
            sender = f"{next(numbers)}@people.example"
            answers.append((sender, *send(worker, sender, "news-subscribe")))

    def answered(code, more):
        before = len(answers)
        wait_until(lambda: sum(answer[1] == code for answer in answers[before:]) >= more, 60, lambda: answers[before:])

    with ThreadPoolExecutor(4) as pool:
        clients = [pool.submit(senders, worker) for worker in pair * 2]
        try:
            answered(250, 20)
            for go_away in (server.stop, server.kill, server.kill):
                go_away()
                answered(451, 20)
                server.start()
                answered(250, 20)
        finally:
            over.set()
        for client in clients:
            client.result()

    assert {code for _, code, _ in answers} == {250, 451}
    assert max(seconds for *_, seconds in answers) < 30
    acknowledged = {sender for sender, code, _ in answers if code == 250}
    kept = states(pair[0])
    assert acknowledged <= kept.keys()
    # One whose commit was under way may be kept although nobody was told.
    assert len(kept) - len(acknowledged) <= 3 * len(clients)
    for sender in {sender for sender, code, _ in answers if code == 451}:
        assert send(pair[0], sender, "news-subscribe")[0] == 250


def test_conversations_go_on_when_the_standby_is_promoted_and_none_is_lost(workers, sink, tmp_path):
    """A worker that knows the standby only, which can be read but not written, answers 451 and sends nothing."""
    numbers, answers, over = count(), [], threading.Event()

    def senders(worker):
        while not over.is_set():
            sender = f"{next(numbers)}@people.example"
            answers.append((sender, send(worker, sender, "news-subscribe")[0]))

    def answered(code, more):
        before = len(answers)
        wait_until(lambda: [code for _, code in answers[before:]].count(code) >= more, 60, lambda: answers[before:])

    def replies(sender):
        return [reply for reply in list(sink.replies) if reply.recipients == (sender,)]

    with Server(tmp_path / "a") as first, Server(tmp_path / "b", standby_of=first) as second:
        name = first.new_database().rpartition("/")[2]
        hosts = "&".join(f"host={server.host}:{server.port}" for server in (second, first))
        url = f"postgresql://mail@/{name}?{hosts}&target_session_attrs=read-write"
        with first.connect() as connection:
            connection.execute("ALTER SYSTEM SET synchronous_standby_names = '*'")
            connection.execute("SELECT pg_reload_conf()")
        pair = workers(2, STATE_DATABASE=url)
        with ThreadPoolExecutor(2) as pool:
            clients = [pool.submit(senders, worker) for worker in pair]
            try:
                answered(250, 20)
                mail = f"Message-ID: <1@people.example>\r\nFrom: {ALICE}\r\n\r\n".encode()
                with pair[0].copy(tmp_path / "reader") as reader:
                    reader.settings["STATE_DATABASE"] = second.url(name, "mail")
                    reader.start()
                    assert [reader.send_data(ALICE, "news-subscribe", mail)[0] for _ in range(10)] == [451] * 10
                    reader.wait_for_log("read-only")
                    first.kill()
                    answered(451, 10)
                    second.promote()
                    wait_until(lambda: reader.send_data(ALICE, "news-subscribe", mail)[0] == 250)
                    assert reader.send_data(ALICE, "news-subscribe", mail)[0] == 250
                    answered(250, 20)
                    wait_until(lambda: replies(ALICE))
                    reader.terminate()
                assert len({header(reply, "Message-ID") for reply in replies(ALICE)}) == 1
            finally:
                over.set()
            for client in clients:
                client.result()
        acknowledged = {ALICE} | {sender for sender, code in answers if code == 250}
        with second.connect(name) as connection:
            kept = dict(connection.execute("SELECT sender, state FROM states WHERE key = %s", [KEY]).fetchall())
        assert acknowledged <= kept.keys()
        assert len(kept) - len(acknowledged) <= len(clients)
        for worker in pair:
            worker.terminate()


def test_a_lost_connection_is_replaced_before_the_next_mail(workers, postgresql):
    (worker,) = workers(1)
    for sender in (ALICE, BOB):
        with postgresql.connect() as connection:
            ended = connection.execute(
                "SELECT pg_terminate_backend(pid, 30000) FROM pg_stat_activity WHERE datname = %s",
                [worker.settings["STATE_DATABASE"].rpartition("/")[2]],
            )
            assert ended.fetchall() == [(True,)]
        assert send(worker, sender, "news-subscribe")[0] == 250


def test_too_many_connections_are_answered_451(workers, postgresql):
    (worker,) = workers(1)
    database = worker.settings["STATE_DATABASE"].rpartition("/")[2]
    with postgresql.connect() as connection:
        connection.execute(f"ALTER DATABASE {database} CONNECTION LIMIT 0")
        connection.execute(
            "SELECT pg_terminate_backend(pid, 30000) FROM pg_stat_activity WHERE datname = %s", [database]
        )
        assert send(worker, ALICE, "news-subscribe")[0] == 451
        connection.execute(f"ALTER DATABASE {database} CONNECTION LIMIT 9")
    assert send(worker, ALICE, "news-subscribe")[0] == 250
    worker.wait_for_log("too many connections")


def test_database_that_hangs_is_answered_451(workers, server):
    (worker,) = workers(1, STATE_DATABASE=server.new_database())
    assert send(worker, ALICE, "news-subscribe")[0] == 250

    with server.frozen():
        for sender in (ALICE, BOB):
            code, seconds = send(worker, sender, "news-subscribe")
            assert code == 451
            assert seconds < 30

    send_until_taken(worker, BOB, "news-subscribe")
    worker.wait_for_log("connection timeout expired")


def test_wait_for_a_locked_table_ends(workers):
    (worker,) = workers(1, receiver=", lock_timeout=3")
    with psycopg.connect(worker.settings["STATE_DATABASE"]) as connection:
        connection.execute("LOCK TABLE states")
        assert send(worker, ALICE, "news-subscribe")[0] == 451
    assert send(worker, ALICE, "news-subscribe")[0] == 250


def test_mail_waits_only_for_another_mail_of_the_same_sender(workers):
    stuck, other = workers(2, receiver=", lock_timeout=3")
    url = stuck.settings["STATE_DATABASE"]
    with psycopg.connect(url, autocommit=True) as looking:
        with psycopg.connect(url) as locking:
            locking.execute("LOCK TABLE handled")  # which a mail reads when its sender is locked
            client = stuck.client()
            client.mail(ALICE)
            client.rcpt(stuck.address("news-subscribe"))
            client.putcmd("data")
            client.getreply()
            client.send(b"Message-ID: <1@people.example>\r\n\r\n.\r\n")
            granted = "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND granted"
            wait_until(lambda: looking.execute(granted).fetchone())
            stuck.process.send_signal(signal.SIGSTOP)

        assert send(other, ALICE, "news-subscribe")[0] == 451
        assert send(other, BOB, "news-subscribe")[0] == 250

        stuck.kill()
        wait_until(lambda: not looking.execute(granted).fetchone())
    assert send(other, ALICE, "news")[0] == 250
    assert states(other) == {BOB: "CONFIRMING"}


def test_a_role_that_may_not_create_tables_uses_one_that_is_there(workers, postgresql):
    (worker,) = workers(1)
    worker.terminate()
    url = worker.settings["STATE_DATABASE"]
    with postgresql.connect(url.rpartition("/")[2]) as connection:
        connection.execute("CREATE ROLE guest LOGIN")
        connection.execute("GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO guest")
    worker.settings["STATE_DATABASE"] = url.replace("mail@", "guest@")

    worker.start()

    assert send(worker, ALICE, "news-subscribe")[0] == 250


@pytest.mark.parametrize(
    "settings, reason",
    [
        ({"SECRET_KEY": ""}, "SECRET_KEY '' must be set"),
        ({"STATE_DATABASE": "postgresql://mail:secret@127.0.0.1:1/mail"}, "Connection refused"),
        ({"STATE_DATABASE": "mail:secret@db"}, "it is no URL"),
        ({"STATE_DATABASE": "mariadb://mail:secret@127.0.0.1:1/mail"}, "Connection refused"),
        ({"STATE_DATABASE": "postgresql://mail:secret\n@127.0.0.1/mail"}, "must be printable text"),
    ],
)
def test_unusable_database_ends_the_start_with_one_line(application, settings, reason):
    app = application(state_storage="postgresql", **settings)

    started = app.run("salmon", "start", "--no-daemon")

    assert started.returncode == 1
    (line,) = started.stderr.splitlines()
    assert re.match(r"ERROR: (STATE_DATABASE|SECRET_KEY) ", line)
    assert reason in line
    assert "secret" not in line
