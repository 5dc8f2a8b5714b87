"""A real Postfix, made from the files in a baked application's `deploy/postfix/`, on free ports of loopback.

It plays the application's mail server, its relay, and the outside world: people in `people.test`
have a Maildir each, and whoever connects from 127.0.0.2 is a stranger.
"""

import email
import os
import shutil
import smtplib
import socket
import subprocess
import tempfile
from email.message import EmailMessage
from email.policy import default
from pathlib import Path

from tests.ports import free_port
from tests.waiting import wait_until

REASON = "there is no Postfix on this machine, or we are not root: apt-get install postfix"
IS_THERE = shutil.which("postfix", path="/usr/sbin") is not None and os.geteuid() == 0
PEOPLE = ("alice", "bob", "carol", "vacation")

MAIN = """
compatibility_level = 3.6
queue_directory = {folder}/queue
data_directory = {folder}/data
maillog_file = {folder}/log/maillog
maillog_file_prefixes = {folder}
multi_instance_enable = no
alias_maps =
alias_database =
myhostname = mx.people.test
mydestination =
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
mynetworks = 127.0.0.1/32
smtpd_relay_restrictions = permit_mynetworks, reject_unauth_destination
smtpd_reject_unlisted_recipient = no
smtpd_peername_lookup = no
biff = no
disable_dns_lookups = yes
smtp_host_lookup = native
default_transport = error:5.1.2 no way out of this test
virtual_mailbox_domains = people.test
virtual_mailbox_base = {folder}/mail
virtual_mailbox_maps = texthash:{folder}/etc/people
virtual_uid_maps = static:{uid}
virtual_gid_maps = static:{uid}
virtual_minimum_uid = 1
# Somebody whose mail leads back to the application.
virtual_alias_maps = inline:{{root@people.test=postmaster@example.com}}
"""

MASTER = """
127.0.0.1:{port} inet n - n - - smtpd
pickup    unix  n - n 60 1 pickup
cleanup   unix  n - n - 0 cleanup
qmgr      unix  n - n 300 1 qmgr
rewrite   unix  - - n - - trivial-rewrite
bounce    unix  - - n - 0 bounce
defer     unix  - - n - 0 bounce
trace     unix  - - n - 0 bounce
verify    unix  - - n - 1 verify
proxymap  unix  - - n - - proxymap
error     unix  - - n - - error
retry     unix  - - n - - error
virtual   unix  - n n - - virtual
lmtp      unix  - - n - - lmtp
flush     unix  n - n 1000? 0 flush
anvil     unix  - - n - 1 anvil
scache    unix  - - n - 1 scache
postlog   unix-dgram n - n - 1 postlogd
"""


class Postfix:
    """Postfix in front of an application that listens on `lmtp_port`; `port` is its own.

    `deploy` is the folder `deploy/` of that application. Use it in a `with` block.
    """

    def __init__(self, deploy):
        self.deploy = Path(deploy)
        self.port, self.lmtp_port = free_port(), free_port()
        self.folder = None

    def __enter__(self):
        # Its programs are of several users, who must get in; so not below pytest's folders.
        self.folder = Path(tempfile.mkdtemp(prefix="postfix-"))
        self.folder.chmod(0o755)
        for name in ("etc", "queue", "data", "log", "mail"):
            (self.folder / name).mkdir()
        shutil.chown(self.folder / "data", "postfix")
        shutil.chown(self.folder / "mail", "nobody")
        self._write_configuration()
        try:
            self._run("postfix", "start")
            wait_until(self._answers, 60, self.log)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exception):
        subprocess.run(["/usr/sbin/postfix", "-c", self.folder / "etc", "stop"], capture_output=True, timeout=60)
        shutil.rmtree(self.folder)

    def _write_configuration(self):
        etc = self.folder / "etc"
        uid = (self.folder / "mail").stat().st_uid
        ours = (self.deploy / "postfix" / "main.cf").read_text()
        # The only change to what is deployed: a free port.
        assert "127.0.0.1:8823" in ours
        ours = ours.replace("127.0.0.1:8823", f"127.0.0.1:{self.lmtp_port}")
        (etc / "main.cf").write_text(MAIN.format(folder=self.folder, uid=uid) + ours)
        (etc / "master.cf").write_text(MASTER.format(port=self.port))
        (etc / "people").write_text("".join(f"{name}@people.test {name}/\n" for name in PEOPLE))

    def _run(self, program, *arguments):
        command = [f"/usr/sbin/{program}", "-c", self.folder / "etc", *arguments]
        result = subprocess.run(command, capture_output=True, text=True, timeout=60)
        if result.returncode:
            raise AssertionError(f"{command}: {result}\n{self.log()}")

    def _answers(self):
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def log(self):
        """Return what Postfix has logged so far."""
        maillog = self.folder / "log" / "maillog"
        return maillog.read_text(errors="replace") if maillog.exists() else ""

    def client(self, stranger=True):
        """Return a connected `smtplib.SMTP`, of a stranger or of somebody in its own network."""
        source = ("127.0.0.2" if stranger else "127.0.0.1", 0)
        return smtplib.SMTP("127.0.0.1", self.port, timeout=60, source_address=source)

    def send(self, sender, *recipients, body="Hello.\n", **headers):
        """Send a mail as a stranger; raise what `smtplib` raises when it is refused. Headers as `Auto_Submitted="no"`."""
        mail = EmailMessage()
        usual = {"From": sender or "MAILER-DAEMON@people.test", "To": ", ".join(recipients), "Subject": "hello"}
        for name, value in {**usual, **headers}.items():
            mail[name.replace("_", "-")] = value
        mail.set_content(body)
        self.send_data(sender, recipients, mail.as_bytes())

    def send_data(self, sender, recipients, data):
        """Send the octets of a mail as `send` does."""
        with self.client() as client:
            client.sendmail(sender, recipients, data)

    def mailbox(self, person):
        """Return the mails that `person` has got, oldest first, in octets."""
        new = self.folder / "mail" / person / "new"
        files = sorted(new.iterdir(), key=lambda file: file.stat().st_mtime_ns) if new.exists() else []
        return [file.read_bytes() for file in files]

    def wait_for_mail(self, person, count=1, seconds=60):
        """Return the first `count` mails of `person` as `email` messages, once they are there."""
        wait_until(lambda: len(self.mailbox(person)) >= count, seconds, lambda: f"{count} for {person}:\n{self.log()}")
        return [email.message_from_bytes(data, policy=default) for data in self.mailbox(person)[:count]]

    def forget(self):
        """Forget what people have got, and what waits."""
        self._run("postsuper", "-d", "ALL")
        for person in PEOPLE:
            shutil.rmtree(self.folder / "mail" / person, ignore_errors=True)

    def queued(self, *names):
        """Return how many mails are in its queues, or in the queues of these `names`."""
        folders = [self.folder / "queue" / name for name in names or ("maildrop", "incoming", "active", "deferred")]
        return sum(len(files) for folder in folders for _, _, files in os.walk(folder))

    def wait_until_deferred(self, count=1, seconds=60):
        """Wait until `count` mails wait for another try, and none is being tried."""
        wait_until(
            lambda: self.queued("deferred") == count == self.queued(),
            seconds,
            lambda: f"{count} deferred mails; {self.queued()} are queued:\n{self.log()}",
        )

    def wait_until_empty(self, seconds=60):
        """Wait until every mail has been delivered or refused."""
        wait_until(lambda: not self.queued(), seconds, lambda: f"an empty queue:\n{self.log()}")

    def flush(self):
        """Try every deferred mail now."""
        self._run("postqueue", "-f")
