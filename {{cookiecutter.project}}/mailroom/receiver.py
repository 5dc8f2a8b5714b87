"""Receive mail over LMTP or SMTP.

The ports are those of Salmon's receivers. Its channels are not used: they answer a mail at once, lose octets, let
`email` rewrite addresses, and look up this machine's name for each connection. Nor is `asyncio`: where its loop runs,
Django refuses to use a database, and a handler cannot call `asyncio.run`.
"""

import logging
import re
import resource
import signal
import socket
import threading
import time
from collections import deque
from concurrent.futures import Future
from functools import partial
from typing import Any

from salmon import server
from salmon.routing import Router
from salmon.server import SMTPError, asyncore, lmtpd

from mailroom import failing
from mailroom.envelope import describe
from mailroom.message import person
from mailroom.pool import Pool
from mailroom.room import Mailroom
from mailroom.settings import refuse
from mailroom.storage import handler_name, is_locked
from mailroom.storage.locks import PATIENCE

LOG = logging.getLogger(__name__)

COMMAND_OCTETS = 2048  # RFC 5321, section 4.5.3.1.4 asks for 512, and more for extensions
ADDRESS_OCTETS = 254  # RFC 5321, section 4.5.3.1.3, without the angle brackets
CONNECTIONS = 512  # at once, or half as many as files may be open; for one more, the idlest is closed
IDLE_SECONDS = 300  # RFC 5321, section 4.5.3.2.7; also for a mail that waits for a thread: Postfix waits ten minutes
IDLE_OCTETS = 1000  # of a mail that take a second do not count as idle
CLOSE_SECONDS = 5
REST_SECONDS = 1
STOP_SIGNALS = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)

END_OF_MAIL = b"\r\n.\r\n"
# Methods of HTTP: a web page can let a browser on this machine post commands to a port.
FORBIDDEN = ("CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT")
OK = "250 2.0.0 Ok"
TOO_BIG = "552 5.3.4 The message is too big"

# RFC 5321, section 4.1.2: an optional source route, which is ignored, and what follows the path.
PATH = re.compile(
    r"(?P<command>MAIL FROM|RCPT TO):[ \t]*"
    r"(?:<(?:@[^:<>]*:(?!>))?(?P<address>(?:\"(?:\\.|[^\"\\])*\"|[^\"<>])*)>|(?P<bare>[^<>\s]+))"
    r"(?P<parameters>(?:[ \t][^\r\n]*)?)",
    re.IGNORECASE,
)
# RFC 5321, section 4.1.2, and dots anywhere, which some providers allow.
MAILBOX = re.compile(
    r"(?:[a-z0-9.!#$%&'*+/=?^_`{|}~-]+|\"(?:[ !#-\[\]-~]|\\[ -~])*\")@(?:[a-z0-9._-]+|\[[!-Z^-~]+\])", re.IGNORECASE
)
SIZE = re.compile(r"\sSIZE=(\d{1,20})(?!\S)", re.IGNORECASE)


