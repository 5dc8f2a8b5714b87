"""Where the replies of a running application end up: a real SMTP server on loopback."""

import asyncio
import email
import socket
from contextlib import contextmanager
from dataclasses import dataclass
from email.policy import default

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP

from tests.waiting import wait_until


@dataclass(frozen=True)
class Reply:
    """A mail that the sink took: the envelope as it was said, and the message in octets."""

    sender: str
    recipients: tuple
    data: bytes

    @property
    def message(self):
        """The reply as an `email.message.EmailMessage`."""
        return email.message_from_bytes(self.data, policy=default)

    def __getitem__(self, header):
        return self.message[header]


class Sink:
    """An SMTP server that keeps what it is sent in `replies`, and fails when told to.

    `answers` has the answer to a command, in capitals, or to the RCPT or MAIL of an address, instead of 250:
    `sink.answers["DATA"] = "451 4.3.0 Later"`; `sink.answers.clear()` mends it. `offered` counts
    the mails that reached DATA. A mail has at most `most_recipients`. After `stop`, connections to `port` are refused until `start`.
    """

    def __init__(self):
        self.host = "127.0.0.1"
        self.port = 0
        self.answers = {}
        self.replies = []
        self.offered = 0
        self.most_recipients = 10_000
        self._is_held = False
        self._controller = None

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *exception):
        self.stop()

    def start(self):
        """Listen: at first on a free port, later on the same again."""
        self._controller = _Controller(self, self.host, self.port)
        self.port = self._controller.port
        self._controller.start()

    def stop(self):
        """Close the port and every connection."""
        if self._controller is not None:
            self._controller.stop()
        self._controller = None

    def wait_for(self, count=1, seconds=30):
        """Return all replies as soon as there are `count`; fail after `seconds`."""
        wait_until(lambda: len(self.replies) >= count, seconds, lambda: f"{count} replies; there are {self.replies}")
        return list(self.replies)

    def take(self, count=1, seconds=30):
        """Wait for `count` replies, forget them and return them."""
        taken = self.wait_for(count, seconds)[:count]
        del self.replies[:count]
        return taken

    @contextmanager
    def held(self):
        """Answer no DATA within the block, and all that came at its end."""
        self._is_held = True
        try:
            yield
        finally:
            self._is_held = False

    async def handle_MAIL(self, server, session, envelope, address, options):
        answer = self.answers.get(f"MAIL {address}") or self.answers.get("MAIL", "250 OK")
        if answer.startswith("2"):
            envelope.mail_from = address or "<>"
            envelope.mail_options.extend(options)
        return answer

    async def handle_RCPT(self, server, session, envelope, address, options):
        answer = self.answers.get(address) or self.answers.get("RCPT", "250 OK")
        if len(envelope.rcpt_tos) >= self.most_recipients:
            answer = "452 4.5.3 Too many recipients"
        if answer.startswith("2"):
            envelope.rcpt_tos.append(address)
        return answer

    async def handle_DATA(self, server, session, envelope):
        self.offered += 1
        while self._is_held:
            await asyncio.sleep(0.005)
        answer = self.answers.get("DATA", "250 OK")
        if answer.startswith("2"):
            self.replies.append(Reply(envelope.mail_from, tuple(envelope.rcpt_tos), envelope.content))
        return answer


class _Controller(Controller):
    """aiosmtpd's, on a socket that is bound first, so that port 0 can be used."""

    def __init__(self, sink, host, port):
        self._socket = socket.create_server((host, port))
        self._connections = set()
        super().__init__(sink, host, self._socket.getsockname()[1])

    def factory(self):
        return _Connection(self._connections, self.handler, **self.SMTP_kwargs)

    def _create_server(self):
        return self.loop.create_server(self._factory_invoker, sock=self._socket)

    def cancel_tasks(self, stop_loop=True):
        # From Python 3.12 on, a server is closed only when its connections are.
        for connection in list(self._connections):
            connection.abort()
        super().cancel_tasks(stop_loop)


class _Connection(SMTP):
    def __init__(self, connections, *arguments, **options):
        super().__init__(*arguments, **options)
        self._open = connections

    def connection_made(self, transport):
        self._open.add(transport)
        super().connection_made(transport)

    def connection_lost(self, error):
        self._open.discard(self.transport)
        super().connection_lost(error)
