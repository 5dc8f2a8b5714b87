"""`DjangoStorage` keeps the contract on PostgreSQL and on MariaDB, and what only a server can show."""

import threading
import time
from contextlib import suppress
from unittest.mock import patch

import pymysql
import pytest
from django.db import DatabaseError, connection, connections, transaction
from salmon.routing import Router

from mailroom.django.models import State
from mailroom.django.storage import DjangoStorage
from mailroom.storage import StorageError, is_locked
from mailroom.testing import assert_in_state, receive
from mailroom.testing.contract import ALICE, BOB, KEY, in_thread, refused
from tests.mailroom import trial_list
from tests.mailroom.django.conftest import known_as
from tests.mailroom.django.contracts import SiteContract
from tests.mailroom.storage.contracts import OurSharedStorageContract, OurTablesContract
from tests.mailroom.storage.programs import execute
from tests.mailroom.storage.test_crashes import assert_whole, killed_again_and_again

pymysql.install_as_MySQLdb()  # Django asks for another driver


@pytest.fixture(scope="module")
def databases(request):
    """A function: the URL of a database on this server, the same for all tests."""
    urls = {}

    def url(server):
        if server not in urls:
            arguments = ["mysql"] if server == "mariadb" else []
            urls[server] = request.getfixturevalue(server).new_database(*arguments)
        return urls[server]

    return url


@pytest.fixture(params=["postgresql", "mariadb"])
def server(request, databases):
    """Django's default database is on this server."""
    with known_as("default", databases(request.param)):
        yield request.param


@pytest.fixture
def storage(server):
    storage = DjangoStorage()
    storage.clear()
    execute(connection, "DROP TABLE IF EXISTS posts")
    yield storage
    storage.close()


@pytest.fixture
def states(storage, monkeypatch):
    states = storage
    monkeypatch.setattr(Router, "STATE_STORE", states)
    return states


class TestOnAServer(OurSharedStorageContract, OurTablesContract, SiteContract):
    def execute(self, connection, sql):
        return execute(connection, sql)

    @pytest.fixture
    def reopen(self):
        return lambda storage: DjangoStorage()

    @pytest.fixture
    def other(self, storage):
        return DjangoStorage(lock_timeout=0.1)


def end_connection(number):
    """Let the server end a connection of ours, as in a restart."""

    def end():
        if connection.vendor == "postgresql":
            connection.cursor().execute("SELECT pg_terminate_backend(%s, 10000)", [number])
        else:
            connection.cursor().execute(f"KILL HARD CONNECTION {number}")
        connection.close()

    in_thread(end)


def connection_number():
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT {'pg_backend_pid' if connection.vendor == 'postgresql' else 'connection_id'}()")
        return cursor.fetchone()[0]


def test_what_handlers_write_is_undone_with_a_mail_that_fails(states, monkeypatch):
    def write_and_fail(message, list_name, state):
        State.objects.create(key="of the user's own", sender=ALICE, state="PAID")
        raise ZeroDivisionError

    with monkeypatch.context() as patch, pytest.raises(ZeroDivisionError):
        patch.setattr(trial_list, "answer", write_and_fail)
        receive(ALICE, "news-subscribe")
    assert_in_state(trial_list.START, ALICE, "news")
    assert list(states) == []

    receive(ALICE, "news-subscribe")
    assert_in_state(trial_list.CONFIRMING, ALICE, "news")


@pytest.mark.parametrize("server", ["postgresql"], indirect=True)
@pytest.mark.parametrize("wrong", ["model", "SQL"])
def test_an_error_that_a_handler_hides_is_answered_451(storage, wrong):
    def write():
        if wrong == "model":
            State(key="order", sender=ALICE, state="PAID").save(force_insert=True)
        else:
            connection.cursor().execute("SELECT 1 / 0")

    with refused(451), storage.transaction(ALICE):
        State.objects.create(key="order", sender=ALICE, state="PAID")
        with suppress(DatabaseError):
            write()

    assert list(storage) == []


BROKEN_ORDER = """
    CREATE TABLE orders (state bigint REFERENCES mail_states_state (id) DEFERRABLE INITIALLY DEFERRED);
    INSERT INTO orders VALUES (-1)"""