class _Channel(lmtpd.asynchat.async_chat):
    """One connection, which speaks LMTP (RFC 2033) or SMTP (RFC 5321), the latter with one recipient a transaction."""

    def __init__(self, receiver: "_Receiver", connection: socket.socket) -> None:
        self.receiver = receiver
        self.active = time.monotonic()
        self._octets = bytearray()
        self._too_long = False
        self._reset()
        # To each recipient of a mail, in their order, from the first on that is still being handled.
        self._answers: deque[Future[str] | str] = deque()
        self._held = b""  # commands that wait for those answers
        super().__init__(connection)
        self.set_terminator(b"\r\n")
        self._say(f"220 {receiver.room.domain}")

    def collect_incoming_data(self, data: bytes) -> None:
        limit = COMMAND_OCTETS
        if self.get_terminator() == END_OF_MAIL:
            limit = self.receiver.room.max_message_size * 4 // 3 + 2  # each line may be ".", which came as ".."
            self.active = min(time.monotonic(), self.active + len(data) / IDLE_OCTETS)
        self._too_long = self._too_long or len(self._octets) + len(data) > limit
        if self._too_long:
            self._octets.clear()
        else:
            self._octets += data

    def found_terminator(self) -> None:
        data = bytes(self._octets)
        self._octets.clear()
        if self._is_leaving():
            self.ac_in_buffer = b""  # ignore what follows QUIT: its answer would not be sent
        elif self.receiver.stopping:
            self.close_with_421("4.3.2 The service is going down")
        elif self.get_terminator() == END_OF_MAIL:
            self._mail(data)
        elif self._too_long:
            self._say("500 5.5.2 The line is too long")
        elif not data.isascii():
            is_path = data[:4].upper() in (b"MAIL", b"RCPT")
            self._say("553 5.6.7 Only ASCII addresses, please" if is_path else "500 5.5.2 Only ASCII, please")
        else:
            self._command(data.decode("ascii"))
        self._too_long = False
        self.active = time.monotonic()  # the client waited while the handler ran

    def handle_read(self) -> None:
        super().handle_read()
        self.initiate_send()  # commands that came together are answered together (RFC 2920, section 3.2)

    def is_waiting(self) -> bool:
        """Return whether a mail from here is still being handled."""
        return bool(self._answers)

    def cancel(self) -> None:
        """Answer 451 to mails whose turn has not come."""
        for answer in list(self._answers):
            if isinstance(answer, Future):
                answer.cancel()

    def send_answers(self) -> None:
        """Send the answers that are known now, and go on with the commands after the last of them."""
        self._send_known()
        if self._answers or not self.connected:
            return
        if self.receiver.stopping:
            self.close_with_421("4.3.2 The service is going down")
        elif self._held:
            self.handle_read()

    def _send_known(self) -> None:
        while self.connected and self._answers and (isinstance(self._answers[0], str) or self._answers[0].done()):
            answer = self._answers.popleft()
            if isinstance(answer, Future):
                answer = "451 4.3.2 It took too long; try again later" if answer.cancelled() else answer.result()
            self._say(answer)
            self.initiate_send()
            self.active = time.monotonic()

    def recv(self, size: int) -> bytes:
        held, self._held = self._held, b""
        return held or super().recv(size)

    def close_with_421(self, text: str) -> None:
        """Answer 421 with `text`, and close the connection once that is sent; at the second call, close it at once."""
        self.ac_in_buffer = b""
        if self._is_leaving():
            self.close()
        else:
            self._say(f"421 {text}")
            self.initiate_send()
            self.close_when_done()

    def readable(self) -> bool:
        # Read nothing while answers wait to be sent: they would pile up. Read nothing after a 421: a client sends
        # that mail again. And nothing before a mail is answered.
        return not self.producer_fifo and not self._answers

    def _is_leaving(self) -> bool:
        return None in self.producer_fifo  # put there by `close_when_done`

    def handle_expt(self) -> None:
        self.close()  # urgent data: no mail client sends it, and asyncore would report it again and again

    def log_info(self, message: str, type: str = "info") -> None:
        LOG.error("%s", message)

    def _say(self, answer: str) -> None:
        said = self.producer_fifo.pop() if self.producer_fifo else b""
        self.producer_fifo.append(said + answer.encode("ascii") + b"\r\n")

    def _mail(self, data: bytes) -> None:
        """Hand a mail over for each of its recipients."""
        sender, recipients = self._sender or "", self._recipients
        self._reset()
        self.set_terminator(b"\r\n")
        data = data.replace(b"\r\n.", b"\r\n")[2:] + b"\r\n"  # RFC 5321, section 4.5.2
        is_too_big = self._too_long or len(data) > self.receiver.room.max_message_size
        for recipient in recipients:
            self._answers.append(TOO_BIG if is_too_big else self.receiver.answer(self, sender, recipient, data))
            self._send_known()
        if self._answers:
            self._held, self.ac_in_buffer = self.ac_in_buffer, b""

    def _reset(self) -> None:
        self._sender: str | None = None
        self._recipients: list[str] = []

    def _command(self, line: str) -> None:
        verb = line.partition(" ")[0].upper()
        if verb in FORBIDDEN:
            self.close_with_421("4.7.0 This is no web server")
        elif verb in ("MAIL", "RCPT"):
            self._path(line)
        elif verb == "DATA" and self._recipients:
            self._say("354 End data with <CR><LF>.<CR><LF>")
            self.set_terminator(END_OF_MAIL)
            # The end of an empty mail begins with the CRLF of this command (RFC 5321, section 4.1.1.4).
            self.ac_in_buffer = b"\r\n" + self.ac_in_buffer
        else:
            self._say(self.receiver.answers.get(verb, "502 5.5.2 There is no such command here"))
            if verb == "QUIT":
                self.close_when_done()
            elif verb in ("RSET", *self.receiver.greetings):
                self._reset()

    def _path(self, line: str) -> None:
        path = PATH.fullmatch(line)
        if not path:
            self._say("501 5.5.4 Syntax: MAIL FROM:<address> or RCPT TO:<address>")
            return
        address = path["address"] or path["bare"] or ""
        is_sender = path["command"].upper() == "MAIL FROM"
        refusal = self._refuse_sender(address, path["parameters"]) if is_sender else self._refuse_recipient(address)
        if refusal:
            LOG.info("refused %r: %s", line, refusal)
        elif is_sender:
            self._sender = address
        else:
            self._recipients.append(address)
        self._say(refusal or "250 2.1.0 Ok")

    def _refuse_sender(self, address: str, parameters: str) -> str | None:
        if self._sender is not None:
            return "503 5.5.1 RSET comes first"
        size = SIZE.search(parameters)
        if size and int(size[1]) > self.receiver.room.max_message_size:
            return TOO_BIG
        # Empty: the null sender, RFC 5321, section 4.5.5.
        if address and not (len(address) <= ADDRESS_OCTETS and MAILBOX.fullmatch(address)):
            return "553 5.1.7 That sender address cannot be used"
        return None

    def _refuse_recipient(self, address: str) -> str | None:
        if self._sender is None:
            return "503 5.5.1 MAIL comes first"
        if len(self._recipients) >= self.receiver.max_recipients:
            return "452 4.5.3 Too many recipients; the others come in another transaction"
        if address.isprintable() and self.receiver.room.is_routed(address):
            return None
        return "550 5.1.1 There is no such address here"


