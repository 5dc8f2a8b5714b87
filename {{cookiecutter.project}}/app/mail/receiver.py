"""How mail comes in: LMTP or SMTP on one port, and an honest answer to each mail.

Salmon's receivers parse the protocols; what they leave open is closed here, by subclass.
"""

import logging
import re
import signal
import socket
import threading
import time
from email.errors import HeaderParseError
from email.utils import parseaddr

from salmon import server
from salmon.server import SMTPError, asyncore, lmtpd, smtpd

from app.mail import delivery

LOG = logging.getLogger(__name__)

COMMAND_OCTETS = 2048  # RFC 5321, section 4.5.3.1.4 asks for 512, and more for extensions
ADDRESS_OCTETS = 254  # RFC 5321, section 4.5.3.1.3, less the angle brackets
BACKLOG = 512
CONNECTIONS = 512
IDLE_SECONDS = 300  # RFC 5321, section 4.5.3.2.7
FAREWELL_SECONDS = 5

END_OF_MAIL = b"\r\n.\r\n"

# RFC 5321, section 4.1.2: an optional source route, which is ignored, and what follows the path.
PATH = re.compile(
    r"(?P<command>MAIL FROM|RCPT TO):\s*"
    r"(?P<path><(?:@[^:<>]*:)?(?P<address>(?:\"(?:\\.|[^\"\\])*\"|[^\"<>])*)>|(?P<bare>[^<>\s]+))"
    r"(?P<parameters>(?:\s.*)?)",
    re.IGNORECASE | re.DOTALL,
)


def open_receiver(protocol, host, port, max_message_size):
    """Return a bound receiver for `protocol`, `lmtp` or `smtp`; raise `OSError` when the port is taken.

    Messages have at most `max_message_size` octets. Port 0 takes any that is free.
    """
    return {"lmtp": LMTPReceiver, "smtp": SMTPReceiver}[protocol](host, port, max_message_size)


class _Channel:
    """One connection. It is its own server to Salmon's channel, which hands it each mail."""

    def __init__(self, receiver, connection, address, **options):
        self.receiver = receiver
        self.active = time.monotonic()
        self._chunks = []
        self._octets = 0
        self._too_big = False
        super().__init__(self, connection, address, **options)

    def collect_incoming_data(self, data):
        self.active = time.monotonic()
        self._octets += len(data)
        if self._octets > self._limit():
            self._chunks.clear()
        else:
            self._chunks.append(data)

    def found_terminator(self):
        data, self._chunks = b"".join(self._chunks), []
        too_long, self._octets = self._octets > self._limit(), 0
        if self.get_terminator() == END_OF_MAIL:
            self._too_big = too_long
            self._pass_on(self.unstuffed(data)[2:] + b"\r\n")
        elif self.receiver.stopping:
            self.farewell()
        else:
            self._command(data, too_long)
            if self.get_terminator() == END_OF_MAIL:
                # The CRLF of the command DATA belongs to an end that follows at once
                # (RFC 5321, section 4.1.1.4); an empty mail would never end without it.
                self.ac_in_buffer = b"\r\n" + self.ac_in_buffer

    def unstuffed(self, data):
        """Return `data` without what dot-stuffing added, where Salmon leaves that to us."""
        return data

    def farewell(self):
        self.ac_in_buffer = b""
        self.say("421 4.3.2 The service is going down")
        self.close_when_done()

    def process_message(self, peer, sender, recipients, data, **options):
        """Answer one mail for one recipient: None for 250, or the answer itself."""
        sender = _text(sender)
        recipient = _text(recipients[0] if isinstance(recipients, list) else recipients)
        if self._too_big:
            return "552 5.3.4 The message is too big"
        return self.receiver.answer(peer, sender, recipient, data)

    def log_info(self, message, type="info"):
        LOG.error("%s", message)

    def _limit(self):
        if self.get_terminator() == END_OF_MAIL:
            return self.receiver.max_message_size
        return COMMAND_OCTETS

    def _pass_on(self, data):
        super().collect_incoming_data(data)
        super().found_terminator()

    def _command(self, line, too_long):
        """Hand a command to Salmon's channel, or answer it when Salmon would misread it."""
        if too_long:
            return self.say("500 5.5.2 The line is too long")
        is_path = line[:4].upper() in (b"MAIL", b"RCPT")
        if not line.isascii():
            return self.say("553 5.6.7 Only ASCII addresses, please" if is_path else "500 5.5.2 Only ASCII, please")
        if is_path:
            path = PATH.fullmatch(line.decode("ascii"))
            if not path:
                return self.say("501 5.5.4 Syntax: MAIL FROM:<address> or RCPT TO:<address>")
            refusal = self._refusal(path)
            if refusal:
                LOG.info("refused %r: %s", path[0], refusal)
                return self.say(refusal)
            line = f"{path['command']}:<{_address(path)}>".encode("ascii")
        try:
            self._pass_on(line)
        except HeaderParseError:
            self.say("501 5.1.7 That address cannot be read")

    def _refusal(self, path):
        """Return why the path of MAIL or RCPT is not accepted, as an answer, or None."""
        address = _address(path)
        size = re.search(r"\sSIZE=(\d{1,20})(?!\S)", path["parameters"], re.IGNORECASE)
        if path["command"].upper() == "RCPT TO":
            if not delivery.is_routed(address):
                return "550 5.1.1 There is no such address here"
        elif size and int(size[1]) > self.receiver.max_message_size:
            return "552 5.3.4 The message is too big"
        elif not address:
            return None  # the null sender, RFC 5321, section 4.5.5
        elif len(address) > ADDRESS_OCTETS or not address.isprintable() or _as_salmon_reads(address) != address.lower():
            return "553 5.1.7 That sender address cannot be used"
        return None


