"""What differs between the databases that `SQLAlchemyStorage` can use.

A class says how a URL names the database, how its driver gives up in time (time-outs are in whole seconds), how
a transaction begins, how a row is inserted or updated in one statement, and how a mail locks its sender, by a
number of 64 bits.
"""

from sqlalchemy import String, event
from sqlalchemy.dialects import mysql, postgresql, sqlite

from mailroom.storage.patience import limit_waiting


def text(length):
    """Return the type of a column that holds at most `length` characters and compares octets.

    A collation for people would fold what is not the same, and its order changes with the
    system's C library, under the index.
    """
    return (
        String(length)
        .with_variant(postgresql.VARCHAR(length, collation="C"), "postgresql")
        .with_variant(mysql.VARCHAR(length, charset="utf8mb4", collation="utf8mb4_nopad_bin"), "mariadb")
    )


class PostgreSQL:
    """The lock is an advisory one of the transaction; the server ends both when the worker dies."""

    names = ("postgresql+psycopg", "postgresql", "postgres")
    paramstyle = "format"
    # Whatever the server's default is: after the wait for a lock, the new state must be seen.
    begin = "BEGIN ISOLATION LEVEL READ COMMITTED"
    insert = staticmethod(postgresql.insert)

    def arguments(self, query, connect_timeout, statement_timeout, lock_timeout):
        server = {
            "statement_timeout": statement_timeout * 1000,
            "lock_timeout": lock_timeout * 1000,
            # By these the server sees within 20 seconds that a machine has gone, and releases its locks.
            "tcp_keepalives_idle": 5,
            "tcp_keepalives_interval": 5,
            "tcp_keepalives_count": 3,
        }
        options = [*(f"-c {name}={value}" for name, value in server.items()), query.get("options", "")]
        return {"connect_timeout": connect_timeout, "options": " ".join(options)}

    def prepare(self, engine, statement_timeout):
        @event.listens_for(engine, "connect", insert=True)
        def limit(connection, record):
            limit_waiting(connection, statement_timeout)

    def upsert(self, table):
        insert = self.insert(table)
        return insert.on_conflict_do_update(index_elements=table.primary_key, set_={"state": insert.excluded.state})

    def lock(self, cursor, number, lock_timeout):
        try:
            cursor.execute("SELECT pg_advisory_xact_lock(%s)", [number])
        except Exception as error:
            if type(error).__name__ == "LockNotAvailable":
                raise TimeoutError from error
            raise


class MariaDB:
    """The lock is a named one of the session, released when the connection returns to the pool."""

    names = ("mariadb+pymysql", "mariadb")
    paramstyle = "format"
    begin = "BEGIN"

    def arguments(self, query, connect_timeout, statement_timeout, lock_timeout):
        return {
            "connect_timeout": connect_timeout,
            "read_timeout": statement_timeout,
            "write_timeout": statement_timeout,
            "init_command": f"SET tx_isolation = 'READ-COMMITTED', innodb_lock_wait_timeout = {lock_timeout}",
        }

    def prepare(self, engine, statement_timeout):
        @event.listens_for(engine, "reset")
        def release(connection, record, state):
            connection.cursor().execute("DO RELEASE_ALL_LOCKS()")

    def upsert(self, table):
        insert = mysql.insert(table)
        return insert.on_duplicate_key_update(state=insert.inserted.state)

    def lock(self, cursor, number, lock_timeout):
        cursor.execute("SELECT GET_LOCK(%s, %s)", [f"mailroom {number}", lock_timeout])
        if cursor.fetchone()[0] != 1:
            raise TimeoutError


class SQLite(PostgreSQL):
    """For tests. A transaction locks every sender: SQLite has one writer at a time."""

    names = ("sqlite",)
    paramstyle = "qmark"
    begin = "BEGIN IMMEDIATE"
    insert = staticmethod(sqlite.insert)

    def arguments(self, query, connect_timeout, statement_timeout, lock_timeout):
        return {"timeout": lock_timeout}

    def prepare(self, engine, statement_timeout):
        pass

    def lock(self, cursor, number, lock_timeout):
        pass


DATABASES = (PostgreSQL(), MariaDB(), SQLite())
