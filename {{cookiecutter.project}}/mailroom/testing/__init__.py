"""Test handlers: `receive` a mail, look at the replies, and `assert_in_state`.

    (welcome,) = receive("alice@people.example", confirmation["Reply-To"])
    assert_in_state(SUBSCRIBED, "alice@people.example", "news")

`tests/conftest.py` imports `config.testing` and names the plugin `mailroom.testing.plugin`, which clears
states and mail before every test.
"""

import email
from collections.abc import Callable
from email.message import EmailMessage
from typing import Any

from salmon.routing import Router

from mailroom.envelope import Envelope
from mailroom.handlers import state_key
from mailroom.relay import Relay
from mailroom.room import current
from mailroom.testing.exchange import LENIENT, PEER, make_mail

__all__ = ["Outbox", "assert_in_state", "put_in_state", "receive", "receive_data"]


class Outbox(Relay):
    """A relay that sends nothing and keeps each `Envelope` in the list `sent`."""

    needs_outbox = False

    def __init__(self) -> None:
        super().__init__("nowhere", 25)
        self.sent: list[Envelope] = []

    def send_now(self, envelope: Envelope) -> None:
        self.sent.append(envelope)


def receive(sender: str, recipient: str, text: str = "Hello.\n", **headers: str) -> list[EmailMessage]:
    """Handle a mail as the receiver does, and return the mails that this sends as `EmailMessage`s.

    `recipient` may omit the domain. A header is an argument such as `Auto_Submitted="no"`. Raises what the handler
    raises, and `salmon.server.SMTPError` when the mail is refused.
    """
    recipient = current().address(recipient)
    named = [(name.replace("_", "-"), value) for name, value in headers.items()]
    return receive_data(sender, recipient, make_mail(sender, recipient, named, text))


def receive_data(sender: str, recipient: str, data: bytes) -> list[EmailMessage]:
    """Handle the octets of a mail, as `receive` does."""
    relay: Any = current().relay  # an `Outbox`
    before = len(relay.sent)
    current().deliver(PEER, sender, current().address(recipient), data)
    return [email.message_from_bytes(envelope.data, policy=LENIENT) for envelope in relay.sent[before:]]


def assert_in_state(state: Callable[..., Any], sender: str, to: str | None = None) -> None:
    """Fail unless `sender` is in `state`, a handler. Name an address `to` if the state depends on it."""
    key = state_key(state.__module__, sender, to)
    actual = Router.STATE_STORE.get(key, sender.lower())
    assert actual == state.__name__, f"{sender} is in {actual} for {key}, and not in {state.__name__}"


def put_in_state(state: Callable[..., Any], sender: str, to: str | None = None) -> None:
    """Put `sender` into `state`, a handler. Name an address `to` if the state depends on it."""
    Router.STATE_STORE.set(state_key(state.__module__, sender, to), sender.lower(), state.__name__)
