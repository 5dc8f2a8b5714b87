"""A baked application that really runs: `salmon start --no-daemon` in a process of its own."""

import os
import re
import shutil
import signal
import smtplib
import subprocess
import sys
from email.message import EmailMessage
from pathlib import Path

from tests import warm
from tests.baking import add_compiled_package, setting_names, without_pytest
from tests.waiting import wait_until

SALMON = str(Path(sys.executable).with_name("salmon"))


def speak_smtp(folder):
    """Give the application in `folder` Salmon's SMTP receiver in the place of the LMTP receiver."""
    boot = folder / "config" / "boot.py"
    text = boot.read_text()
    assert text.count("LMTPReceiver(") == 1
    boot.write_text(text.replace("LMTPReceiver", "SMTPReceiver"))


class Application:
    """The application in `folder`, run with the environment variables `settings`.

    It listens on a free port, `port`, a new one at each start. What it logs is in `log`, a file
    that is kept over restarts. Use it in a `with` block: at its end, no process is left.

    With `is_warm`, its processes are forks of a Python that has imported the libraries; see `tests.warm`.
    """

    is_warm = False

    def __init__(self, folder, **settings):
        self.folder = Path(folder)
        self.settings = {"RECEIVER_PORT": "0", **settings}
        self.log = self.folder.with_name(f"{self.folder.name}.log")
        self.process = None
        self.port = None

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        if self.process is not None:
            self.kill()

    @property
    def protocol(self):
        """What its receiver speaks: "lmtp" or "smtp"."""
        return "smtp" if "SMTPReceiver(" in (self.folder / "config" / "boot.py").read_text() else "lmtp"

    @property
    def environment(self):
        """The environment of its processes: ours, without settings that leaked in, and its own."""
        names = setting_names(self.folder)
        ours = {
            name: value
            for name, value in without_pytest(os.environ).items()
            if name not in names and not name.startswith("SALMON_")
        }
        return {**ours, **{name: str(value) for name, value in self.settings.items()}}

    def run(self, *command, **options):
        """Run a command in the application's folder to its end; return a `CompletedProcess` with text.

        `python` and `salmon` are those of the tests' own environment.
        """
        program = {"salmon": [sys.executable, SALMON], "python": [sys.executable]}.get(command[0], [command[0]])
        command = [*program, *command[1:]]
        environment = options.pop("env", self.environment)
        if self.is_warm and options.keys() <= {"input", "check"} and warm.can_start(command, environment):
            check = options.pop("check", False)
            ran = warm.run(command, self.folder, environment, **options)
            if check:
                ran.check_returncode()
            return ran
        options = {"capture_output": True, "text": True, "timeout": 120, **options}
        return subprocess.run(command, cwd=self.folder, env=environment, **options)

    def python(self, program, *arguments):
        """Run a Python program, given as text, among the application's modules."""
        return self.run("python", "-c", program, *arguments)

    def launch(self, **options):
        """Start `salmon start --no-daemon` and return at once; `options` are those of `Popen`."""
        command = [sys.executable, SALMON, "start", "--no-daemon"]
        start = subprocess.Popen
        if self.is_warm and not options and warm.can_start(command, self.environment):
            start = warm.Process
        with open(self.log, "ab") as log, open(os.devnull) as nothing:
            self.process = start(
                command, cwd=self.folder, env=self.environment, stdin=nothing, stdout=log, stderr=log, **options
            )

    def start(self, seconds=60, **options):
        """Start it, and wait until it takes mail; `options` are those of `Popen`."""
        before = len(self.logged())
        self.launch(**options)
        self.port = self.wait_until_ready(lambda: self.logged()[before:], seconds)
        return self

    def wait_until_ready(self, log, seconds=60):
        """Return the port as soon as the text that `log()` returns tells it; fail when the process ends."""

        def port():
            ready = re.search(r"Receiver \S+:(\d+)> is ready", log())
            if not ready and self.process is not None and self.process.poll() is not None:
                raise AssertionError(f"it ended with {self.process.returncode}:\n{log()}")
            return ready and int(ready[1])

        return wait_until(port, seconds, log)

    def logged(self):
        """Return what was logged so far, as text."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def wait_for_log(self, text, seconds=30):
        """Wait until `text` has been logged."""
        wait_until(lambda: text in self.logged(), seconds, lambda: f"{text!r} in\n{self.logged()}")

    def kill(self):
        """End it as a crash does, with SIGKILL."""
        self.process.kill()
        self.process.wait(30)

    def terminate(self, number=signal.SIGTERM, seconds=30):
        """Ask it to stop; return the exit status."""
        self.process.send_signal(number)
        return self.process.wait(seconds)

    def client(self, **options):
        """Return a connected `smtplib` client of the receiver's protocol."""
        connect = {"smtp": smtplib.SMTP, "lmtp": smtplib.LMTP}[self.protocol]
        client = connect("127.0.0.1", self.port, timeout=60, **options)
        client.ehlo_or_helo_if_needed()
        return client

    def send(self, sender, recipient, body="Hello.\n", **headers):
        """Send one mail over a new connection; return the answer, such as `(250, b"2.0.0 OK")`.

        `recipient` may do without the domain. Headers are given as `Auto_Submitted="no"`.
        """
        mail = EmailMessage()
        for name, value in {"From": sender, "To": recipient, "Subject": "hello", **headers}.items():
            mail[name.replace("_", "-")] = value
        mail.set_content(body)
        return self.send_data(sender, recipient, mail.as_bytes())

    def send_data(self, sender, recipient, data):
        """Send the octets of a mail as `send` does."""
        client = self.client()
        try:
            for answer in (client.mail(sender), client.rcpt(self.address(recipient))):
                if answer[0] != 250:
                    return answer
            return client.data(data)
        finally:
            client.close()

    def address(self, recipient):
        """Return `recipient` with the application's domain where it has none."""
        if "@" in recipient:
            return recipient
        settings = (self.folder / "config" / "settings.py").read_text()
        domain = self.settings.get("MAIL_DOMAIN") or re.search(r'"MAIL_DOMAIN",\s+"(.+)"', settings)[1]
        return f"{recipient}@{domain}"

    def warmed(self):
        """Let its processes be warm, and return it."""
        add_compiled_package(self.folder)
        self.is_warm = True
        return self

    def worker(self, number):
        """Return another process of the same application, not started, with a log of its own."""
        worker = Application(self.folder, **self.settings)
        worker.is_warm = self.is_warm
        worker.log = self.log.with_name(f"worker-{number}.log")
        return worker

    def copy(self, folder):
        """Return another application with the same code in `folder`, not started, with nothing remembered."""
        shutil.copytree(self.folder, folder, ignore=shutil.ignore_patterns("run"))
        copy = Application(folder, **self.settings)
        copy.is_warm = self.is_warm
        return copy
