"""What both storages in a database server know of it: how long to wait for it, and what a handler may not do there."""

import re
from collections.abc import Sequence
from typing import Any

from mailroom.storage import is_locked
from mailroom.storage.locks import PATIENCE
from mailroom.storage.tables import UPSERT

# Of the statements of a handler: those that would end the transaction of the mail, and those that write nothing.
ENDS = re.compile(r"\s*(BEGIN|START|COMMIT|END|ABORT|ROLLBACK(?!\s+TO\b)|PREPARE\s+TRANSACTION)\b", re.IGNORECASE)
READS = re.compile(r"\s*(SELECT|SHOW|EXPLAIN|VALUES|SET|PRAGMA|SAVEPOINT|RELEASE|ROLLBACK)\b", re.IGNORECASE)

MARIADB_UPSERT = """
    INSERT INTO states (key, sender, state, changed) VALUES (?, ?, ?, ?)
    ON DUPLICATE KEY UPDATE changed = IF(state = VALUES(state), changed, VALUES(changed)), state = VALUES(state)"""


def mariadb(statement: str) -> str:
    """Return what MariaDB makes of a statement in the SQL of SQLite."""
    return re.sub(r"\bkey\b", "`key`", MARIADB_UPSERT if statement == UPSERT else statement)


def run(cursor: Any, statement: str, rows: Sequence[Sequence[Any]]) -> bool:
    """Execute a statement with each row of values; return whether that has changed anything."""
    if len(rows) == 1:  # which takes psycopg half the time
        cursor.execute(statement, rows[0])
    elif rows:
        cursor.executemany(statement, rows)
    return bool(rows and cursor.rowcount)


def refuse_end(statement: str) -> None:
    """Raise `RuntimeError` for a statement that would commit half a mail, or undo it."""
    if ENDS.match(statement):
        raise RuntimeError("the transaction of a mail ends with the mail; a handler does not commit or roll back")


def has_written(statement: str, cursor: Any) -> bool:
    """Return whether a statement has changed something; DDL and what returns rows, which nobody counted yet, has."""
    return not READS.match(statement) and (cursor.rowcount != 0 or cursor.description is not None)


def postgresql_limits(statement_timeout: float, lock_timeout: float, options: Any = "") -> list[str]:
    """Return the settings of PostgreSQL that limit its waiting, in seconds, without those that `options` names."""
    limits = {
        "statement_timeout": round(statement_timeout * 1000),
        "lock_timeout": round(lock_timeout * 1000),
        # By these the server sees within 20 seconds that a machine has gone, and releases its locks.
        "tcp_keepalives_idle": 5,
        "tcp_keepalives_interval": 5,
        "tcp_keepalives_count": 3,
    }
    return [f"{name} = {value}" for name, value in limits.items() if name not in str(options)]


def postgresql_begin(cursor: Any, begin: list[str], number: int | None, waits: bool = True, **options: Any) -> None:
    """Execute `begin`, and lock the `number` until the transaction ends, or its worker dies, in one round trip.

    Raises `TimeoutError` when the lock is not released within `lock_timeout`. Unless it `waits`, the number must be
    free, and any other lock is waited for `PATIENCE`.
    """
    lock = [] if number is None else [f"SELECT pg_advisory_xact_lock({number})"]
    if not waits:
        lock = ["SET LOCAL lock_timeout = 1", *lock, f"SET LOCAL lock_timeout = {PATIENCE * 1000:.0f}"]
    try:
        cursor.execute("; ".join([*begin, *lock]), **options)
    except Exception as error:
        if is_locked(error):
            raise TimeoutError from error
        raise


def limit_waiting(connection: Any, seconds: float) -> None:
    """Let a connection of psycopg 3 close itself and raise `OperationalError` when no answer comes for `seconds`.

    A server that hangs, or that the network was cut off from, ends no statement, whatever its time-outs are.
    """
    wait = type(connection).wait

    def limited(*arguments: Any, **options: Any) -> Any:
        try:
            return wait(connection, *arguments, **{"timeout": seconds, **options})
        except connection.OperationalError as error:
            if type(error).__name__ == "_WaitTimeout":
                connection.close()
            raise

    connection.wait = limited
