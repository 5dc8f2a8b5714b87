"""`DjangoStorage` keeps the contract on SQLite, and what its own documentation says."""

import os
import shutil
import sqlite3
import time
from contextlib import suppress
from datetime import datetime, timezone

import pytest
from django.core.management import call_command
from django.db import DatabaseError, IntegrityError, close_old_connections, connections, transaction
from salmon.routing import Router

from mailroom.django.models import State
from mailroom.django.storage import DjangoStorage
from mailroom.storage import StorageError, current, is_locked
from mailroom.storage.tables import HANDLED_KEPT
from mailroom.testing.contract import ALICE, BOB, KEY, in_thread, refused
from tests.mailroom.django.conftest import known_as
from tests.mailroom.django.contracts import SiteContract
from tests.mailroom.storage.contracts import OurSharedStorageContract, OurTablesContract
from tests.mailroom.storage.programs import execute
from tests.mailroom.storage.test_crashes import assert_whole, killed_again_and_again


@pytest.fixture
def storage(database):
    return DjangoStorage(database)


class TestDjangoStorage(OurSharedStorageContract, OurTablesContract, SiteContract):
    def execute(self, connection, sql):
        return execute(connection, sql)

    @pytest.fixture
    def reopen(self):
        return lambda storage: DjangoStorage(storage.using)

    @pytest.fixture
    def other(self, storage):
        return DjangoStorage(storage.using, lock_timeout=0.05)

    def test_the_constructor_opens_nothing(self, storage, tmp_path):
        assert repr(storage) == f"<DjangoStorage {tmp_path}/states.sqlite3>"
        assert list(tmp_path.iterdir()) == []
        with storage.transaction(ALICE):
            assert storage.get(KEY, ALICE) == "START"

    @pytest.mark.parametrize("sender", ["a\0b", "\ufdd0", "\ud800", "a" * 401])
    def test_a_sender_that_no_database_holds_is_refused_for_good(self, storage, sender):
        for call in (lambda: storage.get(KEY, sender), lambda: storage.set(KEY, sender, "SUBSCRIBED")):
            with refused(554):
                call()

    def test_a_failing_database_makes_the_sending_server_keep_its_mail(self, storage):
        storage.set(KEY, ALICE, "CONFIRMING")
        storage.close()
        with open(storage.using, "r+b") as file:
            file.write(b"this is no database" * 500)
        for call in (lambda: storage.get(KEY, ALICE), lambda: storage.set(KEY, ALICE, "SUBSCRIBED")):
            with refused(451):
                call()

    @pytest.mark.parametrize("is_open", [True, False])
    def test_a_file_that_has_gone_is_not_an_empty_storage(self, storage, is_open):
        storage.set(KEY, ALICE, "CONFIRMING")
        if not is_open:
            storage.close()
        os.rename(storage.using, f"{storage.using}.away")
        for call in (lambda: storage.get(KEY, ALICE), lambda: storage.set(KEY, ALICE, "SUBSCRIBED")):
            with refused(451):
                call()
        assert not os.path.exists(storage.using)
        os.rename(f"{storage.using}.away", storage.using)
        assert list(storage) == [(KEY, ALICE, "CONFIRMING")]

    def test_a_file_that_was_replaced_is_noticed_before_a_write_is_lost(self, storage):
        storage.set(KEY, ALICE, "CONFIRMING")
        storage.close()
        backup = shutil.copy(storage.using, f"{storage.using}.backup")
        assert storage.get(KEY, ALICE) == "CONFIRMING"
        os.replace(backup, storage.using)
        with refused(451):
            storage.set(KEY, BOB, "SUBSCRIBED")
        storage.set(KEY, BOB, "SUBSCRIBED")
        assert list(DjangoStorage(storage.using)) == [(KEY, ALICE, "CONFIRMING"), (KEY, BOB, "SUBSCRIBED")]


def order(text):
    return State(key="order", sender=text, state="PAID")


def atomic_that_must_be_outermost(connection):
    with transaction.atomic(connection.alias, durable=True):
        pass


