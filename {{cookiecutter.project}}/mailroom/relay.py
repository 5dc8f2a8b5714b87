"""Send mail through a relay, over one connection that is kept open."""

from __future__ import annotations

import io
import os
import smtplib
import ssl
import threading
import time
import weakref
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import replace
from typing import Any, NamedTuple

from salmon import server
from salmon.server import SMTPError

from mailroom import storage
from mailroom.envelope import MAX_RECIPIENTS, Envelope, make_envelope, seconds_for
from mailroom.parts import one_line
from mailroom.settings import refuse

IMPLICIT_TLS = 465  # the port
THIS_MACHINE = ("localhost", "127.0.0.1", "::1")
LAST_ANSWER = 600  # seconds to wait for the answer to a content (RFC 5321, section 4.5.3.2.6)
NOT_FOR_THE_MAIL = (421, 530, 534, 535, 538)  # the relay closes, or wants a login (RFC 4954, section 6)


class Unreachable(ConnectionError):
    """The relay takes no mail at all now."""


class TurnedAway(Unreachable):
    """The relay closes the connection at the command MAIL: perhaps it would take mail of another envelope sender."""


class Answer(NamedTuple):
    """What the relay says to a command or a mail (RFC 5321, section 4.2)."""

    code: int
    text: str

    def __str__(self) -> str:
        return f"{self.code} {self.text}"

    @property
    def is_yes(self) -> bool:
        """Whether the relay has taken it."""
        return 200 <= self.code < 300

    @property
    def is_final(self) -> bool:
        """Whether sending the same again is of no use."""
        return 500 <= self.code < 600 and self.code not in NOT_FOR_THE_MAIL