class _Wake(asyncore.dispatcher):
    """Let other threads end the wait for the sockets: the channels that they give to it send their answers."""

    def __init__(self) -> None:
        here, self._there = socket.socketpair()
        self._there.setblocking(False)
        self._channels: deque[_Channel] = deque()
        super().__init__(here)

    def __call__(self, channel: _Channel) -> None:
        self._channels.append(channel)
        try:
            self._there.send(b"\0")
        except OSError:  # full, so that it wakes anyway; or the other end is closed
            pass

    def writable(self) -> bool:
        return False

    def handle_read(self) -> None:
        self.recv(4096)
        while self._channels:
            channel = self._channels.popleft()
            try:
                channel.send_answers()
            except Exception:
                channel.handle_error()  # as asyncore would: it ends this connection, and no other


class _Receiver(asyncore.dispatcher):
    """What both receivers share: the port, the loop, the answers, and the stop.

    A mail is handled where it is read, in the thread of the loop, unless its address has a handler marked `@nolocking`
    or it must wait: for an earlier mail of its sender, or for a lock. Then a thread of the `Pool` handles it, and waits
    `lock_timeout` seconds for a lock. A stop waits `stop_timeout` seconds for the mails that are being handled.
    """

    greetings: tuple[str, ...] = ()
    max_recipients = 1000  # of a mail; RFC 5321, section 4.5.3.1.8 asks for 100

    def __init__(
        self, room: Mailroom, host: str, port: int, lock_timeout: float = 30.0, stop_timeout: float = 30.0
    ) -> None:
        self.room = room
        self.lock_timeout = lock_timeout
        self.stop_timeout = stop_timeout
        self.pool = Pool(room.handler_threads) if room.handler_threads else None
        extensions = "250-PIPELINING\r\n250-ENHANCEDSTATUSCODES\r\n250-8BITMIME"  # RFC 2033, section 5
        welcome = f"250-{room.domain}\r\n{extensions}\r\n250 SIZE {room.max_message_size}"
        self.answers = {
            "LHLO": "500 5.5.1 This port speaks SMTP (RFC 5321), not LMTP: say EHLO",
            **dict.fromkeys(["EHLO", "HELO"], "500 5.5.1 This port speaks LMTP (RFC 2033), not SMTP: say LHLO"),
            **{verb: f"250 {room.domain}" if verb == "HELO" else welcome for verb in self.greetings},
            "DATA": "503 5.5.1 RCPT comes first",
            "NOOP": OK,
            "RSET": OK,
            "VRFY": "252 2.5.0 Send it a mail, and you will know",
            "QUIT": "221 2.0.0 Bye",
        }
        self.host = host
        self.port = port
        self.stopping = False
        self._next_sweep = 0.0
        self._rest_until = 0.0
        self._locked_until = 0.0

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.host}:{self.port}>"

    def close(self) -> None:
        asyncore.dispatcher.close(self)  # without the traceback that Salmon logs

    def open(self) -> None:
        """Open the port; the operating system chooses a free one for port 0. Raises `OSError` when it is taken."""
        super().__init__(self.host, self.port)
        self.port = self.socket.getsockname()[1]
        self.socket.listen(CONNECTIONS)
        files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self.max_connections = min(CONNECTIONS, files // 2) if files > 0 else CONNECTIONS
        self.wake = _Wake()

    def start(self) -> None:
        """Open the port and receive mail until `stop`, TERM, HUP or INT; the current mail is finished first.

        `salmon start` calls this. Ends the process with one line when the port cannot be opened, or the
        `Mailroom` cannot start.
        """
        try:
            self.open()
        except OSError as error:
            refuse("RECEIVER_HOST, RECEIVER_PORT", (self.host, self.port), f"cannot be used: {error}")
        self.room.start()
        self.run()
        self.room.stop()

    def run(self) -> None:
        """Receive mail at the port that `open` has opened."""
        if threading.current_thread() is threading.main_thread():
            for number in STOP_SIGNALS:
                signal.signal(number, self._on_signal)
        LOG.info("%r is ready", self)
        while not self.stopping:
            listened = time.monotonic()
            asyncore.poll2(0.2, self._map)
            self._drop_idle(listened)
        LOG.info("%r is going down", self)
        self._close_channels()

    def stop(self) -> None:
        """Make `start` return, from another thread or a signal."""
        self.stopping = True

    def readable(self) -> bool:
        return time.monotonic() >= self._rest_until

    def handle_accept(self) -> None:
        accepted = None
        try:
            accepted = self.accept()
        except OSError as error:  # too many open files; Salmon would close the port for good
            LOG.error("%r cannot take a connection now: %s", self, error)
            self._rest_until = time.monotonic() + REST_SECONDS
            self._close_idlest()
        if accepted is None:
            return
        connection, _ = accepted
        try:
            # Answers are small writes; without this, each waits for the other side's ACK.
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            _Channel(self, connection)
        except OSError:  # the client has left
            connection.close()
        if len(self._channels()) > self.max_connections:
            self._close_idlest()

    def log_info(self, message: str, type: str = "info") -> None:
        LOG.error("%s", message)

    def answer(self, channel: _Channel, sender: str, recipient: str, data: bytes) -> Future[str] | str:
        """Deliver one mail; return the answer, or the `Future` of that, which wakes the channel."""
        mail = channel.addr, sender, recipient, data
        if self.pool is None:
            return self._deliver(*mail)
        writer = person(sender, self.room.forwarders) or object()  # who has no order
        is_slow = self.room.is_slow(recipient)
        is_free = time.monotonic() > self._locked_until and not self.pool.has(writer)
        # Salmon's Router holds this lock while it runs an ordinary handler.
        if not is_slow and is_free and Router.call_lock.acquire(blocking=False):
            began = time.monotonic()
            try:
                return self._deliver(*mail, waits=False)
            except TimeoutError:
                if time.monotonic() > began + PATIENCE:  # the next mail need not find out
                    self._locked_until = time.monotonic() + REST_SECONDS
            finally:
                Router.call_lock.release()
        answer = self.pool.submit(writer, partial(self._deliver, *mail), is_slow)
        if answer is None:
            return "451 4.3.2 Too much mail waits"
        answer.add_done_callback(lambda _: self.wake(channel))
        return answer

    def _deliver(self, peer: Any, sender: str, recipient: str, data: bytes, waits: bool = True) -> str:
        """Deliver one mail; return the answer.

        When somebody else holds a lock, nothing has changed: raise `TimeoutError`, or if it `waits`, try again for
        `lock_timeout` seconds, since a storage or a database may give up earlier.
        """
        deadline = time.monotonic() + (self.lock_timeout if self.pool else 0)
        while True:
            try:
                self.room.deliver(peer, sender, recipient, data, waits=waits)
            except BaseException as error:  # SystemExit as well: no handler ends the server
                if is_locked(error) and not waits:
                    raise TimeoutError from error
                if not is_locked(error) or self.stopping or time.monotonic() > deadline:
                    return _refusal(error, sender, recipient, data)
                time.sleep(0.01)
            else:
                failing.handled(sender, recipient, data)
                return OK

    def _on_signal(self, number: int, frame: Any) -> None:
        for again in STOP_SIGNALS:
            signal.signal(again, signal.SIG_DFL)
        self.stop()

    def _drop_idle(self, listened: float) -> None:
        """Close connections that had finished nothing for `IDLE_SECONDS` at `listened`, when data was last read."""
        if listened < self._next_sweep:
            return
        self._next_sweep = listened + IDLE_SECONDS / 10
        for channel in self._channels():
            if channel.active < listened - IDLE_SECONDS:
                channel.cancel()
                if not channel.is_waiting():
                    channel.close_with_421("4.4.2 Nothing was heard for too long")

    def _close_idlest(self) -> None:
        """Close the connection that has not finished a command or a mail for the longest time."""
        idle = [channel for channel in self._channels() if not channel.is_waiting()]
        if idle:
            idlest = min(idle, key=lambda channel: channel.active)
            idlest.close_with_421("4.3.2 There are too many connections")
            idlest.close()  # now, and not when it has read that: the next client may be there already

    def _close_channels(self) -> None:
        self.close()
        for channel in self._channels():
            channel.cancel()
            if not channel.is_waiting():
                channel.close_with_421("4.3.2 The service is going down")
        began = time.monotonic()
        while channels := self._channels():
            is_waiting = any(channel.is_waiting() for channel in channels)
            if time.monotonic() > began + (self.stop_timeout if is_waiting else CLOSE_SECONDS):
                break
            asyncore.poll2(0.1, self._map)
        self.wake.close()

    def _channels(self) -> list[Any]:
        return [channel for channel in list(self._map.values()) if getattr(channel, "receiver", None) is self]


class LMTPReceiver(_Receiver, server.LMTPReceiver):
    """Salmon's LMTP receiver (RFC 2033): takes mail for a `Mailroom` at `host` and `port`, once it is started."""

    greetings = ("LHLO",)


class SMTPReceiver(_Receiver, server.SMTPReceiver):
    """Salmon's SMTP receiver (RFC 5321): like `LMTPReceiver`, one recipient a transaction."""

    greetings = ("EHLO", "HELO")
    max_recipients = 1  # one answer to a mail could not name those that failed


def _refusal(error: BaseException, sender: str, recipient: str, data: bytes) -> str:
    """Return the answer to a mail that could not be handled, and log why."""
    handler, mail = handler_name(error), describe(sender, recipient, data)
    # One line of ASCII, whatever text a handler puts into its `SMTPError`.
    answer = " ".join(str(error).encode("ascii", "replace").decode("ascii").split())[:500]
    if isinstance(error, SMTPError) and re.match("[45][0-9][0-9] ", answer):
        cause = f" ({error.__cause__!r})" if error.__cause__ else ""
        LOG.warning("refused %s: %s%s", mail, answer, cause)
    else:
        LOG.error("%s failed: %s", handler or "mailroom", mail, exc_info=error)
        handler = handler or f"a handler for {recipient}"
        answer = "451 4.3.0 The mail could not be handled now; try again later"
    if handler and answer.startswith("4"):
        failing.failed(sender, recipient, data, handler)
    return answer
