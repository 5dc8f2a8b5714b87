"""The storage that was picked keeps Salmon's contract, and what its own documentation says.

On SQLite, which needs no server, and on PostgreSQL where TEST_DATABASE is the URL of a database in
which a schema may be made: TEST_DATABASE=postgresql://localhost/test pytest
"""

import os
import secrets

import psycopg
import pytest
import sqlalchemy
from salmon.routing import Router

from app.model.mail_states import MailStates
from app.model.state_storage import SQLAlchemyStorage
from config.environment import needs
from tests.conversation import assert_in_state, receive
from tests.model.booting import boot
from tests.model.mail_states_contract import MailStatesContract
from tests.model.storage_contract import ALICE, BOB, KEY, KeptStorageContract, TurnsContract, refused
from tests.trial_list import CONFIRMING

SERVER = os.environ.get("TEST_DATABASE")


class SQLAlchemyContract(KeptStorageContract, TurnsContract, MailStatesContract):
    @pytest.fixture
    def storage(self, url):
        storage = SQLAlchemyStorage(url)
        yield storage
        storage.close()

    @pytest.fixture
    def reopen(self):
        def reopen(storage):
            storage.close()
            return SQLAlchemyStorage(storage.url)

        return reopen

    @pytest.fixture
    def other(self, storage):
        other = SQLAlchemyStorage(storage.url, turn_timeout=1)
        yield other
        other.close()

    @pytest.mark.parametrize("text", [None, "\0", "a\0b", "\ud800", "\udfff <j@x.example>", "x" * 3000, "\xe4" * 3000])
    def test_what_no_database_holds_is_refused_for_good(self, storage, text):
        calls = [
            lambda: storage.get(text, ALICE),
            lambda: storage.get(KEY, text),
            lambda: storage.set(text, ALICE, "SUBSCRIBED"),
            lambda: storage.set(KEY, text, "SUBSCRIBED"),
            lambda: storage.set(KEY, ALICE, text),
            lambda: storage.conversation(text).__enter__(),
        ]
        for call in calls:
            with refused(554):
                call()
        assert list(storage) == []

    def test_the_longest_texts_fit(self, storage):
        row = ("\U0001f41f" * 255, "\U0001f420" * 400, "\U0001f421" * 255)
        storage.set(*row)
        assert list(storage) == [row]

    def test_a_conversation_that_fails_changes_nothing(self, storage):
        storage.set(KEY, ALICE, "CONFIRMING")
        with pytest.raises(ZeroDivisionError), storage.conversation(ALICE):
            storage.set(KEY, ALICE, "SUBSCRIBED")
            storage.set_all([(KEY, BOB, "SUBSCRIBED")])
            assert storage.get(KEY, BOB) == "SUBSCRIBED"
            raise ZeroDivisionError
        assert list(storage) == [(KEY, ALICE, "CONFIRMING")]

    def test_nor_does_one_that_hides_a_failure_of_the_database(self, storage):
        storage.set(KEY, ALICE, "CONFIRMING")
        with refused(451), storage.conversation(ALICE):
            storage.set(KEY, ALICE, "SUBSCRIBED")
            with refused(451):
                storage._run(lambda connection: connection.cursor().execute("no SQL"))
        assert storage.get(KEY, ALICE) == "CONFIRMING"


class TestOnSQLite(SQLAlchemyContract):
    test_senders_do_not_wait_for_each_other = None  # SQLite has one writer at a time

    @pytest.fixture
    def url(self, tmp_path):
        return f"sqlite:///{tmp_path}/states.sqlite3"


class ServerContract(SQLAlchemyContract):
    """What holds of a server beyond that. `end_connections` ends those of the storage, as a restart does."""

    def test_a_server_that_was_restarted_is_not_noticed(self, storage, end_connections):
        for call in (
            lambda: storage.get(KEY, ALICE),
            lambda: storage.set(KEY, ALICE, "SUBSCRIBED"),
            lambda: storage.set_all([(KEY, ALICE, "SUBSCRIBED")]),
            lambda: storage.conversation(ALICE).__enter__(),
        ):
            end_connections()
            call()

    def test_a_connection_that_breaks_in_a_conversation_changes_nothing(self, storage, end_connections):
        with refused(451), storage.conversation(ALICE):
            storage.set(KEY, ALICE, "SUBSCRIBED")
            end_connections()
        assert storage.get(KEY, ALICE) == "START"
        with storage.conversation(ALICE):
            storage.set(KEY, ALICE, "CONFIRMING")
        assert storage.get(KEY, ALICE) == "CONFIRMING"


@pytest.mark.skipif(not SERVER, reason="TEST_DATABASE is not set to the URL of a PostgreSQL database")
class TestOnPostgreSQL(ServerContract):
    @pytest.fixture
    def url(self):
        schema = f"test_{secrets.token_hex(8)}"
        url = sqlalchemy.make_url(SERVER).set(drivername="postgresql+psycopg")
        engine = sqlalchemy.create_engine(url, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.exec_driver_sql(f"CREATE SCHEMA {schema}")
            yield url.update_query_dict({"options": f"-c search_path={schema}", "application_name": schema})
            connection.exec_driver_sql(f"DROP SCHEMA {schema} CASCADE")
        engine.dispose()

    @pytest.fixture
    def end_connections(self, url):
        def end_connections():
            with psycopg.connect(SERVER, autocommit=True) as connection:
                mine = "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE application_name = %s"
                assert connection.execute(mine, [url.query["application_name"]]).fetchall()

        return end_connections


def test_a_conversation_with_the_storage_that_was_picked(trial_list, tmp_path, monkeypatch):
    """Tests pin MemoryStorage; this is how to turn the real storage on for one of them."""
    storage = SQLAlchemyStorage(f"sqlite:///{tmp_path}/states.sqlite3")
    monkeypatch.setattr(Router, "STATE_STORE", MailStates(storage))

    receive(ALICE, "news-subscribe")

    assert_in_state(CONFIRMING, ALICE)
    assert list(storage) == [(KEY, ALICE, "CONFIRMING")]


def test_boot_attaches_the_storage_that_was_picked(tmp_path):
    booted = boot(f"sqlite:///{tmp_path}/states.sqlite3")

    assert f"<SQLAlchemyStorage sqlite:///{tmp_path}/states.sqlite3>" in booted.stdout
    assert "is protected" in booted.stderr


@pytest.mark.parametrize(
    "url, reason",
    [
        ("postgresql://mail:secret@127.0.0.1:1/mail", "refused"),
        ("postgresql://mail@127.0.0.1:1/mail?password=secret", "refused"),
        ("postgresql://mail:sec@ret@127.0.0.1/mail", "%40"),
        ("postgresql://mail:sec:ret@127.0.0.1:x/mail", "no URL"),
        ("postgresql:/mail:secret@127.0.0.1/mail", "no URL"),
        ("oracle://mail:secret@127.0.0.1/mail", "mariadb://"),
        ("postgresql+psycopg2://mail:secret@127.0.0.1/mail", "psycopg 3"),
    ],
)
def test_a_database_that_cannot_be_used_is_one_line_without_the_password(url, reason):
    with pytest.raises(SystemExit) as ended, needs("state_database", url):
        SQLAlchemyStorage(url)

    line = ended.value.code
    assert line.startswith("ERROR: STATE_DATABASE '")
    assert reason in line
    assert "\n" not in line
    assert "sec" not in line and "ret" not in line
