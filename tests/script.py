"""A relay that fails as a test says: it follows a script."""

import socket
import threading
from contextlib import suppress

HELLO = ("ehlo", "250 script")
ONE_MAIL = [("MAIL", "250 OK"), ("RCPT", "250 OK"), ("DATA", "354 go on"), (".", "250 OK")]


class Script:
    """A relay that follows a script: for each connection a list of `(command, answer)`, None to hang up.

    `heard` has what was said to it, by connection; content of mails is in `contents`.
    """

    def __init__(self, *connections, greeting="220 script"):
        self.greeting = greeting
        self.connections = connections
        self.heard = []
        self.contents = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.host, self.port = self._listener.getsockname()

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *exception):
        self._listener.close()
        self._thread.join(30)

    def _run(self):
        for script in self.connections:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection, connection.makefile("rwb") as stream:
                self.heard.append([])
                stream.write(self.greeting.encode() + b"\r\n")
                stream.flush()
                self._follow(script, stream)

    def _follow(self, script, stream):
        for command, answer in script:
            line = stream.readline() if command != "." else self._content(stream)
            if not line:
                return
            self.heard[-1].append(line.decode().split()[0] if command != "." else ".")
            assert self.heard[-1][-1] == command, (command, line)
            if answer is None:
                return
            stream.write(answer.encode() + b"\r\n")
            stream.flush()
        with suppress(ConnectionError):  # whoever has said QUIT does not wait for an answer
            stream.read()

    def _content(self, stream):
        content = b""
        while not content.endswith(b"\r\n.\r\n"):
            line = stream.readline()
            if not line:
                return b""
            content += line
        self.contents.append(content)
        return content
