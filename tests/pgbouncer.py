"""A real PgBouncer before a PostgreSQL server: Debian's, in transaction pooling, otherwise as it comes."""

import os
import shutil
import socket
import subprocess
from pathlib import Path

import pytest

from tests.ports import free_port
from tests.waiting import wait_until

PROGRAM = shutil.which("pgbouncer", path="/usr/sbin:/usr/bin:/usr/local/bin")
needs_pgbouncer = pytest.mark.skipif(PROGRAM is None, reason="there is no PgBouncer here: apt-get install pgbouncer")


class PgBouncer:
    """Pools `size` sessions of a `tests.postgresql.Server`. Use it in a `with` block."""

    def __init__(self, folder, server, size):
        self.folder = Path(folder) / "pgbouncer"
        self.port = free_port()
        self.server = server
        self.size = size

    def __enter__(self):
        self.folder.mkdir()
        settings = {
            "listen_addr": "127.0.0.1",
            "listen_port": self.port,
            "unix_socket_dir": "",
            "auth_type": "any",
            "pool_mode": "transaction",
            "default_pool_size": self.size,
            "logfile": self.folder / "log",
        }
        databases = f"* = host={self.server.host} port={self.server.port} user=mail"
        lines = ["[databases]", databases, "[pgbouncer]", *(f"{name} = {value}" for name, value in settings.items())]
        (self.folder / "pgbouncer.ini").write_text("\n".join(lines))
        command = [PROGRAM, self.folder / "pgbouncer.ini"]
        if os.geteuid() == 0:  # it refuses root
            shutil.chown(self.folder, "nobody")
            command = ["setpriv", "--reuid=nobody", "--clear-groups", "--inh-caps=+dac_override",
                       "--ambient-caps=+dac_override", *command]  # fmt: skip
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_until(self._is_ready, 30, lambda: (self.folder / "log").read_text())
        return self

    def __exit__(self, *exception):
        self.process.kill()
        self.process.wait(30)

    def url(self, url):
        """Return the URL by which a database of the server is reached through here."""
        return url.replace(f":{self.server.port}/", f":{self.port}/")

    def _is_ready(self):
        try:
            socket.create_connection(("127.0.0.1", self.port), 1).close()
        except OSError:
            return False
        return True