@pytest.mark.parametrize("server", ["postgresql"], indirect=True)
@pytest.mark.parametrize("hidden", ["a rollback", "a key that refers to nothing"])
def test_a_mail_that_will_be_undone_is_not_answered_first(room, states, monkeypatch, hidden):
    """Or the reply would leave again at every try."""

    def reply_and_fail(message, list_name, state):
        room.relay.deliver(b"Subject: done\r\n\r\n", To=ALICE, From="<>")
        if hidden == "a rollback":
            transaction.set_rollback(True)
        else:
            connection.cursor().execute(BROKEN_ORDER)
        return state

    monkeypatch.setattr(trial_list, "answer", reply_and_fail)
    with refused(451):
        receive(ALICE, "news-subscribe")
    assert room.relay.sent == []
    assert_in_state(trial_list.START, ALICE, "news")


def test_a_function_that_fails_after_the_commit_leaves_the_mail_handled(states, monkeypatch):
    def answer(message, list_name, state):
        transaction.on_commit(lambda: 1 / 0)
        return state

    monkeypatch.setattr(trial_list, "answer", answer)
    receive(ALICE, "news-subscribe")
    assert_in_state(trial_list.CONFIRMING, ALICE, "news")


def test_a_connection_that_broke_outside_of_the_storage_is_left(states):
    """A handler's own database, or that of the states in the mail of a machine, which locks nobody."""
    State.objects.count()
    end_connection(connection_number())
    with pytest.raises(DatabaseError):
        State.objects.count()
    with states.transaction("", stateless=True):
        assert State.objects.count() == 0


@pytest.mark.parametrize("server", ["postgresql"], indirect=True)
def test_a_mail_that_waited_for_a_lock_reads_what_the_one_before_has_left(storage):
    """Whatever level the site has."""
    connection.cursor().execute("SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL REPEATABLE READ")
    with storage.transaction(ALICE), connection.cursor() as cursor:
        cursor.execute("SHOW transaction_isolation")
        assert cursor.fetchone() == ("read committed",)


@pytest.mark.parametrize("server", ["mariadb"], indirect=True)
def test_mysql_which_is_not_tested_is_refused_at_start(storage, monkeypatch):
    monkeypatch.setattr(connections["default"], "display_name", "MySQL")
    with pytest.raises(StorageError) as refusal:
        DjangoStorage().open()
    assert str(refusal.value.__cause__) == "no states in MySQL"


@pytest.mark.parametrize("server", ["mariadb"], indirect=True)
def test_an_error_that_a_handler_hides_does_no_harm(storage):
    """MariaDB undoes the statement that failed, and goes on."""
    with suppress(DatabaseError), storage.transaction(ALICE):
        storage.set(KEY, ALICE, "CONFIRMING")
        with suppress(DatabaseError):
            connection.cursor().execute("no SQL")
        storage.set(KEY, ALICE, "SUBSCRIBED")

    assert storage.get(KEY, ALICE) == "SUBSCRIBED"


@pytest.mark.parametrize("server", ["postgresql"], indirect=True)
def test_mail_reads_what_others_have_committed(storage):
    """Also where the server has another isolation by default."""
    connection.cursor().execute("ALTER ROLE CURRENT_USER SET default_transaction_isolation = 'repeatable read'")
    try:
        connection.close()
        with storage.transaction(), connection.cursor() as cursor:
            cursor.execute("SHOW transaction_isolation")
            assert cursor.fetchone() == ("read committed",)
    finally:
        connection.cursor().execute("ALTER ROLE CURRENT_USER RESET default_transaction_isolation")


@pytest.mark.parametrize("call", ["get", "set", "iterate", "transaction"])
def test_no_call_fails_when_its_connection_went_stale(storage, call):
    storage.set(KEY, ALICE, "CONFIRMING")
    end_connection(connection_number())
    if call == "get":
        assert storage.get(KEY, ALICE) == "CONFIRMING"
    elif call == "set":
        storage.set_all((KEY, f"{number}@b.example", "SUBSCRIBED") for number in range(2500))
        assert len(list(storage)) == 2501
    elif call == "iterate":
        assert list(storage) == [(KEY, ALICE, "CONFIRMING")]
    else:
        with storage.transaction(ALICE):
            storage.set(KEY, ALICE, "SUBSCRIBED")
        assert storage.get(KEY, ALICE) == "SUBSCRIBED"