ENDS = {
    "transaction.commit": lambda connection: transaction.commit(connection.alias),
    "transaction.rollback": lambda connection: transaction.rollback(connection.alias),
    "commit of the connection": lambda connection: connection.commit(),
    "set_autocommit": lambda connection: connection.set_autocommit(True),
    "set_rollback": lambda connection: connection.set_rollback(True),
    "close": lambda connection: connection.close(),
    "close_old_connections": lambda connection: close_old_connections(),
    "atomic(durable=True)": atomic_that_must_be_outermost,
    "COMMIT": lambda connection: execute(connection, " commit"),
    "ROLLBACK": lambda connection: execute(connection, "ROLLBACK"),
    "BEGIN": lambda connection: execute(connection, "BEGIN IMMEDIATE"),
    "executescript": lambda connection: connection.cursor().executescript("SELECT 1"),
    "commit of the driver": lambda connection: connection.connection.commit(),
}


@pytest.mark.parametrize("then", ["fails", "goes on"])
@pytest.mark.parametrize("end", ENDS)
def test_handler_that_ends_the_transaction_itself_keeps_no_half_of_a_mail(storage, end, then):
    orders = State.objects.using(storage.using).filter(key="order")
    with suppress(ZeroDivisionError, StorageError), storage.transaction(ALICE) as here:
        storage.set(KEY, ALICE, "SUBSCRIBED")
        order("before").save(using=storage.using)
        with suppress(DatabaseError, RuntimeError, sqlite3.Error):
            ENDS[end](here.connection)
        with suppress(DatabaseError):
            order("after").save(using=storage.using)
        if then == "fails":
            raise ZeroDivisionError
    kept = [state.sender for state in orders.order_by("sender")]
    if then == "goes on" and kept:
        assert kept == ["after", "before"]
        assert storage.get(KEY, ALICE) == "SUBSCRIBED"
    else:
        assert kept == []
        assert storage.get(KEY, ALICE) == "START"


def test_error_that_a_handler_catches_around_an_atomic_undoes_that_alone(storage):
    orders = State.objects.using(storage.using).filter(key="order")
    with storage.transaction(ALICE):
        with transaction.atomic(storage.using):
            order("kept").save(using=storage.using)
        for sender in ("undone", "kept"):
            with suppress(IntegrityError), transaction.atomic(storage.using):
                order(sender).save(using=storage.using)
                order("kept").save(using=storage.using)
    assert [state.sender for state in orders] == ["kept"]


def test_on_commit_runs_after_the_commit_of_the_mail_and_only_then(storage, caplog):
    def note():
        assert current() is None
        ran.append(in_thread(storage.get, KEY, ALICE))

    ran = []
    with pytest.raises(ZeroDivisionError), storage.transaction(ALICE):
        transaction.on_commit(note, using=storage.using)
        raise ZeroDivisionError
    with storage.transaction(ALICE):
        with transaction.atomic(storage.using):
            transaction.on_commit(note, using=storage.using)
        transaction.on_commit(lambda: 1 / 0, using=storage.using)
        transaction.on_commit(note, using=storage.using)
        storage.set(KEY, ALICE, "SUBSCRIBED")
        assert ran == []
    assert ran == ["SUBSCRIBED"] * 2
    assert "ZeroDivisionError" in caplog.text


def test_others_write_until_a_handler_uses_the_database(storage):
    storage.open()
    orders = State.objects.using(storage.using).filter(key="order")
    with storage.transaction(ALICE):
        assert storage.get(KEY, ALICE) == "START"
        in_thread(lambda: order("bob's").save(using=storage.using))
        assert orders.count() == 1  # and from here on
        with sqlite3.connect(storage.using, timeout=0) as other, pytest.raises(sqlite3.OperationalError, match="lock"):
            other.execute("DELETE FROM mail_states_state")
        other.close()
        order("alice's").save(using=storage.using)
        storage.set(KEY, ALICE, "SUBSCRIBED")
    assert {state.sender for state in orders} == {"alice's", "bob's"}
    assert storage.get(KEY, ALICE) == "SUBSCRIBED"


