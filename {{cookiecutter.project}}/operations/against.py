"""A server that runs, spoken to as a mail server does, for `operate.py talk --against`."""

import smtplib
import threading
import time

from salmon.server import asyncore, smtpd

from config import settings
from operations.exchange import Exchange

TIMEOUT = 30  # seconds, for each answer of the server, and for the replies to a mail


class Server:
    """The server at `(host, port)`, which speaks `protocol`, `lmtp` or `smtp`.

    Its replies are seen when they go to `sink`, a `Sink`.
    """

    def __init__(self, protocol, address, sink=None):
        self.client = {"lmtp": smtplib.LMTP, "smtp": smtplib.SMTP}[protocol]
        self.address = address
        self.sink = sink

    def exchange(self, sender, recipient, data, replies=0):
        """Send a mail, wait for `replies`, and return the `Exchange` as far as it can be seen from here.

        Raises `OSError` or `smtplib.SMTPException` when the server does not speak with us.
        """
        result = Exchange(sender, recipient, sent=None)
        seen = len(self.sink.sent) if self.sink else 0
        with self.client(*self.address, local_hostname=settings.mail_domain, timeout=TIMEOUT) as client:
            client.ehlo_or_helo_if_needed()
            for say, what in ((client.mail, sender), (client.rcpt, recipient), (client.data, data)):
                code, text = say(what)
                if code >= 400:
                    result.refusal = f"{code} {text.decode('ascii', 'replace')}"
                    break
        if self.sink:
            result.sent = []
            for recipients, octets in self.sink.after(seen, replies):
                result.add_sent(recipients, octets)
        return result


class Sink(smtpd.SMTPServer):
    """Listens at `host` and `port` in the place of a relay; `sent` is what came, as `(recipients, octets)`."""

    def __init__(self, host, port):
        super().__init__((host, port), None)
        self.sent = []
        threading.Thread(target=self._serve, daemon=True).start()

    def process_message(self, peer, sender, recipients, data, **options):
        self.sent.append((recipients, data))

    def after(self, seen, count):
        """Return what came after the first `seen` mails, as soon as that are `count`, or `TIMEOUT` is over."""
        deadline = time.monotonic() + TIMEOUT
        while len(self.sent) < seen + count and time.monotonic() < deadline:
            time.sleep(0.01)
        return self.sent[seen:]

    def _serve(self):
        while True:
            asyncore.poll2(0.2, self._map)
