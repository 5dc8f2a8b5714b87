"""What the tests say: `receive` this mail, then `assert_in_state`, and look at the replies."""

import email
from email.message import EmailMessage
from email.policy import default

from salmon.routing import Router

from app.mail.delivery import deliver
from config import settings
from operations.keys import state_key

PEER = ("127.0.0.1", 0)


def receive(sender, recipient, body="Hello.\n", **headers):
    """Handle a mail as the receiver does, and return the replies to it.

    `recipient` may do without the domain. Headers are given as `Auto_Submitted="no"`. Raises
    what the handler raises, or `salmon.server.SMTPError` where the mail is refused.
    """
    mail = EmailMessage()
    for name, value in {"From": sender, "To": recipient, "Subject": "hello", **headers}.items():
        mail[name.replace("_", "-")] = value
    mail.set_content(body)
    return receive_data(sender, recipient, mail.as_bytes())


def receive_data(sender, recipient, data):
    """Handle the octets of a mail as `receive` does."""
    if "@" not in recipient:
        recipient = f"{recipient}@{settings.mail_domain}"
    before = len(settings.relay.sent)
    deliver(PEER, sender, recipient, data)
    return [email.message_from_bytes(sent.data, policy=default) for sent in settings.relay.sent[before:]]


def assert_in_state(state, sender, list_name=None):
    """Fail unless `sender` is in `state`, a handler; `list_name`, by default the first, counts where each has its own."""
    sender = sender.lower()  # as they stand in the states
    key = state_key(state.__module__, list_name or settings.lists[0], sender)
    actual = Router.STATE_STORE.get(key, sender)
    assert actual == state.__name__, f"{sender} is in {actual} for {key}, and not in {state.__name__}"


def put_in_state(state, sender, list_name=None):
    """Put `sender` where the next mail shall find them."""
    sender = sender.lower()
    key = state_key(state.__module__, list_name or settings.lists[0], sender)
    Router.STATE_STORE.set(key, sender, state.__name__)