def test_handler_that_hides_that_others_write_is_answered_451(storage):
    storage.open()
    other = sqlite3.connect(storage.using, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with refused(451), storage.transaction(ALICE, waits=False):
        storage.set(KEY, ALICE, "SUBSCRIBED")
        with suppress(StorageError):
            State.objects.using(storage.using).count()
        other.close()
    assert list(storage) == []


def test_file_that_nobody_may_write_is_no_lock_to_wait_for(storage):
    storage.set(KEY, ALICE, "SUBSCRIBED")
    connections[storage.using].connection.execute("PRAGMA query_only = ON")  # what a file system that is read-only does
    with pytest.raises(StorageError) as raised, storage.transaction(ALICE):
        storage.set(KEY, ALICE, "CONFIRMING")
    assert raised.value.code == 451
    assert not is_locked(raised.value)
    assert storage.get(KEY, ALICE) == "SUBSCRIBED"


def test_mail_whose_model_was_kept_is_noted_and_one_that_read_only_is_not(storage):
    def handle(digest, work):
        with storage.transaction(ALICE) as here:
            assert not here.handled(digest)
            with transaction.atomic(storage.using):
                work()
        return storage.is_handled(digest)

    orders = State.objects.using(storage.using).filter(key="order")
    assert handle(b"saved", lambda: order("kept").save(using=storage.using))
    assert handle(b"updated", lambda: orders.update(state="SENT"))
    assert not handle(b"read", lambda: list(orders))
    assert not handle(b"updated nothing", lambda: orders.filter(sender="nobody").update(state="SENT"))


def test_row_knows_when_its_state_changed(storage):
    storage.set_all([(KEY, ALICE, "CONFIRMING"), (KEY, BOB, "CONFIRMING")])
    State.objects.using(storage.using).update(changed=datetime(2020, 1, 1, tzinfo=timezone.utc))
    storage.set_all([(KEY, ALICE, "CONFIRMING"), (KEY, BOB, "SUBSCRIBED")])
    storage.set(KEY, ALICE, "CONFIRMING")
    assert storage.changed(KEY, ALICE) == datetime(2020, 1, 1, tzinfo=timezone.utc).timestamp()
    assert storage.changed(KEY, BOB) == pytest.approx(time.time(), abs=60)


def test_note_is_forgotten_after_a_week(storage, monkeypatch):
    def note(digest):
        with storage.transaction(ALICE) as here:
            assert not here.handled(digest)
            storage.set(KEY, ALICE, storage.get(KEY, ALICE) + "+")

    now = time.time()
    note(b"0123456789abcdef")
    for later, is_noted in ((HANDLED_KEPT - 60, True), (HANDLED_KEPT + 2 * 3600, False)):
        monkeypatch.setattr(time, "time", lambda later=later: now + later)
        note(f"of a mail {later:9}".encode())
        assert storage.is_handled(b"0123456789abcdef") == is_noted


def test_tables_of_0_1_keep_their_states(storage):
    open(storage.using, "wb").close()
    call_command("migrate", "mail_states", "0001", database=storage.using, verbosity=0)
    order(ALICE).save(using=storage.using)
    assert list(storage) == [("order", ALICE, "PAID")]
    with storage.transaction(ALICE) as here:
        assert not here.handled(b"0123456789abcdef")
        storage.set(KEY, ALICE, "SUBSCRIBED")
    assert storage.is_handled(b"0123456789abcdef")


def test_state_own_row_and_note_survive_a_kill_together_or_not_at_all(start, storage):
    for acknowledged in killed_again_and_again(start, "count_rows", f"django:sqlite:///{storage.using}"):
        assert_whole(storage, acknowledged)


def test_a_database_that_cannot_be_used_ends_the_start_in_one_line_without_the_password(room, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with known_as("server", "postgresql://mail:mysecret@127.0.0.1:1/states"):
        Router.STATE_STORE = DjangoStorage("server")
        with pytest.raises(SystemExit) as ended:
            room.start()

    line = ended.value.code
    assert line.startswith("ERROR: STATE_DATABASE <DjangoStorage states on 127.0.0.1:1> cannot be used: ")
    assert "refused" in line
    assert "\n" not in line
    assert "mysecret" not in line


def test_the_migrations_are_those_of_the_model(database):
    call_command("makemigrations", "mail_states", check=True, dry_run=True, verbosity=0)