class _LMTPChannel(_Channel, lmtpd.LMTPChannel):
    def say(self, answer):
        self.push(answer.encode("ascii"))

    def unstuffed(self, data):
        # Salmon 3.3.0 compares a number with b"." and leaves the dots of RFC 5321, section 4.5.2.
        return data.replace(b"\r\n.", b"\r\n")


class _SMTPChannel(_Channel, smtpd.SMTPChannel):
    def say(self, answer):
        self.push(answer)

    def smtp_RCPT(self, arg):
        # One answer follows the mail; it cannot say that one recipient has it and another has not.
        if self.rcpttos:
            self.say("452 4.5.3 One recipient a transaction, please")
        else:
            super().smtp_RCPT(arg)


class _Receiver:
    """What both receivers do: accept, loop, answer, and stop politely."""

    def __init__(self, host, port, max_message_size):
        super().__init__(host, port)
        self.max_message_size = max_message_size
        self.stopping = False
        self._idle_sweep = 0
        self.socket.listen(BACKLOG)

    def __repr__(self):
        host, port = self.socket.getsockname()[:2]
        return f"<{type(self).__name__} {host}:{port}>"

    def start(self):
        """Answer mail until `stop`, or until TERM, HUP or INT; the mail at hand is finished first."""
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
                signal.signal(number, self._on_signal)
        LOG.info("%r is ready", self)
        while not self.stopping:
            asyncore.poll2(0.2, self._map)
            self._drop_idle()
        self._say_farewell()

    def stop(self):
        """Make `start` return, from another thread or a signal."""
        self.stopping = True

    def readable(self):
        return len(self._map) <= CONNECTIONS

    def handle_accept(self):
        accepted = self.accept()
        if accepted is None:
            return
        connection, address = accepted
        try:
            # Salmon answers in small writes; without this, each waits for the other side's ACK.
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.getpeername()
        except OSError:  # it has gone already, and Salmon's channel would not survive that
            connection.close()
        else:
            self.channel_class(self, connection, address)

    def log_info(self, message, type="info"):
        LOG.error("%s", message)

    def answer(self, peer, sender, recipient, data):
        """Deliver one mail; return None when it was handled, otherwise the answer that refuses it."""
        try:
            delivery.deliver(peer, sender, recipient, data)
            return None
        except SMTPError as error:
            LOG.warning("refused mail from %r to %r: %s", sender, recipient, error)
            return _one_line(str(error))
        except (Exception, SystemExit):
            LOG.exception("failed mail from %r to %r, Message-ID %s", sender, recipient, delivery.message_id(data))
            return "451 4.3.0 The mail could not be handled now; try again later"

    def _on_signal(self, number, frame):
        for again in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            signal.signal(again, signal.SIG_DFL)
        self.stop()

    def _drop_idle(self):
        now = time.monotonic()
        if now < self._idle_sweep:
            return
        self._idle_sweep = now + IDLE_SECONDS / 10
        for channel in self._channels():
            if channel.active < now - IDLE_SECONDS:
                channel.farewell()

    def _say_farewell(self):
        LOG.info("%r is going down", self)
        self.del_channel()
        self.socket.close()
        for channel in self._channels():
            channel.farewell()
        deadline = time.monotonic() + FAREWELL_SECONDS
        while self._channels() and time.monotonic() < deadline:
            asyncore.poll2(0.1, self._map)

    def _channels(self):
        return [channel for channel in list(self._map.values()) if getattr(channel, "receiver", None) is self]


class LMTPReceiver(_Receiver, server.LMTPReceiver):
    """Salmon's LMTP receiver (RFC 2033), made for `max_message_size` octets and polite stops."""

    channel_class = _LMTPChannel


class SMTPReceiver(_Receiver, server.SMTPReceiver):
    """Salmon's SMTP receiver (RFC 5321), one recipient a transaction."""

    def channel_class(self, receiver, connection, address):
        return _SMTPChannel(receiver, connection, address, data_size_limit=self.max_message_size)


def _address(path):
    return path["bare"] if path["address"] is None else path["address"].strip()


def _as_salmon_reads(address):
    return parseaddr(address.lower())[1]


def _text(path):
    """Return the address in what Salmon's channels hand over: text or octets, with or without brackets."""
    text = path.decode("ascii") if isinstance(path, bytes) else path
    return text[1:-1] if text.startswith("<") else text


def _one_line(answer):
    """Return `answer` fit for the wire, whatever a handler put into its `SMTPError`."""
    return " ".join(answer.encode("ascii", "replace").decode("ascii").split())[:500]
