"""A real MariaDB server: made in a folder with Debian's mariadb-server-core, started, ended."""

import secrets
import shutil
import subprocess
import tempfile
from pathlib import Path

import pymysql

from tests.ports import free_port
from tests.waiting import wait_until

PROGRAMS = "/usr/sbin:/usr/bin:/usr/local/bin"
REASON = "there is no MariaDB on this machine: apt-get install mariadb-server-core"
IS_THERE = shutil.which("mariadbd", path=PROGRAMS) is not None


class Server:
    """A server that listens on a free port of the loopback interface, and keeps its data in `folder`.

    Use it in a `with` block. It may be stopped, killed and started again, and keeps its port.
    """

    def __init__(self, folder=None):
        self.port = free_port()
        # Its socket wants a short path, so not below pytest's folders.
        self.folder = Path(tempfile.mkdtemp(prefix="mariadb-"))
        self.data = folder or self.folder / "data"
        self.process = None

    def __enter__(self):
        try:
            self.data.mkdir(exist_ok=True)
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exception):
        if self.process is not None:
            self.kill()
        shutil.rmtree(self.folder)

    def start(self):
        """Start it and wait until it takes connections."""
        command = [shutil.which("mariadbd", path=PROGRAMS), "--no-defaults", "--user=root"]
        command += [f"--datadir={self.data}", f"--socket={self.folder}/socket", f"--port={self.port}"]
        # Without tables of grants, which mariadb-server-core alone cannot make, everybody may do everything.
        command += ["--bind-address=127.0.0.1", "--skip-grant-tables", "--innodb-log-file-size=8M"]
        with open(self.folder / "log", "ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, cwd=self.folder)
        wait_until(self._is_ready, 60, self.log)

    def stop(self):
        """Stop it as an operator does, with the connections that it has."""
        self.process.terminate()
        self.process.wait(60)

    def kill(self):
        self.process.kill()
        self.process.wait(60)

    def log(self):
        """Return what its programs have said so far."""
        return (self.folder / "log").read_text(errors="replace")

    def new_database(self, scheme):
        """Return the URL of a new, empty database."""
        name = f"states_{secrets.token_hex(6)}"
        with self._connect() as connection, connection.cursor() as cursor:
            cursor.execute(f"CREATE DATABASE {name}")
        return f"{scheme}://mail:secret@127.0.0.1:{self.port}/{name}"

    def _connect(self):
        return pymysql.connect(unix_socket=f"{self.folder}/socket", user="root", autocommit=True)

    def _is_ready(self):
        try:
            self._connect().close()
        except pymysql.Error:
            return False
        return True
