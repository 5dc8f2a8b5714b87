"""What happens to a mail: it is handled, its replies go out and its states are kept; or nothing happened.

The order is handle, send, commit, and only then 250.
"""

import logging
import re

from salmon.routing import Router, salmon_setting
from salmon.server import SMTPError

from app.mail.manners import is_from_machine, reply_limit
from app.mail.request import read
from app.model.mail_states import MailStates
from config import settings

LOG = logging.getLogger(__name__)

MOST_HOPS = 100  # RFC 5321, section 6.3
MESSAGE_ID = re.compile(rb"^message-id:\s*(<[!-;=?-~]{1,250}>)", re.IGNORECASE | re.MULTILINE)


class Unhandled:
    """Stands in `Router.UNDELIVERABLE_QUEUE`. Nothing piles up there: the mail is marked, and the rest is done here."""

    def push(self, message):
        message.unhandled = True


def is_routed(address):
    """Tell whether any handler takes mail for `address`."""
    return any(True for _ in Router.match(address.lower()))


def deliver(peer, sender, recipient, data):
    """Handle the mail `data` (octets) that came from `peer` for one `recipient`.

    `sender` is the envelope sender, empty for the null sender. Whatever is raised, no state has
    changed; a reply has left only where the relay failed after it, or the commit did, and comes
    again with the same Message-ID. Raises `salmon.server.SMTPError` with the answer for the client,
    550 for an address without a handler; anything else is a fault of a handler and wants a 451.
    """
    message = read(peer, sender, recipient, data)
    handlers = [handler for found, _ in Router.match(message.To) for handler in found]
    if not handlers:
        raise SMTPError(550, "5.1.1 There is no such address here")
    if len(message.base.mime_part.get_all("Received", ())) > MOST_HOPS:
        raise SMTPError(554, "5.4.6 The mail goes round in circles")
    machine = is_from_machine(message)
    stateless = machine or reply_limit.is_reached(message.From)
    with attached_states().conversation(message.From, stateless):
        with settings.relay.held() as sent:
            if not stateless and _is_in_unknown_state(message, handlers):
                raise SMTPError(451, "4.3.0 No handler fits the state of the sender")
            Router.deliver(message)
        replies = [envelope for envelope in sent if message.envelope_sender in envelope.recipients]
        reply_limit.count(message.From, len(replies))
    LOG.info(
        "%s mail from %r to %r, Message-ID %s, sent: %d",
        "ignored" if message.unhandled else "handled",
        message.From,
        message.To,
        message_id(data),
        len(sent),
    )
    if stateless:
        LOG.info("not answered: %s", "it comes from a machine" if machine else "replies_per_hour is reached")


def message_id(data):
    """Return the Message-ID in a mail's octets for the log; never raise, whatever they are."""
    found = MESSAGE_ID.search(data, 0, data.find(b"\n\n") + 1 or len(data))
    return found[1].decode("ascii") if found else "unknown"


def _is_in_unknown_state(message, handlers):
    """Tell whether the sender is in a state of which none of the `handlers` for this address knows."""
    stateful = [handler for handler in handlers if not salmon_setting(handler, "stateless")]
    return stateful and not any(Router.in_state(handler, message) for handler in stateful)


def attached_states():
    """Return the `MailStates` that the Router has.

    A storage that was attached bare, as Salmon's documentation shows, keeps the promises as well.
    """
    if not isinstance(Router.STATE_STORE, MailStates):
        Router.STATE_STORE = MailStates(Router.STATE_STORE)
    return Router.STATE_STORE
