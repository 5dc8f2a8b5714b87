"""Patience with a PostgreSQL server that does not answer.

A server that hangs, or that the network was cut off from, ends no statement, whatever its time-outs are.
"""

import time
import weakref


def limit_waiting(connection, seconds):
    """Let a connection of psycopg 3 close itself and raise `OperationalError` when no answer comes for `seconds`."""
    wait = type(connection).wait
    connection = weakref.proxy(connection)  # it will hold what waits

    def limited(generator, *arguments, **options):
        return wait(connection, _limited(generator), *arguments, **options)

    def _limited(generator):
        deadline = time.monotonic() + seconds
        try:
            wanted = next(generator)
            while True:
                ready = yield wanted  # psycopg resumes with nothing every 0.1 s
                if not ready and time.monotonic() > deadline:
                    connection.close()
                    raise connection.OperationalError(f"no answer of the server within {seconds} seconds")
                wanted = generator.send(ready)
        except StopIteration as end:
            return end.value

    connection.wait = limited
