"""Sends mail as a mail server would, and takes the time of each."""

import secrets
import selectors
import socket
import time
from dataclasses import dataclass

DATA = "\r\n".join(
    [
        "Received: from mail.people.example (mail.people.example [192.0.2.25])",
        "\tby mx.example.com (Postfix) with ESMTPS id 4cFXzW1Bqnz2xL9",
        "\tfor <news@example.com>; Mon, 24 Nov 2025 10:00:00 +0000 (UTC)",
        "From: A Person <{sender}>",
        "To: {recipient}",
        "Subject: a question about the next issue",
        "Date: Mon, 24 Nov 2025 10:00:00 +0000",
        "Message-ID: <{number}.1763978400@people.example>",
        "User-Agent: Mozilla Thunderbird",
        "MIME-Version: 1.0",
        "Content-Type: text/plain; charset=utf-8",
        "Content-Transfer-Encoding: 7bit",
        "",
        *["This is one of the ten lines that a person wrote into this mail."] * 10,
        "",
    ]
)


@dataclass
class Sent:
    """What came of sending: seconds in all, and the seconds that each mail took."""

    seconds: float
    latencies: list

    @property
    def rate(self):
        """Mails a second."""
        return len(self.latencies) / self.seconds


class Client:
    """Connections to the ports of a contestant, spread evenly, kept open from one `send` to the next.

    One thread serves them all, so that little of the machine goes to the client. `pipelined` sends
    the three commands together (RFC 2920), and the content when all are answered. Raises
    `RuntimeError` for any answer but the one that takes the mail, and for none in a minute.
    """

    def __init__(self, protocol, ports, connections, pipelined=False):
        self._selector = selectors.DefaultSelector()
        self._sessions = [_Session(protocol, ports[n % len(ports)]) for n in range(connections)]
        self._pipelined = pipelined
        self._name = secrets.token_hex(8)  # a mail that was sent before would not be handled again
        for session in self._sessions:
            self._selector.register(session.socket, selectors.EVENT_READ, session)
        self._number = 0

    def send(self, mails):
        """Send `mails`, a list of `(sender, recipient)`, over all connections at once; return `Sent`."""
        encoded = [self._encoded(*mail) for mail in mails]
        waiting = iter(encoded)
        latencies = []
        started = time.perf_counter()
        for session, mail in zip(self._sessions, waiting, strict=False):
            session.begin(mail)
        while len(latencies) < len(encoded):
            ready = self._selector.select(60)
            if not ready:
                raise RuntimeError("no answer within a minute")
            for key, _ in ready:
                session = key.data
                if session.read():
                    latencies.append(time.perf_counter() - session.began)
                    if mail := next(waiting, None):
                        session.begin(mail)
        return Sent(time.perf_counter() - started, latencies)

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self._selector.close()
        for session in self._sessions:
            session.socket.close()

    def _encoded(self, sender, recipient):
        self._number += 1
        data = DATA.format(sender=sender, recipient=recipient, number=f"{self._name}.{self._number}")
        content = (data.encode() + b".\r\n", b"250")
        mail, rcpt = f"MAIL FROM:<{sender}>\r\n".encode(), f"RCPT TO:<{recipient}>\r\n".encode()
        if self._pipelined:
            return [(mail + rcpt + b"DATA\r\n", b"250", b"250", b"354"), content]
        return [(mail, b"250"), (rcpt, b"250"), (b"DATA\r\n", b"354"), content]


class _Session:
    """One connection: sends the steps of a mail, each when the one before it has been answered."""

    def __init__(self, protocol, port):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=60)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.began = None
        self._received = b""
        self._steps = []
        self._wanted = [b"220"]
        self._finish()
        self._do(b"LHLO client\r\n" if protocol == "lmtp" else b"EHLO client\r\n", b"250")
        self._finish()

    def begin(self, mail):
        self.began = time.perf_counter()
        first, *self._steps = mail
        self._do(*first)

    def read(self):
        """Take what has come, go on to the next step if that was all; return True at the end of the mail."""
        chunk = self.socket.recv(65536)
        if not chunk:
            raise RuntimeError(f"closed the connection instead of answering {self._wanted}")
        *lines, self._received = (self._received + chunk).split(b"\r\n")
        for line in lines:
            if line[3:4] == b"-":
                continue
            code = self._wanted.pop(0)
            if not line.startswith(code):
                raise RuntimeError(f"wanted {code.decode()}, was answered {line!r}")
        if not self._wanted and self._steps:
            self._do(*self._steps.pop(0))
            return False
        return not self._wanted

    def _do(self, octets, *codes):
        self._wanted = list(codes)
        self.socket.sendall(octets)

    def _finish(self):
        while not self.read():
            pass
