"""Runs in a baked application, against the MariaDB that TEST_DATABASE names; see `tests/test_mariadb.py`."""

import os
from contextlib import suppress

import pymysql
import pytest
from salmon.routing import Router

from config import settings

settings.state_database = os.environ["TEST_DATABASE"]  # before Django reads it
pymysql.install_as_MySQLdb()

from django.db import DatabaseError, connection  # noqa: E402

from app.handlers import subscription  # noqa: E402
from app.handlers.subscription import CONFIRMING, START  # noqa: E402
from app.model.mail_states import MailStates  # noqa: E402
from app.model.state_storage import DjangoStorage  # noqa: E402
from tests.conversation import assert_in_state, receive  # noqa: E402
from tests.model.mail_states_contract import MailStatesContract  # noqa: E402
from tests.model.storage_contract import (  # noqa: E402
    ALICE,
    KEY,
    KeptStorageContract,
    TurnsContract,
    elsewhere,
    refused,
)
from webapp.mail_states.models import State  # noqa: E402


@pytest.fixture
def storage():
    storage = DjangoStorage()
    storage.clear()
    yield storage
    storage.close()


class TestOnMariaDB(KeptStorageContract, TurnsContract, MailStatesContract):
    @pytest.fixture
    def reopen(self):
        return lambda storage: DjangoStorage()

    @pytest.fixture
    def other(self, storage):
        return DjangoStorage(turn_timeout=0.1)


def end_connection():
    """Let the server end the connection of this thread, as in a restart."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT connection_id()")
        (number,) = cursor.fetchone()

    def end():
        with connection.cursor() as cursor:
            cursor.execute(f"KILL HARD CONNECTION {number}")
        connection.close()

    elsewhere(end)


def test_what_handlers_write_is_undone_with_a_mail_that_fails(storage, monkeypatch):
    def write_and_fail(*arguments, **options):
        State.objects.create(key="of the user's own", sender=ALICE, state="PAID")
        raise ZeroDivisionError

    monkeypatch.setattr(Router, "STATE_STORE", MailStates(storage))
    with monkeypatch.context() as patch, pytest.raises(ZeroDivisionError):
        patch.setattr(subscription, "answer", write_and_fail)
        receive(ALICE, "news-subscribe")
    assert_in_state(START, ALICE)
    assert list(storage) == []

    receive(ALICE, "news-subscribe")
    assert_in_state(CONFIRMING, ALICE)


def test_an_error_that_a_handler_hides_does_no_harm(storage):
    """MariaDB undoes the statement that failed, and goes on."""
    with suppress(DatabaseError), storage.conversation(ALICE):
        storage.set(KEY, ALICE, "CONFIRMING")
        with suppress(DatabaseError):
            connection.cursor().execute("no SQL")
        storage.set(KEY, ALICE, "SUBSCRIBED")

    assert storage.get(KEY, ALICE) == "SUBSCRIBED"


@pytest.mark.parametrize("call", ["get", "set", "conversation"])
def test_a_connection_that_went_stale_is_not_noticed(storage, call):
    storage.set(KEY, ALICE, "CONFIRMING")
    end_connection()
    if call == "get":
        assert storage.get(KEY, ALICE) == "CONFIRMING"
    elif call == "set":
        storage.set(KEY, ALICE, "SUBSCRIBED")
        assert storage.get(KEY, ALICE) == "SUBSCRIBED"
    else:
        with storage.conversation(ALICE):
            storage.set(KEY, ALICE, "SUBSCRIBED")
        assert storage.get(KEY, ALICE) == "SUBSCRIBED"


def test_a_connection_that_breaks_in_a_conversation_changes_nothing(storage):
    with refused(451), storage.conversation(ALICE):
        storage.set(KEY, ALICE, "SUBSCRIBED")
        end_connection()
    assert storage.get(KEY, ALICE) == "START"
    with storage.conversation(ALICE):
        storage.set(KEY, ALICE, "CONFIRMING")
    assert storage.get(KEY, ALICE) == "CONFIRMING"
