"""Start programs from a Python that has imported their libraries already, in a fifth of the time that a new one takes.

Each program is a fork of it: a process of its own, with its own folder, environment and files, and with the `mailroom`,
`app` and `config` of its application, which are imported after the fork. It can be waited for and killed as any other.
"""

import atexit
import contextlib
import functools
import gc
import importlib
import json
import os
import runpy
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import types
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

LIBRARIES = """
    salmon.commands salmon.view environs jinja2 html_text quotequail sqlite3 shelve logging.config unittest.mock
    sqlalchemy.dialects.postgresql.psycopg psycopg dj_database_url django.core.management django.contrib.admin
    django.db.backends.sqlite3.base django.db.migrations.executor django.contrib.staticfiles.finders
    django.template.defaulttags django.views.debug pytest hypothesis.stateful rstr aiosmtpd.controller
""".split()
ADDRESS = "WARM_PYTHON"  # the environment variable with the address of the Python that forks
# Variables that a new Python reads, of which only PYTHONPATH does something here.
READ_AT_START = ("PYTHON", "LC_", "LANG")


def can_start(command, env):
    """Tell whether a fork does as well: not for other programs, for options of Python or variables that it reads at first."""
    changed = {name for name, _ in env.items() ^ os.environ.items()}
    has_options = command[1].startswith("-") and command[1] not in ("-c", "-m")
    return (
        command[0] == sys.executable and not has_options and not any(name.startswith(READ_AT_START) for name in changed)
    )


class Process:
    """A program that runs: what the tests use of `subprocess.Popen`."""

    def __init__(self, command, cwd, env, stdin, stdout, stderr):
        self.args = command
        self.returncode = None
        files = [file if isinstance(file, int) else file.fileno() for file in (stdin, stdout, stderr)]
        self.pid = _ask({"command": [*map(str, command[1:])], "cwd": str(cwd), "env": env}, files)

    def poll(self):
        if self.returncode is None:
            self.returncode = _ask({"wait": self.pid})
        return self.returncode

    def wait(self, timeout=None):
        begin = time.monotonic()
        while self.poll() is None:
            if timeout is not None and time.monotonic() > begin + timeout:
                raise subprocess.TimeoutExpired(self.args, timeout)
            time.sleep(0.01)
        return self.returncode

    def send_signal(self, number):
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self):
        self.send_signal(signal.SIGTERM)

    def kill(self):
        self.send_signal(signal.SIGKILL)


class Program(Process):
    """One with text pipes."""

    def __init__(self, command, cwd, env):
        (stdin, to), (output, stdout), (errors, stderr) = (os.pipe() for _ in range(3))
        super().__init__(command, cwd, env, stdin, stdout, stderr)
        for file in (stdin, stdout, stderr):
            os.close(file)
        self.stdin, self.stdout, self.stderr = open(to, "w"), open(output), open(errors)

    def communicate(self, timeout=None):
        """Close its input, and wait for its end; return what it printed, and the errors."""
        self.stdin.close()
        with ThreadPoolExecutor() as pool:
            printed = list(pool.map(lambda file: file.read(), (self.stdout, self.stderr)))
        self.wait(timeout)
        return printed

    def close(self):
        """End it, and close the pipes."""
        self.kill()
        for file in (self.stdin, self.stdout, self.stderr):
            file.close()


def run(command, cwd, env, input="", timeout=120):
    """Run a program to its end; return a `subprocess.CompletedProcess` with text."""
    with tempfile.TemporaryFile("w+") as stdin, tempfile.TemporaryFile() as stdout, tempfile.TemporaryFile() as stderr:
        stdin.write(input)
        stdin.seek(0)
        process = Process(command, cwd, env, stdin, stdout, stderr)
        try:
            process.wait(timeout)
        finally:
            process.kill()
        for file in (stdout, stderr):
            file.seek(0)
        return subprocess.CompletedProcess(command, process.returncode, stdout.read().decode(), stderr.read().decode())


class _Connection:
    """This process's connection to the Python that forks."""

    def __init__(self):
        self.lock = threading.Lock()
        self.channel = socket.socket(socket.AF_UNIX)
        self.channel.connect(os.environ[ADDRESS])
        self.lines = self.channel.makefile("rw")

    def ask(self, request, files=()):
        with self.lock:
            socket.send_fds(self.channel, [b" "], files)
            print(json.dumps(request), file=self.lines, flush=True)
            return json.loads(self.lines.readline())


