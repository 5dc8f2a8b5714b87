"""A mail client that says exactly what it is told to, over a plain socket."""

import socket


class Raw:
    """A connection to a receiver on loopback; it has been greeted, and has said LHLO or EHLO.

    `say` sends octets and returns the last line of the last answer.
    """

    def __init__(self, port, protocol, seconds=60):
        self.socket = socket.create_connection(("127.0.0.1", port), seconds)
        self._lines = self.socket.makefile("rb")
        self.answer()
        self.say(b"LHLO probe.example\r\n" if protocol == "lmtp" else b"EHLO probe.example\r\n")

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()

    def close(self):
        self._lines.close()
        self.socket.close()

    def say(self, octets, answers=1):
        """Send `octets`; return the last answer, as text without its line end."""
        self.socket.sendall(octets)
        for _ in range(answers):
            answer = self.answer()
        return answer

    def answer(self):
        """Return the last line of the next answer, empty when the other side has hung up."""
        while True:
            line = self._lines.readline()
            if line[3:4] != b"-":
                return line.decode("ascii").rstrip("\r\n")

    def begin(self, sender, recipient):
        """Say all that comes before the content of a mail; return the first refusal, or the answer to DATA."""
        for command in (f"MAIL FROM:<{sender}>", f"RCPT TO:<{recipient}>"):
            answer = self.say(command.encode() + b"\r\n")
            if not answer.startswith("250"):
                return answer
        return self.say(b"DATA\r\n")

    def mail(self, sender, recipient, data):
        """Hand over one mail as it is, `data` already stuffed; return the first refusal, or the last answer."""
        answer = self.begin(sender, recipient)
        return self.say(data + b"\r\n.\r\n") if answer.startswith("354") else answer
