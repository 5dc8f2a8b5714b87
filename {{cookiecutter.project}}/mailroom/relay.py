"""Send mail through a relay, over one connection that is kept open."""

import ipaddress
import re
import smtplib
import ssl
import threading
from collections.abc import Iterable
from contextlib import suppress
from copy import copy
from dataclasses import dataclass
from email.message import Message
from email.utils import getaddresses
from typing import Any

from salmon import server
from salmon.server import SMTPError

from mailroom import storage
from mailroom.settings import refuse

IMPLICIT_TLS = 465  # the port
TIMEOUT = 30  # seconds to wait for an answer of the relay
LOGIN_WANTED = (530, 534, 535, 538)  # RFC 4954, section 6: our settings are wrong, not the mail

BARE = re.compile(r'(?:"(?:\\.|[^"\\])*"|[^\s<>,"])+|<>')  # an address without a name, or the null sender

# A lone CR is text, and stays; but before a dot, servers have taken it for the end of the mail (SMTP smuggling, 2023).
LINE_END = re.compile(rb"\r\n|\r(?=\.)|\n")


@dataclass(frozen=True)
class Envelope:
    """A mail on its way out: envelope sender, recipients, and the message in octets."""

    sender: str
    recipients: tuple[str, ...]
    data: bytes


class Relay(server.Relay):
    """`salmon.server.Relay` with a timeout and a kept connection; within a transaction, mail leaves with its commit.

    `username` and `password` log in. `tls` encrypts and checks the certificate: from the first octet on at port
    465 (RFC 8314, section 3.3), else by STARTTLS. Ends the process with one line when a password would be sent in
    clear to another machine.
    """

    def __init__(
        self, host: str, port: int, username: str = "", password: str = "", tls: bool = False, timeout: float = TIMEOUT
    ) -> None:
        super().__init__(host, port, username, password, starttls=tls)
        if username and not tls and not _is_this_machine(host):
            refuse("RELAY_TLS", tls, f"sends the password to {host} in clear; for example RELAY_TLS=yes")
        self.timeout = timeout
        self._connection: Any = None
        self._one_mail = threading.RLock()

    def deliver(self, message: Any, To: str | Iterable[str] | None = None, From: str | None = None) -> None:
        """Send a message, or hold it where mail is being handled; arguments as in Salmon, or octets.

        Without `To` an `email.message.Message` goes to its To, Cc and Bcc; the header Bcc is removed.
        `From` is the envelope sender, `<>` for the null sender. Raises
        `salmon.server.SMTPError`, 451 when sending again may help and 550 when not.
        """
        recipients = To or getattr(message, "To", None) or _recipients(message)
        sender = From or getattr(message, "From", None) or message["From"]
        envelope = Envelope(_addresses(sender)[0], _addresses(recipients), _octets(message))
        _commands(envelope)  # raises now, and not when others of this mail have left
        transaction = storage.current()
        if transaction is None:
            self.send_now(envelope)
        else:
            transaction.send(envelope)

    def configure_relay(self, hostname: str) -> smtplib.SMTP:
        """Return a new connection to the relay, encrypted and logged in as the settings ask."""
        context = ssl.create_default_context()
        if self.starttls and self.port == IMPLICIT_TLS:
            connection: smtplib.SMTP = smtplib.SMTP_SSL(hostname, self.port, timeout=self.timeout, context=context)
        else:
            connection = smtplib.SMTP(hostname, self.port, timeout=self.timeout)
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
        """Send one `Envelope`; raise `salmon.server.SMTPError` 451 or 550 when the relay does not take it."""
        with self._one_mail:
            try:
                self._offer(envelope)
                _exchange(self._connection, [_stuffed(envelope.data) + b"."])
            except (OSError, smtplib.SMTPException) as error:
                self._forget()
                raise _refusal(error) from error

    def close(self) -> None:
        """Send QUIT without waiting for the answer, and close the connection."""
        with self._one_mail:
            if self._connection is not None:
                with suppress(smtplib.SMTPException):
                    self._connection.putcmd("QUIT")
            self._forget()

    def _offer(self, envelope: Envelope) -> None:
        """Send the commands before the content, over a new connection when the relay has closed the kept one.

        They may be sent twice: a mail is not sent before its content.
        """
        if self._connection is not None:
            try:
                _offer(self._connection, envelope)
                return
            except smtplib.SMTPServerDisconnected:
                pass
            except smtplib.SMTPResponseException as error:
                if error.smtp_code != 421:
                    raise
            self._forget()
        try:
            self._connection = self.configure_relay(self.hostname)
        except (OSError, smtplib.SMTPException) as error:
            raise ConnectionError(f"no connection to {self}: {error}") from error
        _offer(self._connection, envelope)

    def _forget(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self._connection = None


def _is_this_machine(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _offer(connection: smtplib.SMTP, envelope: Envelope) -> None:
    options = ""
    if connection.has_extn("size"):
        options += f" SIZE={len(envelope.data)}"
    if connection.has_extn("8bitmime") and not envelope.data.isascii():
        options += " BODY=8BITMIME"
    lines = _commands(envelope, options)
    if connection.has_extn("pipelining"):
        _exchange(connection, lines)
    else:
        for line in lines:
            _exchange(connection, [line])


def _commands(envelope: Envelope, options: str = "") -> list[bytes]:
    """Return the commands before the content; raise `ValueError` for an address that cannot be sent."""
    paths = [f"<{address.strip('<>')}>" for address in (envelope.sender, *envelope.recipients)]
    commands = [f"MAIL FROM:{paths[0]}{options}", *(f"RCPT TO:{path}" for path in paths[1:]), "DATA"]
    if not all(map(str.isprintable, commands)):
        raise ValueError(f"an address that cannot be sent: {envelope.sender!r} or one of {envelope.recipients!r}")
    return [command.encode("ascii") for command in commands]


def _exchange(connection: smtplib.SMTP, lines: list[bytes]) -> None:
    """Send lines at once (RFC 2920) and take an answer to each; raise `smtplib.SMTPResponseException` for a refusal."""
    connection.send(b"".join(line + b"\r\n" for line in lines))
    for line in lines:
        code, text = connection.getreply()
        # Without a 354, the relay would read the content as commands.
        as_wanted = code == 354 if line == b"DATA" else 200 <= code < 300
        if not as_wanted:
            raise smtplib.SMTPResponseException(code, text)


def _stuffed(data: bytes) -> bytes:
    """Return content that ends in CRLF, with a dot before each line that begins with one (RFC 5321, section 4.5.2)."""
    data = data if data.endswith(b"\r\n") else data + b"\r\n"
    return (b"\r\n" + data).replace(b"\r\n.", b"\r\n..")[2:]


def _refusal(error: Exception) -> SMTPError:
    """Return the `salmon.server.SMTPError` for a mail that was not sent."""
    code = getattr(error, "smtp_code", 0)
    if code >= 500 and code not in LOGIN_WANTED:
        return SMTPError(550, "5.7.1 The relay refused the reply")
    return SMTPError(451, "4.4.0 The relay does not take the reply now")


def _addresses(value: str | Iterable[str]) -> tuple[str, ...]:
    """Return the bare addresses in a header's text or a list of such texts; raise `ValueError` when there is none."""
    if isinstance(value, str) and BARE.fullmatch(value):
        return (value,)  # as it is: Python 3.13.0 does not read a@[127.0.0.1]
    texts = [value] if isinstance(value, str) else list(value)
    addresses = tuple(address for _, address in getaddresses(texts) if address)
    if not addresses:
        raise ValueError(f"no address in {value!r}")
    return addresses


def _recipients(message: Any) -> Any:
    """Return the values of the headers that name recipients."""
    if isinstance(message, Message):
        return [str(value) for name in ("To", "Cc", "Bcc") for value in message.get_all(name, ())]
    return message["To"]


def _octets(message: Any) -> bytes:
    """Return the message with CRLF line ends; one that came in (`MailRequest`) octet by octet, for its signatures."""
    if isinstance(message, Message):
        message = copy(message)
        del message["Bcc"]  # the copies are blind
    if isinstance(message, bytes):
        data: Any = message
    elif hasattr(message, "Data"):
        data = message.Data
    elif hasattr(message, "as_bytes"):
        data = message.as_bytes(policy=message.policy.clone(cte_type="7bit", linesep="\r\n"))
    else:
        data = str(message)
    if isinstance(data, str):
        data = data.encode("utf-8", "surrogateescape")
    return LINE_END.sub(b"\r\n", data)