_connection = functools.cache(_Connection)
_started = []  # the Python that forks, when this process has started it


def _ask(request, files=()):
    if ADDRESS not in os.environ:
        start()
    return _connection().ask(request, files)


def start():
    """Start the Python that forks, for this process and all that it starts; it ends when this one does."""
    os.environ[ADDRESS] = f"{tempfile.mkdtemp(prefix='warm-')}/socket"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.environ[ADDRESS])
        listener.listen()
        number = listener.fileno()
        command = [sys.executable, __file__, str(number)]
        _started.append(subprocess.Popen(command, stdin=subprocess.PIPE, pass_fds=[number]))


def end():
    """End the Python that forks, if this process has started it; what that has started goes on."""
    for process in _started:
        process.stdin.close()
        process.wait()
        shutil.rmtree(Path(os.environ.pop(ADDRESS)).parent)
    _started.clear()


def _serve(listener):
    """Start programs until the standard input is closed; return in each of them what it is to run."""
    lines = {}  # of each connection
    while True:
        ready, _, _ = select.select([0, listener, *lines], [], [])
        if 0 in ready:
            os._exit(0)
        for channel in ready:
            if channel is listener:
                channel, _ = listener.accept()
                lines[channel] = channel.makefile("rw")
                continue
            request, files = _receive(channel, lines[channel])
            if not request:
                lines.pop(channel).close()
                channel.close()
                continue
            if "wait" in request:
                process, status = os.waitpid(request["wait"], os.WNOHANG)
                answer = os.waitstatus_to_exitcode(status) if process else None
            else:
                answer = os.fork()
                if answer == 0:
                    last = max(file.detach() for file in (listener, *lines))
                    return _prepare(request, files, max(last, *files))
                for file in files:
                    os.close(file)
            with contextlib.suppress(OSError):  # whoever has asked is gone
                print(json.dumps(answer), file=lines[channel], flush=True)


def _receive(channel, lines):
    """Return a request and its files; it is None when whoever was connected is gone."""
    try:
        _, files, *_ = socket.recv_fds(channel, 1, 3)
        return json.loads(lines.readline() or "null"), files
    except (OSError, ValueError):
        return None, []


def _prepare(request, files, last):
    """Give this process the files, the folder and the environment of its program; return what it is to run."""
    for number, file in enumerate(files):
        os.dup2(file, number)
    os.closerange(3, last + 1)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    return request["command"]


def _run(command):
    """Run what follows `python` on a command line."""
    sys.argv[:] = command
    sys.path[1:1] = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
    if command[0] == "-c":
        sys.argv[1:] = command[2:]
        sys.path[0] = ""
        sys.modules["__main__"] = types.ModuleType("__main__")
        exec(command[1], vars(sys.modules["__main__"]))
    elif command[0] == "-m":
        sys.argv[:] = command[1:]
        sys.path[0] = os.getcwd()
        runpy.run_module(command[1], run_name="__main__", alter_sys=True)
    else:
        sys.path[0] = str(Path(command[0]).resolve().parent)
        runpy.run_path(command[0], run_name="__main__")


def _run_and_end(command):
    """Run it as `_run` does, and end without taking all libraries apart, which takes longer than most programs."""
    status = 0
    try:
        _run(command)
    except SystemExit as end:
        status = end.code or 0
    except Exception:
        sys.excepthook(*sys.exc_info())
        status = 1
    if not isinstance(status, int):
        print(status, file=sys.stderr)
        status = 1
    threading._shutdown()  # as Python does: it waits for threads, and then has the functions of `atexit`
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status & 0xFF)


if __name__ == "__main__":
    for library in LIBRARIES:
        importlib.import_module(library)
    for library in ("hypothesis", "_hypothesis_globals"):
        sys.modules[library].__doc__ = "PYTEST_DONT_REWRITE"  # else it warns that it is too late for that
    gc.freeze()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    program = _serve(socket.socket(fileno=int(sys.argv[1])))
    signal.signal(signal.SIGINT, signal.default_int_handler)
    _run_and_end(program)
