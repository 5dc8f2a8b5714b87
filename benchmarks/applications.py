"""The applications that are measured: ours with each storage, and what `salmon gen` makes.

Each runs as `salmon start --no-daemon` in the environment of the benchmarks, sends its replies to
a sink, and can be asked for its senders' states when it has ended.
"""

import json
import re
import shelve
import socket
import subprocess
from contextlib import ExitStack
from pathlib import Path

from tests import baking
from tests.application import SALMON, Application
from tests.ports import free_port
from tests.postgresql import Server
from tests.waiting import wait_until

LIST = "news@example.com"


class Running:
    """What an application that runs is asked for: its ports, its memory. Ends with its `with` block."""

    def __init__(self, *processes):
        self.ports = [port for _, port in processes]
        self._processes = [process for process, _ in processes]

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            process.wait(60)

    def memory(self):
        """Return the most memory that one of its processes has had, in MiB."""
        return max(_peak_memory(process.pid) for process in self._processes)


class Ours:
    """A baked application with one storage; it answers every mail to its list.

    `settings` are environment variables. Without `replies` it takes the mail and does not answer. `template` is the
    folder of another version of the template.
    """

    def __init__(self, folder, choice, relay_port, replies=True, name="app", template=baking.TEMPLATE, **settings):
        name = f"{choice}-{name}" + "-mute" * (not replies)
        self.folder = baking.bake(folder, template=template, project=name, state_storage=choice)
        if template == baking.TEMPLATE:
            baking.add_compiled_package(self.folder)
        if not replies:
            _edit(self.folder / "app/handlers/subscription.py", 'answer(message, "received", list_name)', "pass")
        self.settings = {
            "RELAY_PORT": relay_port,
            "REPLIES_PER_HOUR": 10**6,
            "SECRET_KEY": "benchmarks" * 4,
            **settings,
        }

    def prepare(self, senders):
        """Make subscribers of `senders`."""
        rows = [{"key": "app.handlers.subscription:news", "sender": s, "state": "SUBSCRIBED"} for s in senders]
        self._states("import", "--replace", input="".join(json.dumps(row) + "\n" for row in rows))

    def states(self):
        """Return the state of each sender, as a dictionary."""
        rows = map(json.loads, self._states("export").splitlines())
        return {row["sender"]: row["state"] for row in rows}

    def environment(self):
        """Return the environment variables of its processes."""
        return Application(self.folder, **self.settings).environment

    def run(self, workers=1, **settings):
        """Start that many processes of it; return them as `Running`."""
        with ExitStack() as stack:
            processes = []
            for number in range(workers):
                worker = stack.enter_context(Application(self.folder, **self.settings, **settings))
                worker.log = worker.log.with_suffix(f".{number}.log")
                worker.start()
                processes.append((worker.process, worker.port))
            stack.pop_all()
        return Running(*processes)

    def _states(self, *command, **options):
        done = Application(self.folder, **self.settings).run("python", "operate.py", "states", *command, **options)
        if done.returncode:
            raise RuntimeError(done.stderr)
        return done.stdout


class SalmonGen:
    """What `salmon gen` makes, on ports of its own; otherwise as it comes unless said.

    `shelf` attaches a `ShelveStorage`, as Salmon's documentation shows. `replies` answers every
    mail, with the relay's own `reply`. `tuned` is what a user may do in `config/boot.py` and
    `config/logging.conf` for speed: no reloading of the handlers, no relay that prints every mail,
    and no DEBUG log.
    """

    def __init__(self, folder, relay_port, shelf=False, replies=False, tuned=False):
        name = "gen" + "-shelf" * shelf + "-replies" * replies + "-tuned" * tuned
        self.folder = Path(folder) / name
        subprocess.run([SALMON, "gen", str(self.folder)], check=True, stdout=subprocess.DEVNULL)
        boot, sample = self.folder / "config/boot.py", self.folder / "app/handlers/sample.py"
        settings, log = self.folder / "config/settings.py", self.folder / "config/logging.conf"
        self.port = free_port()
        _edit(settings, "8823", str(self.port))
        _edit(settings, "8825", str(relay_port))
        _edit(settings, "'localhost'", "'127.0.0.1'")
        if shelf:
            attach = '\nRouter.STATE_STORE = ShelveStorage("run/states")\n'
            _edit(boot, "import Router\n", f"import Router, ShelveStorage\n{attach}")
        if replies:
            answer = f"    settings.relay.reply(message, '{LIST}', 'Your mail has arrived', 'Thank you.\\n')\n"
            _edit(sample, "    return", f"{answer}    return")
            _edit(sample, "from salmon", "from config import settings\n\nfrom salmon")
        if tuned:
            _edit(boot, "Router.RELOAD = True", "Router.RELOAD = False")
            _edit(boot, ", debug=1", "")
            _edit(log, "level=DEBUG", "level=WARNING")

    def prepare(self, senders):
        """Nobody has to join a list here; the first mail of a sender is a mail like any other."""

    def states(self):
        """Return the state of each sender, as a dictionary; empty where nothing was kept."""
        path = self.folder / "run" / "states"
        if not list(path.parent.glob("states*")):
            return {}
        with shelve.open(str(path), "r") as shelf:
            return {re.search(r"[\w.+-]+@[\w.-]+", cell)[0]: state for cell, state in shelf.items()}

    def run(self):
        """Start it; return it as `Running`."""
        with open(self.folder.with_suffix(".log"), "ab") as log:
            process = subprocess.Popen(
                [SALMON, "start", "--no-daemon"],
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        wait_until(lambda: process.poll() is not None or _listens(self.port), 60, lambda: f"{self.folder} listens")
        return Running((process, self.port))


def choices():
    """Return the storages that the template offers, by the answers to its question."""
    return list(baking.STORAGES)


def where_states_are(choice, folder, stack):
    """Return the settings that say where a storage keeps its states; start a server, in `stack`, when it needs one."""
    if choice != "postgresql":
        return {}
    # As durable as the others: every commit is on disk before it returns.
    server = stack.enter_context(Server(folder, fsync="on", synchronous_commit="on"))
    return {"STATE_DATABASE": server.new_database()}


def _edit(path, old, new):
    text = path.read_text()
    if old not in text:
        raise RuntimeError(f"{path} without {old!r}")
    path.write_text(text.replace(old, new))


def _peak_memory(process_id):
    status = Path(f"/proc/{process_id}/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) / 1024


def _listens(port):
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0
