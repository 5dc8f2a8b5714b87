"""A mail server that takes everything and does nothing: the floor of a receiver, and where replies go.

It counts what it takes, so that a contestant that loses a reply is found out.
"""

import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import contextmanager

EXTENSIONS = {"smtp": ["PIPELINING", "SIZE 10485760", "8BITMIME"], "lmtp": ["PIPELINING", "ENHANCEDSTATUSCODES"]}


@contextmanager
def running(protocol):
    """Run a server on a free port of the loopback interface, in a process of its own."""
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.sink", protocol], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        yield Sink(process, int(process.stdout.readline()))
    finally:
        process.terminate()
        process.wait()


class Sink:
    """A running server."""

    def __init__(self, process, port):
        self.port = port
        self.ports = [port]
        self._process = process

    def taken(self, count=0):
        """Return how many mails each recipient has got since the last call, as a `Counter`.

        Waits until these are `count`, 60 seconds at most: replies leave in the background.
        """
        taken, deadline = Counter(), time.monotonic() + 60
        while True:
            self._process.stdin.write("\n")
            self._process.stdin.flush()
            taken.update(json.loads(self._process.stdout.readline()))
            if taken.total() >= count or time.monotonic() > deadline:
                return taken
            time.sleep(0.002)


class _Connection:
    def __init__(self, connection, protocol, taken):
        self._connection = connection
        self._protocol = protocol
        self._taken = taken
        self._recipients = []

    def serve(self):
        self._connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._connection.sendall(b"220 sink\r\n")
        received = b""
        in_mail = False
        while chunk := self._connection.recv(65536):
            received += chunk
            answers = []
            while True:
                line, end, rest = received.partition(b"\r\n.\r\n" if in_mail else b"\r\n")
                if not end:
                    break
                received = rest
                if in_mail:
                    answers += self._mail()
                    in_mail = False
                else:
                    answers.append(self._command(line))
                    in_mail = answers[-1].startswith(b"354")
            if answers:
                self._connection.sendall(b"".join(answers))

    def _command(self, line):
        command = line[:4].upper()
        if command in (b"EHLO", b"LHLO"):
            lines = ["sink", *EXTENSIONS[self._protocol]]
            return "".join(f"250{'-' if line is not lines[-1] else ' '}{line}\r\n" for line in lines).encode()
        if command == b"RCPT":
            self._recipients.append(line.partition(b"<")[2].partition(b">")[0].decode().lower())
        if command == b"DATA":
            return b"354 go on\r\n"
        return b"221 bye\r\n" if command == b"QUIT" else b"250 ok\r\n"

    def _mail(self):
        answers = [b"250 taken\r\n"] * (len(self._recipients) if self._protocol == "lmtp" else 1)
        self._taken.extend(self._recipients)
        self._recipients = []
        return answers


def _serve(connection, protocol, taken):
    with connection:
        try:
            _Connection(connection, protocol, taken).serve()
        except ConnectionError:
            pass


def _accept(listener, protocol, taken):
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=_serve, args=(connection, protocol, taken), daemon=True).start()


def main(protocol):
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    taken = []
    listener = socket.create_server(("127.0.0.1", 0), backlog=512)
    print(listener.getsockname()[1], flush=True)
    threading.Thread(target=_accept, args=(listener, protocol, taken), daemon=True).start()
    for _ in sys.stdin:
        counted = [taken.pop() for _ in range(len(taken))]
        print(json.dumps(Counter(counted)), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