class Relay(server.Relay):
    """`salmon.server.Relay` with a timeout and a kept connection; within a transaction, mail waits for its commit.

    `username` and `password` log in. `tls` encrypts and checks the certificate: from the first octet on at port
    465 (RFC 8314, section 3.3), else by STARTTLS. A connection, and the answers to the commands of a mail, are waited
    for `timeout` seconds. Ends the process with one line when a password would be sent in clear to another machine.
    """

    needs_outbox = True  # it can fail, so that mail must be able to wait

    def __init__(
        self, host: str, port: int, username: str = "", password: str = "", tls: bool = False, timeout: float = 30
    ) -> None:
        super().__init__(host, port, username, password, starttls=tls)
        if username and not tls and host not in THIS_MACHINE:
            refuse("RELAY_TLS", tls, f"sends the password to {host} in clear; for example RELAY_TLS=yes")
        self.timeout = timeout
        self._connection: Any = None
        self._one_mail = threading.RLock()
        _relays.add(self)

    def deliver(self, message: Any, To: str | Iterable[str] | None = None, From: str | None = None) -> None:
        """Send a message at once, or with the transaction that is open.

        Arguments are those of `make_envelope`. Raises what that raises, and at once also what `send_now` does.
        """
        transaction = storage.current()
        if transaction is None:
            self.send_now(make_envelope(message, To, From))
        else:
            transaction.send(message, To, From)

    def configure_relay(self, hostname: str) -> smtplib.SMTP:
        """Return a new connection to the relay, encrypted and logged in as the settings ask, within `timeout` seconds."""
        context = ssl.create_default_context()
        if self.starttls and self.port == IMPLICIT_TLS:
            connection: _Connection = _TLSConnection(hostname, self.port, timeout=self.timeout, context=context)
        else:
            connection = _Connection(hostname, self.port, timeout=self.timeout)
        try:
            if self.starttls and self.port != IMPLICIT_TLS:
                connection.starttls(context=context)
            if self.username:
                connection.login(self.username, self.password)
            connection.ehlo_or_helo_if_needed()
        except BaseException:
            connection.close()
            raise
        return connection

    def send_now(self, envelope: Envelope) -> None:
        """Send one `Envelope` at once. Whom the relay takes gets it.

        Raises `salmon.server.SMTPError` when it does not take it for one of the recipients: 550, or 451 where
        sending again may help.
        """
        answers: dict[str, Answer] = {}
        try:
            for start in range(0, len(envelope.recipients), MAX_RECIPIENTS):
                recipients = envelope.recipients[start : start + MAX_RECIPIENTS]
                answers.update(self.transfer(replace(envelope, recipients=recipients)))
        except (OSError, smtplib.SMTPException) as error:
            raise SMTPError(451, "4.4.0 The relay does not take the mail now") from error
        for recipient, answer in answers.items():
            if not answer.is_yes:
                text = "5.7.1 The relay refused it" if answer.is_final else "4.4.0 The relay refused it now"
                raise SMTPError(550 if answer.is_final else 451, text) from LookupError(f"{recipient}: {answer}")

    def transfer(self, envelope: Envelope, prolong: Callable[[float], object] | None = None) -> dict[str, Answer]:
        """Send one `Envelope` within `seconds_for` it, and return the relay's `Answer` for each recipient.

        A relay that looks into the content may answer late: with `prolong`, a function of seconds that is called first,
        it has `LAST_ANSWER` more for that. Raises `Unreachable` when the relay takes no mail at all, and another
        `OSError` or `smtplib.SMTPException` when the connection ended in the middle of this one.
        """
        deadline = time.monotonic() + seconds_for(len(envelope.data))
        with self._one_mail:
            try:
                answers = self._offer(envelope, deadline)
                taken = [recipient for recipient, answer in answers.items() if answer.is_yes]
                if taken:
                    self._connection.until, self._connection.prolong = deadline, prolong
                    [last] = self._ask([_stuffed(envelope.data) + b"."])
                    self._connection.prolong = None
                    answers.update(dict.fromkeys(taken, last))
                else:
                    self._forget()
            except BaseException:  # the next mail must not read the answers to this one
                self._forget()
                raise
        return answers

    def close(self) -> None:
        """Send QUIT without waiting for the answer, and close the connection."""
        with self._one_mail:
            if self._connection is not None:
                with suppress(OSError):
                    self._connection.until = time.monotonic() + self.timeout
                    self._connection.putcmd("QUIT")
            self._forget()

    def _offer(self, envelope: Envelope, deadline: float) -> dict[str, Answer]:
        """Send the commands before the content, over a new connection when the relay has closed the kept one.

        They may be sent twice: a mail is not sent before its content.
        """
        if self._connection is not None:
            with suppress(smtplib.SMTPServerDisconnected, Unreachable):
                return self._say_envelope(envelope, deadline)
            self._forget()
        try:
            self._connection = self.configure_relay(self.hostname)
        except (OSError, smtplib.SMTPException) as error:
            raise Unreachable(f"no connection to {self}: {error}") from error
        return self._say_envelope(envelope, deadline)

    def _say_envelope(self, envelope: Envelope, deadline: float) -> dict[str, Answer]:
        self._connection.until = min(time.monotonic() + self.timeout, deadline)
        options = ""
        if self._connection.has_extn("size"):
            options += f" SIZE={len(envelope.data)}"
        if self._connection.has_extn("8bitmime") and not envelope.data.isascii():
            options += " BODY=8BITMIME"
        lines = envelope.commands(options)
        if self._connection.has_extn("pipelining"):
            mail, *recipients, data = self._ask(lines)
        else:
            [mail] = self._ask(lines[:1])
            recipients = [self._ask([line])[0] for line in lines[1:-1]] if mail.is_yes else []
            data = self._ask(lines[-1:])[0] if any(answer.is_yes for answer in recipients) else mail
        if not mail.is_yes:
            recipients = [mail] * len(envelope.recipients)
        elif data.code != 354:  # the relay would read the content as commands
            refusal = data if not data.is_yes else Answer(451, f"the relay answered {data} to DATA")
            recipients = [refusal if answer.is_yes else answer for answer in recipients]
        return dict(zip(envelope.recipients, recipients, strict=True))

    def _ask(self, lines: list[bytes]) -> list[Answer]:
        """Send lines at once (RFC 2920), and return the answer to each."""
        self._connection.send(b"".join(line + b"\r\n" for line in lines))
        answers = []
        for line in lines:
            code, text = self._connection.getreply()
            answer = Answer(code, one_line(text.decode("ascii", "replace"))[:500])
            if code in NOT_FOR_THE_MAIL and line.startswith(b"MAIL FROM:"):
                raise (TurnedAway if code == 421 else Unreachable)(str(answer))
            if code == 421:  # no other answer follows
                raise smtplib.SMTPServerDisconnected(str(answer))
            answers.append(answer)
        return answers

    def _forget(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self._connection = None


class _Connection(smtplib.SMTP):
    """A connection that fails at the time `until`, which `prolong` may move once, however slowly octets come and go."""

    sock: Any
    prolong: Callable[[float], object] | None = None

    def connect(self, *arguments: Any) -> tuple[int, bytes]:
        self.until = time.monotonic() + self.timeout
        return super().connect(*arguments)

    def send(self, s: Any) -> None:
        self.limit_wait()
        super().send(s)

    def getreply(self) -> tuple[int, bytes]:
        self.file = self.file or io.BufferedReader(_Octets(self))
        return super().getreply()

    def limit_wait(self) -> None:
        left = self.until - time.monotonic()
        if left <= 0:
            raise TimeoutError("the relay is too slow")
        self.sock.settimeout(left)


class _TLSConnection(_Connection, smtplib.SMTP_SSL):
    """One that is encrypted from the first octet on."""


class _Octets(io.RawIOBase):
    """What a connection receives, for the lines of an answer."""

    def __init__(self, connection: _Connection) -> None:
        self.connection = connection

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        it = self.connection
        try:
            it.limit_wait()
            return int(it.sock.recv_into(buffer))
        except TimeoutError:
            if it.prolong is None:
                raise
            it.prolong(LAST_ANSWER)
            it.prolong, it.until = None, time.monotonic() + LAST_ANSWER
            return self.readinto(buffer)


def _stuffed(data: bytes) -> bytes:
    """Return content that ends in CRLF, with a dot before each line that begins with one (RFC 5321, section 4.5.2)."""
    data = data if data.endswith(b"\r\n") else data + b"\r\n"
    return (b"\r\n" + data).replace(b"\r\n.", b"\r\n..")[2:]


def _after_fork_in_child() -> None:
    # The connections are the parent's, and perhaps in use.
    for relay in list(_relays):
        if relay._connection is not None and relay._connection.sock is not None:
            relay._connection.sock.close()
        relay._connection, relay._one_mail = None, threading.RLock()


_relays: weakref.WeakSet[Relay] = weakref.WeakSet()
os.register_at_fork(after_in_child=_after_fork_in_child)
