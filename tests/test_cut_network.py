"""A worker and the database on two machines, played by network namespaces, and the cable between them is cut."""

import ctypes
import os
import shutil
import subprocess
import sys
import threading
import time

import pytest

from tests import baking
from tests.application import Application
from tests.postgresql import Server
from tests.sink import Sink
from tests.waiting import wait_until

ALICE = "alice@people.example"
BOB = "bob@people.example"


def may_make_namespaces():
    tools = all(map(shutil.which, ("ip", "nsenter", "unshare", "setpriv")))
    return tools and os.geteuid() == 0 and subprocess.run(["unshare", "--net", "true"]).returncode == 0


pytestmark = pytest.mark.skipif(
    not may_make_namespaces(), reason="network namespaces cannot be made here (needs root, iproute2 and util-linux)"
)


class Machine:
    """A network namespace, for as long as a process of ours lives in it."""

    def __init__(self):
        self.process = subprocess.Popen(["unshare", "--net", "sleep", "infinity"])
        self.enter = ["nsenter", f"--target={self.process.pid}", "--net"]
        ours = os.readlink("/proc/self/ns/net")
        wait_until(lambda: os.readlink(f"/proc/{self.process.pid}/ns/net") != ours)
        self.ip("link set lo up")

    def ip(self, command):
        subprocess.run([*self.enter, "ip", *command.split()], check=True)

    def do(self, function, *arguments, **options):
        """Return what a function returns that runs, with the sockets and processes it makes, on this machine."""

        def work():
            with open(f"/proc/{self.process.pid}/ns/net") as namespace:
                if ctypes.CDLL(None).setns(namespace.fileno(), 0):
                    outcome.append(OSError("setns"))
                    return
            try:
                outcome.append(function(*arguments, **options))
            except BaseException as error:
                outcome.append(error)

        outcome = []
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        if isinstance(outcome[0], BaseException):
            raise outcome[0]
        return outcome[0]


@pytest.fixture
def machines():
    """Two machines with a cable between them: that of the worker, and that of the database."""
    one, other = machines = Machine(), Machine()
    try:
        one.ip(f"link add cable type veth peer name cable netns {other.process.pid}")
        for number, machine in enumerate(machines, 1):
            machine.ip(f"address add 192.168.77.{number}/24 dev cable")
            machine.ip("link set cable up")
        yield machines
    finally:
        for machine in machines:
            machine.process.kill()
            machine.process.wait()


@pytest.fixture
def server(machines, tmp_path):
    with Server(tmp_path, host="192.168.77.2", prefix=machines[1].enter) as server:
        yield server


@pytest.fixture
def settings(machines, server):
    """What every worker is started with; on the machine of the first one there is a relay."""
    sink = Sink()
    machines[0].do(sink.start)
    yield {
        "STATE_DATABASE": machines[1].do(server.new_database),
        "SECRET_KEY": "only for tests, but longer than 32 characters",
        "RELAY_PORT": sink.port,
    }
    sink.stop()


def without_patience(folder):
    """Let the storage of the application in `folder` give up after 2 s, and return the folder."""
    boot = folder / "config" / "boot.py"
    text = boot.read_text()
    assert text.count("protected=True)") == 1
    boot.write_text(text.replace("protected=True)", "protected=True, connect_timeout=2, statement_timeout=2)"))
    return folder


def test_mail_is_deferred_while_the_database_is_unreachable(machines, settings, shared, tmp_path):
    worker, database = machines
    with Application(without_patience(baking.copy(shared, tmp_path, state_storage="postgresql")), **settings) as app:
        worker.do(app.start)
        assert worker.do(app.send, ALICE, "news-subscribe")[0] == 250

        database.ip("link set cable down")
        for sender in (ALICE, BOB):
            started = time.monotonic()
            assert worker.do(app.send, sender, "news")[0] == 451
            assert time.monotonic() - started < 30
        database.ip("link set cable up")

        wait_until(lambda: worker.do(app.send, BOB, "news-subscribe")[0] == 250, 60)
        assert worker.do(app.send, ALICE, "news")[0] == 250


def test_sender_lock_of_an_unreachable_machine_is_released(machines, settings, shared, tmp_path):
    gone, database = machines
    app = Application(baking.copy(shared, tmp_path, state_storage="postgresql"), **settings)
    # The database looks after 1 s and not, as by default, after 5.
    keepalives = "tcp_keepalives_idle", "tcp_keepalives_interval", "tcp_keepalives_count"
    options = "%20".join(f"-c%20{name}=1" for name in keepalives)
    program = f"""
import sys, time
from mailroom.storage.sqlalchemy import SQLAlchemyStorage
storage = SQLAlchemyStorage({settings["STATE_DATABASE"]!r} + sys.argv[1])
with storage.transaction({ALICE!r}):
    storage.set("key", {ALICE!r}, sys.argv[2])
    print("held", flush=True)
    time.sleep(float(sys.argv[3]))
"""

    def hold(machine, *arguments):
        command = [*machine.enter, sys.executable, "-c", program, *arguments]
        return subprocess.Popen(command, cwd=app.folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    holder = hold(gone, f"?options={options}", "LOST", "600")
    try:
        assert holder.stdout.readline() == "held\n"
        waiting = hold(database, "", "KEPT", "0")
        assert "Another mail of this sender is being handled" in waiting.communicate(timeout=60)[1]

        database.ip("link set cable down")

        def is_taken():
            output, errors = hold(database, "", "KEPT", "0").communicate(timeout=60)
            assert output or "Another mail" in errors, errors
            return output

        assert wait_until(is_taken, 60) == "held\n"
    finally:
        holder.kill()
        holder.communicate()
