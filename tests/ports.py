"""Ports of the loopback interface for those who cannot bind one themselves."""

import contextlib
import random
import socket


def free_port():
    """Return a port that is free now, and that the system gives to nobody who asks for any."""
    while True:
        port = random.randrange(20_000, 32_000)
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
