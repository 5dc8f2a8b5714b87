"""Mails through PgBouncer in transaction pooling: each is one transaction, whichever session it gets."""

import sys
import time

import psycopg
import pytest

from mailroom.storage.sqlalchemy import SQLAlchemyStorage
from mailroom.testing.contract import ALICE, KEY, in_thread, locked_get, refused
from tests import warm
from tests.mailroom.storage import ENVIRONMENT, PROGRAMS
from tests.pgbouncer import PgBouncer, needs_pgbouncer

pytestmark = needs_pgbouncer


@pytest.fixture(scope="module")
def pgbouncer(tmp_path_factory, postgresql):
    with PgBouncer(tmp_path_factory.mktemp("pooled"), postgresql, size=4) as pgbouncer:
        yield pgbouncer


@pytest.fixture
def url(postgresql, pgbouncer):
    return pgbouncer.url(postgresql.new_database())


@pytest.mark.parametrize("kind", ["", "django:"])
def test_every_mail_of_many_threads_is_kept_and_none_is_refused(url, kind):
    """With prepared statements or settings of the session, some meet a session that has others."""
    command = [sys.executable, PROGRAMS, "count_rows_together", f"{kind}{url}", "6", "25"]
    counted = warm.run(command, PROGRAMS.parent, ENVIRONMENT)
    assert counted.returncode == 0, counted.stderr
    assert counted.stdout.split() == ["25"] * 6


def test_lock_and_time_outs_hold_in_the_sessions_of_a_pool(url):
    storage, other = SQLAlchemyStorage(url), SQLAlchemyStorage(url, statement_timeout=1, lock_timeout=1)
    with storage.transaction(ALICE) as transaction:
        storage.set(KEY, ALICE, "CONFIRMING")
        with refused(451):
            in_thread(locked_get, other, ALICE)
        limits = "SELECT current_setting('lock_timeout'), current_setting('statement_timeout')"
        assert transaction.connection.exec_driver_sql(limits).one() == ("2s", "5s")
    with psycopg.connect(url, autocommit=True) as connection:
        for _ in range(8):  # whichever session it is
            assert connection.execute("SHOW lock_timeout", prepare=False).fetchone() == ("0",)
    with storage.transaction() as transaction:
        transaction.connection.exec_driver_sql("LOCK TABLE states")
        started = time.monotonic()
        with refused(451):
            in_thread(other.set, KEY, ALICE, "SUBSCRIBED")
        assert time.monotonic() - started < 4
    assert other.get(KEY, ALICE) == "CONFIRMING"


@pytest.mark.parametrize(["query", "threshold"], [("", None), ("?prepare_threshold=7", 7)])
def test_statements_are_prepared_only_when_the_url_says_so(url, query, threshold):
    assert prepare_threshold(url + query) == threshold


@pytest.mark.parametrize(
    ["query", "threshold"], [("", 5), ("?prepare_threshold=0", 0), ("?prepare_threshold=None", None)]
)
def test_statements_are_prepared_without_a_pool_as_the_url_says(postgresql, query, threshold):
    assert prepare_threshold(postgresql.new_database() + query) == threshold


def prepare_threshold(url):
    with SQLAlchemyStorage(url).transaction() as transaction:
        return transaction.connection.connection.driver_connection.prepare_threshold
