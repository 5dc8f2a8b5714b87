"""Test handlers: `receive` a mail, look at the replies, and `assert_in_state`.

    (welcome,) = receive("alice@people.example", confirmation["Reply-To"])
    assert_in_state(SUBSCRIBED, "alice@people.example", "news")

`tests/conftest.py` imports `config.testing` and names the plugin `mailroom.testing.plugin`, which clears
states and mail before every test.
"""

import email
import os
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from email.message import EmailMessage
from email.policy import default
from typing import Any
from unittest.mock import patch

import jinja2
from salmon.routing import Router, salmon_setting
from salmon.server import SMTPError

from mailroom.envelope import Envelope
from mailroom.handlers import handlers_at, state_key
from mailroom.message import Message, read
from mailroom.relay import Relay
from mailroom.room import current

__all__ = ["Outbox", "assert_in_state", "put_in_state", "receive"]

PEER = ("127.0.0.1", 0)
Handler = Callable[..., object]
Move = tuple[str, str, str | None]  # module, state, next state


class Outbox(Relay):
    """A relay that sends nothing and keeps each `Envelope` in the list `sent`."""

    needs_outbox = False

    def __init__(self) -> None:
        super().__init__("nowhere", 25)
        self.sent: list[Envelope] = []

    def send_now(self, envelope: Envelope) -> None:
        self.sent.append(envelope)


def receive(sender: str, recipient: str, text: str | bytes = "Hello.\n", **headers: str) -> list[EmailMessage]:
    """Handle a mail as the receiver does, and return the mails that this sends as `EmailMessage`s.

    `recipient` may omit the domain. A header is an argument such as `Auto_Submitted="no"`. In the place of `text`, octets
    are the whole mail. Raises what the handler raises, and `salmon.server.SMTPError` when the mail is refused.
    """
    here: Any = current()  # its relay is an `Outbox`
    recipient, before = here.address(recipient), len(here.relay.sent)
    named = [(name.replace("_", "-"), value) for name, value in headers.items()]
    data = text if isinstance(text, bytes) else make_mail(sender, recipient, named, text)
    here.deliver(PEER, sender, recipient, data)
    return [email.message_from_bytes(envelope.data, policy=default) for envelope in here.relay.sent[before:]]


def assert_in_state(state: Callable[..., Any], sender: str, to: str | None = None) -> None:
    """Fail unless `sender` is in `state`, a handler. Name an address `to` if the state depends on it."""
    key = state_key(state.__module__, sender, to)
    actual = Router.STATE_STORE.get(key, sender.lower())
    assert actual == state.__name__, f"{sender} is in {actual} for {key}, and not in {state.__name__}"


def put_in_state(state: Callable[..., Any], sender: str, to: str | None = None) -> None:
    """Put `sender` into `state`, a handler. Name an address `to` if the state depends on it."""
    Router.STATE_STORE.set(state_key(state.__module__, sender, to), sender.lower(), state.__name__)


@dataclass
class Exchange:
    """A mail from `sender`, empty for the null sender, to `recipient`, and its result.

    `handlers` are the functions that were called. `after` is the state of the sender, None when no handler keeps
    one. `moves` has `(module, state, next state)` for each handler that keeps one. `sent` has the
    outgoing mails as `(to, Message)`; `to` is empty for a reply to the sender alone. `refusal` is the answer
    instead of 250, and `note` the reason for it, or for no reply.
    """

    sender: str
    recipient: str
    handlers: list[Handler] = field(default_factory=list)
    after: str | None = None
    moves: list[Move] = field(default_factory=list)
    sent: list[tuple[str, Message]] = field(default_factory=list)
    refusal: str | None = None
    note: str | None = None


def exchange(sender: str, recipient: str, data: bytes) -> Exchange:
    """Deliver the octets of a mail as the receiver does, and return the `Exchange`. The relay must be an `Outbox`.

    The null sender is empty or `<>`, as in `make_mail`.
    """
    sender = sender.removeprefix("<>")
    here: Any = current()  # its relay is an `Outbox`
    result = Exchange(sender, recipient)
    already_sent = len(here.relay.sent)
    try:
        message = read(here, PEER, sender, recipient, data)
    except SMTPError as error:
        result.refusal = str(error)
        return result
    before = _states(message)
    with patch.object(Router, "call_safely", wraps=Router.call_safely) as called:
        try:
            here.deliver(PEER, sender, recipient, data)
        except SMTPError as error:
            result.refusal = str(error)
        except Exception as error:
            result.refusal = "451 4.3.0 The mail could not be handled now; try again later"
            result.note = with_place(error)
    after = _states(message)
    result.handlers = [call.args[0] for call in called.call_args_list]
    handlers = [(handler.__module__, handler.__name__) for handler in result.handlers]
    result.after = next((after[module] for module in [*dict(handlers), *after] if module in after), None)
    if not result.refusal:
        result.moves = [(module, state, after.get(module)) for module, state in handlers if before.get(module) == state]
        if not handlers:
            result.note = "automated mail" if message.is_automated else "handled before"
        elif called.call_args.args[1].replies_left_out:
            result.note = "replies_per_hour is reached"
    for envelope in here.relay.sent[already_sent:]:
        to = ",".join(envelope.recipients)
        mail = Message(here, PEER, envelope.sender, to, envelope.data)
        result.sent.append(("" if to.lower() == sender.lower() else to, mail))
    return result


def state_at(address: str, sender: str) -> str | None:
    """Return the state of `sender` for mail to `address`, None when no handler keeps one."""
    return next(iter(_states(read(current(), PEER, sender, address, b"")).values()), None)


def make_mail(sender: str, recipient: str, headers: Sequence[tuple[str, str]] = (), text: str = "Hello.\n") -> bytes:
    """Return the octets of a mail; the `(name, value)` pairs in `headers` replace the usual ones or add to them.

    Raises `ValueError` for an address or a header that a mail cannot have.
    """
    mail = EmailMessage()
    given = {name.lower() for name, _ in headers}
    usual = [("From", sender.removeprefix("<>") or "MAILER-DAEMON"), ("To", recipient), ("Subject", "hello")]
    for name, value in [pair for pair in usual if pair[0].lower() not in given] + list(headers):
        try:
            mail[name] = value
        except Exception as error:  # for an address such as "alice@", `email` raises errors of many kinds
            raise ValueError(f"{name}: {value!r} cannot be written in a mail") from error
    mail.set_content(text)
    return mail.as_bytes()


def _states(message: Message) -> dict[str, str | None]:
    """Return `{module: state of the sender}` for each module that keeps one at this address, in the Router's order."""
    try:
        return {
            handler.__module__: Router.get_state(handler.__module__, message)
            for handler in handlers_at(message.To)
            if not salmon_setting(handler, "stateless")
        }
    except Exception:  # the storage or a state key fails; delivering the mail tells which
        return {}


def with_place(error: Exception) -> str:
    """Return an exception in one line, with the last place in the application's own code that it passed."""
    place = f" ({error.filename}:{error.lineno})" if isinstance(error, jinja2.TemplateSyntaxError) else ""
    packages = {module.partition(".")[0] for module in Router.HANDLERS}
    for frame, line in traceback.walk_tb(error.__traceback__):
        if frame.f_globals.get("__name__", "").partition(".")[0] in packages:
            place = f" ({os.path.relpath(frame.f_code.co_filename)}:{line})"
    return f"{type(error).__name__}: {error}{place}"
