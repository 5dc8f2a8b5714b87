"""Patience with a server of PostgreSQL that does not answer; nothing in here needs Django or Salmon."""

import time


def within(seconds, generator, give_up):
    """Run `generator`, what psycopg 3 waits for; raise `give_up(reason)` when no answer comes for `seconds`.

    A server that hangs, or that the network was cut off from, ends no statement, whatever its time-outs are.
    """
    deadline = time.monotonic() + seconds
    try:
        wanted = next(generator)
        while True:
            ready = yield wanted  # psycopg resumes with nothing every 0.1 s
            if not ready and time.monotonic() > deadline:
                raise give_up(f"no answer of the server within {seconds} seconds")
            wanted = generator.send(ready)
    except StopIteration as end:
        return end.value