def test_conn_max_age_of_0_leaves_no_connection_open_after_a_mail(storage):
    storage.close()
    with patch.dict(connection.settings_dict, CONN_MAX_AGE=0):
        for state in ("CONFIRMING", "SUBSCRIBED"):
            with storage.transaction(ALICE):
                storage.set(KEY, ALICE, state)
            assert connection.connection is None
    storage.close()
    assert storage.get(KEY, ALICE) == "SUBSCRIBED"


@pytest.mark.parametrize("server", ["mariadb"], indirect=True)
def test_mail_whose_connection_breaks_after_the_commit_is_handled(storage):
    def end_before_the_lock_is_released(execute, sql, *arguments):
        if "RELEASE_LOCK" in sql:
            end_connection(number)
        return execute(sql, *arguments)

    ran = []
    with connection.execute_wrapper(end_before_the_lock_is_released), storage.transaction(ALICE):
        number = connection_number()
        storage.set(KEY, ALICE, "SUBSCRIBED")
        transaction.on_commit(lambda: ran.append("after the commit"))
    assert ran == ["after the commit"]
    assert storage.get(KEY, ALICE) == "SUBSCRIBED"


@pytest.mark.parametrize("server", ["postgresql"], indirect=True)
def test_connection_that_django_itself_renews_waits_no_longer_for_an_answer(storage):
    with patch.dict(connection.settings_dict, CONN_HEALTH_CHECKS=True):
        storage.close()
        storage.set(KEY, ALICE, "SUBSCRIBED")
        end_connection(connection_number())
        with storage.transaction(ALICE):
            assert "wait" in vars(connection.connection)
    storage.close()


@pytest.mark.parametrize("moment", ["before the states are kept", "after they are, before the end"])
def test_a_connection_that_breaks_in_a_transaction_changes_nothing(storage, moment):
    with refused(451), storage.transaction(ALICE):
        number = connection_number()
        if moment == "before the states are kept":
            storage.set(KEY, ALICE, "SUBSCRIBED")
        else:
            storage.set_all([(KEY, ALICE, "SUBSCRIBED")])
        end_connection(number)
    assert storage.get(KEY, ALICE) == "START"
    with storage.transaction(ALICE):
        storage.set(KEY, ALICE, "CONFIRMING")
    assert storage.get(KEY, ALICE) == "CONFIRMING"


@pytest.mark.parametrize("server", ["postgresql"], indirect=True)
def test_wait_for_a_locked_table_ends(storage):
    def lock_the_table():
        with storage.transaction(BOB), connection.cursor() as cursor:
            cursor.execute("LOCK TABLE mail_states_state IN ACCESS EXCLUSIVE MODE")
            locked.set()
            done.wait(60)

    locked, done = threading.Event(), threading.Event()
    thread = threading.Thread(target=lock_the_table)
    thread.start()
    try:
        assert locked.wait(30)
        with refused(451):
            storage.get(KEY, ALICE)
    finally:
        done.set()
        thread.join(30)
    assert storage.get(KEY, ALICE) == "START"


@pytest.mark.parametrize("waits", [True, False])
def test_mail_whose_row_another_mail_has_changed_is_tried_again_and_holds_up_no_receiver(storage, waits):
    def hold_the_row():
        with storage.transaction(BOB):
            State.objects.update(state="SENT")
            locked.set()
            done.wait(60)
        storage.close()

    State.objects.create(key="order", sender=ALICE, state="PAID")
    locked, done = threading.Event(), threading.Event()
    thread = threading.Thread(target=hold_the_row)
    thread.start()
    try:
        assert locked.wait(30)
        began = time.monotonic()
        with pytest.raises(DatabaseError) as raised, storage.transaction(ALICE, waits=waits):
            State.objects.update(state="RETURNED")
        assert is_locked(raised.value)
        assert time.monotonic() - began < (4 if waits else 1)
    finally:
        done.set()
        thread.join(30)
    assert State.objects.get().state == "SENT"


@pytest.mark.parametrize("server", ["postgresql"], indirect=True)
def test_state_own_row_and_note_survive_a_kill_together_or_not_at_all(start, server, databases, storage):
    for acknowledged in killed_again_and_again(start, "count_rows", f"django:{databases(server)}"):
        assert_whole(storage, acknowledged)
