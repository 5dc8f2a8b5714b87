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
from app.model.renamed_states import has_handler
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
            if not stateless:
                _refuse_where_no_handler_is(message, handlers)
            _handle(message)
            attached_states().check()  # before a reply leaves, again at every try
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


def _refuse_where_no_handler_is(message, handlers):
    """Raise `salmon.server.SMTPError` when the sender is in a state in which none of the `handlers` takes mail.

    451 where the state has no handler at all, so that one that comes back with the next release
    finds the mail; 550 where other addresses have it, and no stateless handler is here.
    """
    stateful = [handler for handler in handlers if not salmon_setting(handler, "stateless")]
    if not stateful or any(Router.in_state(handler, message) for handler in stateful):
        return
    for module in {handler.__module__: None for handler in stateful}:
        state = Router.get_state(module, message)
        reason = LookupError(f"nothing in {module} takes mail for {message.To} of a sender in {state}")
        if not has_handler(Router.state_key(module, message), state):
            raise SMTPError(451, "4.3.0 No handler fits the state of the sender") from reason
    if len(stateful) == len(handlers):
        raise SMTPError(550, "5.7.1 There is nothing for you at this address now") from reason


def _handle(message):
    """Let the Router call the handlers; raise `TypeError` for the next state of one that no handler has."""
    try:
        Router.deliver(message)
    except AttributeError as error:
        if error.name not in ("__module__", "__name__"):  # by which the Router knows a state
            raise
        raise TypeError(f"a handler for {message.To} returned {error.obj!r}, which is no handler") from None
    for key, _, state in attached_states().changes():
        if not has_handler(key, state):
            raise TypeError(f"a handler for {message.To} returned {state}, which has no route in {key}")


def attached_states():
    """Return the `MailStates` that the Router has.

    A storage that was attached bare, as Salmon's documentation shows, keeps the promises as well.
    """
    if not isinstance(Router.STATE_STORE, MailStates):
        Router.STATE_STORE = MailStates(Router.STATE_STORE)
    return Router.STATE_STORE
