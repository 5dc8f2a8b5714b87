"""One mail through the application, and what became of it: who took it, what it changed, what it sent."""

import email
import os
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.message import EmailMessage
from email.policy import default

from salmon.routing import Router, salmon_setting
from salmon.server import SMTPError

from mailroom import room
from mailroom.loops import is_from_machine
from mailroom.message import read

PEER = ("127.0.0.1", 0)


@dataclass
class Exchange:
    """A mail from `sender`, empty for the null sender, to `recipient`, and what became of it.

    `handlers` are the functions that were called; `before` and `after` the state of the sender,
    None where no handler keeps one; `sent` the mails that went out, as `(to, EmailMessage)` with
    an empty `to` for a reply to the sender alone; `refusal` the
    answer instead of 250; `note` says why.
    """

    sender: str
    recipient: str
    handlers: list = field(default_factory=list)
    before: str | None = None
    after: str | None = None
    sent: list = field(default_factory=list)
    refusal: str | None = None
    note: str | None = None

    def add_sent(self, recipients, data):
        """Add a mail that went out to these addresses, in octets."""
        to = ",".join(recipients)
        mail = email.message_from_bytes(data, policy=default)
        self.sent.append(("" if to.lower() == self.sender.lower() else to, mail))


def exchange(sender, recipient, data):
    """Deliver the octets of a mail as the receiver does, and return the `Exchange`; the relay is an `Outbox`."""
    mailroom = room.current()
    result = Exchange(sender, recipient)
    already_sent = len(mailroom.relay.sent)
    try:
        message = read(mailroom, PEER, sender, recipient, data)
    except SMTPError as error:
        result.refusal = str(error)
        return result
    before = _states(message)
    try:
        with _watching(result.handlers):
            mailroom.deliver(PEER, sender, recipient, data)
        if not result.handlers:
            result.note = "automated mail" if is_from_machine(message) else "replies_per_hour is reached"
    except SMTPError as error:
        result.refusal = str(error)
    except Exception as error:
        result.refusal = "451 4.3.0 The mail could not be handled now; try again later"
        result.note = _where(error)
    after = _states(message)
    modules = [handler.__module__ for handler in result.handlers] + list(after)
    module = next((module for module in modules if module in after), None)
    result.before, result.after = before.get(module), after.get(module)
    for envelope in mailroom.relay.sent[already_sent:]:
        result.add_sent(envelope.recipients, envelope.data)
    return result


def state_at(address, sender):
    """Return the state in which a mail from `sender` to `address` would find them, or None."""
    return next(iter(_states(read(room.current(), PEER, sender, address, b"")).values()), None)


def make_mail(sender, recipient, headers=(), text="Hello.\n"):
    """Return the octets of a mail; `headers` are `(name, value)` pairs that add to or replace the usual ones.

    Raises `ValueError` when an address or a header cannot be written.
    """
    mail = EmailMessage()
    given = {name.lower() for name, _ in headers}
    usual = [("From", sender or "MAILER-DAEMON"), ("To", recipient), ("Subject", "hello")]
    for name, value in [pair for pair in usual if pair[0].lower() not in given] + list(headers):
        try:
            mail[name] = value
        except Exception as error:  # `email` raises whatever it likes about an address such as "alice@"
            raise ValueError(f"{name}: {value!r} cannot be written in a mail") from error
    mail.set_content(text)
    return mail.as_bytes()


def envelope_sender(address):
    """Return an address as an envelope has it: empty for the null sender, which is written `<>`."""
    return "" if address == "<>" else address


def _states(message):
    """Return the state of the sender in each module that keeps one for this address, in the Router's order."""
    try:
        return {
            handler.__module__: Router.get_state(handler.__module__, message)
            for handlers, _ in Router.match(message.To)
            for handler in handlers
            if not salmon_setting(handler, "stateless")
        }
    except SMTPError:  # the storage fails, and so does the mail
        return {}


@contextmanager
def _watching(called):
    """Note in the list `called` which handlers the Router calls within the block."""
    call = Router.call_safely

    def note_and_call(handler, message, captures):
        called.append(handler)
        call(handler, message, captures)

    Router.call_safely = note_and_call
    try:
        yield
    finally:
        del Router.call_safely


def _where(error):
    """Return what was raised and the last line of our own code on its way, in one line."""
    place, trace = "", error.__traceback__
    while trace:
        path = os.path.relpath(trace.tb_frame.f_code.co_filename)
        if path.startswith(f"app{os.sep}"):
            place = f" ({path}:{trace.tb_lineno})"
        trace = trace.tb_next
    return f"{type(error).__name__}: {error}{place}"
