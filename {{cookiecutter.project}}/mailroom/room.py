"""Handle each mail as one transaction: when it fails, nothing has changed.

lock the sender -> handled before? then 250 -> handlers run -> commit -> 250 -> the relay gets the outgoing mail
"""

import hashlib
import logging
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, suppress
from email.message import EmailMessage
from email.utils import formatdate, make_msgid
from typing import Any

import jinja2
from salmon import view
from salmon.routing import Router, salmon_setting
from salmon.server import SMTPError
from salmon.utils import import_settings

from mailroom import handlers as known
from mailroom.envelope import describe
from mailroom.files import make_private
from mailroom.loops import Machines, ReplyLimit
from mailroom.message import Message, read
from mailroom.outbox import Sending
from mailroom.relay import Relay
from mailroom.settings import refuse
from mailroom.signing import Tokens
from mailroom.storage import Storage, Tables, Transaction, handler_name
from mailroom.storage.joined import JoinedStorage

LOG = logging.getLogger(__name__)

MAX_HOPS = 100  # RFC 5321, section 6.3
STOP_SECONDS = 5  # for which outgoing mail still leaves


class Mailroom:
    """Handle mail for `domain` with Salmon's Router.

    `relay` takes what goes out. `templates` is a folder in a package, such as `app/templates`. `secret_key`
    signs tokens. An address gets at most `replies_per_hour` replies, from this worker. `renamed_states`,
    `{old: new}`, names the states that were renamed since the last release. `tables(connection)` creates the
    application's own tables where they are missing. A mail has at most `max_message_size` octets. `machines`
    adds to what automated mail is known by: `(headers, pattern, source)` tuples, see `mailroom.loops.Sign`.
    `forwarders` are the domains of whose SRS addresses, `SRS0=…=people.example=alice@forwarder.example`, the
    person is taken. At most `handler_threads` threads handle mail for handlers marked `@nolocking`, and mail that has
    to wait for a lock; with 0, every mail is handled where it is read.
    """

    def __init__(
        self,
        relay: Relay,
        domain: str,
        templates: str,
        secret_key: str,
        replies_per_hour: int = 20,
        renamed_states: Mapping[str, str] | None = None,
        tables: Tables | None = None,
        max_message_size: int = 10 * 1024 * 1024,
        machines: Iterable[tuple[Any, ...]] = (),
        forwarders: Iterable[str] = (),
        handler_threads: int = 20,
    ) -> None:
        if not secret_key:
            is_kept = os.path.exists("run/secret_key")
            example = "to what run/secret_key holds" if is_kept else "for example to what `openssl rand -hex 32` prints"
            refuse("SECRET_KEY", "", f"must be set, to the same on every machine: {example}")
        self.relay = relay
        self.domain = domain.lower()
        self.templates = jinja2.Environment(
            loader=jinja2.PackageLoader(*templates.split("/", 1)),
            undefined=jinja2.StrictUndefined,
            keep_trailing_newline=True,
            autoescape=jinja2.select_autoescape(["html"]),
        )
        self.templates.globals["domain"] = self.domain
        self.html_templates = frozenset(self.templates.list_templates(["html"]))
        self.tokens = Tokens(secret_key)
        self.reply_limit = ReplyLimit(replies_per_hour)
        self.renamed_states = dict(renamed_states or ())
        self.tables = tables
        self.sending = Sending(self)
        self._storage: Storage | None = None
        self.max_message_size = max_message_size
        self.machines = Machines(machines)
        self.forwarders = frozenset(map(str.lower, forwarders))
        self.handler_threads = handler_threads

    @property
    def storage(self) -> Storage:
        """The Router's `Storage`; one with only Salmon's three methods is replaced by a `JoinedStorage` around it."""
        storage: Storage = Router.STATE_STORE
        if storage is not self._storage:
            if not isinstance(storage, Storage):
                storage = Router.STATE_STORE = JoinedStorage(storage)
            if self.tables:
                try:
                    storage.create_tables(self.tables)
                except NotImplementedError:
                    sys.exit(f"ERROR: {storage!r} has no own tables; leave out `tables=` in config/boot.py")
            self._storage = storage
        return storage

    def load(self, handlers: list[str]) -> None:
        """Load modules of handlers into the Router, and compile the templates; raise the exception of a broken one.

        Ends the process with one line when a module is not there, or when none of them has a route.
        """
        view.LOADER = self.templates
        Router.RELOAD = False  # if True, each mail imports all handlers again
        Router.LOG_EXCEPTIONS = False  # a handler's exception reaches the receiver, which answers 451
        Router.UNDELIVERABLE_QUEUE = self
        Router.defaults(host=re.escape(self.domain))
        try:
            Router.load(handlers)
        except (ModuleNotFoundError, ValueError) as error:
            name = getattr(error, "name", "")
            missing = [module for module in handlers if f"{module}.".startswith(f"{name}.")]
            if not missing:  # a module that is there has raised it
                raise
            refuse("HANDLERS", handlers, f"cannot be used: there is no module {missing[0]}")
        if not Router.ORDER:
            refuse("HANDLERS", handlers, "cannot be used: they have no routes")
        known.refuse_routes_without_values()
        known.states_by_module.cache_clear()
        known.handlers_at.cache_clear()
        for name in self.templates.list_templates(["msg", "html"]):
            self.templates.get_template(name)

    def start(self) -> None:
        """Open the storage, rename states, begin to send. Receivers call this before they accept mail.

        Ends the process with one line when the storage cannot be used, or when a stored state has no handler.
        """
        for folder in ("run", "logs"):  # Salmon's daemon creates them, with its umask of 0
            make_private(folder)
        try:
            self.storage.open()
            with suppress(NotImplementedError):  # a storage that does not show its rows
                known.rename(self.storage, self.renamed_states)
        except ValueError as error:
            sys.exit(f"ERROR: {error}")
        except SMTPError as error:
            refuse("STATE_DATABASE", self.storage, f"cannot be used: {error.__cause__ or error}")
        self.sending.start()

    def stop(self) -> None:
        """Send what is ready, for a few seconds at most. Receivers call this at their end; the last one's counts.

        Handlers that still run in other threads change nothing any more.
        """
        self.sending.stop(STOP_SECONDS)
        if not self.sending.is_running():
            self.relay.close()

    def is_routed(self, address: str) -> bool:
        """Return whether any handler takes mail for `address`."""
        return bool(known.handlers_at(address.lower()))

    def is_slow(self, address: str) -> bool:
        """Return whether a handler for `address`, in whatever state, is marked `@nolocking`."""
        return any(salmon_setting(handler, "nolocking") for handler in known.handlers_at(address.lower()))

    def address(self, recipient: str) -> str:
        """Return `recipient`, in our own domain when it has none."""
        return recipient if "@" in recipient else f"{recipient}@{self.domain}"

    def deliver(self, peer: Any, sender: str, recipient: str, data: bytes, waits: bool = True) -> None:
        """Handle the mail `data` (octets) that came from `peer` for one `recipient`.

        `sender` is the envelope sender, empty for the null sender. Whatever is raised, nothing has
        changed, and nothing was sent. Raises `salmon.server.SMTPError` with the answer for the client,
        550 for an address without a handler; anything else is a fault of a handler and wants a 451. `waits` is
        that of `Storage.transaction`.
        """
        message = read(self, peer, sender, recipient, data)
        handlers = known.handlers_at(message.To)
        if not handlers:
            raise SMTPError(550, "5.1.1 There is no such address here")
        if len(message.base.mime_part.get_all("Received", ())) > MAX_HOPS:
            raise SMTPError(554, "5.4.6 The mail goes round in circles")
        mail = describe(message.From, message.To, data)
        with self.transaction(message.From, message.is_automated, waits) as message.transaction:
            # Equal octets without Message-ID and Received are no mail sent again: somebody wrote it twice.
            can_come_twice = "message-id" in message.base or "received" in message.base
            if can_come_twice and message.transaction.handled(_digest(message)):
                LOG.info("handled before: %s", mail)
                return
            if not message.is_automated:
                _refuse_without_handler(message, handlers)
            _handle(message)
            if self.sending.has_stopped():
                raise SMTPError(451, "4.3.2 The service is going down")
            replies = self._limit_replies(message)
        self.reply_limit.count(message.From, replies)
        LOG.info(
            "%s %s, outgoing: %d", "ignored" if message.unhandled else "handled", mail, len(message.transaction.mail)
        )
        if message.is_automated:
            LOG.info("not answered: automated mail")

    def transaction(
        self, sender: str | None = None, stateless: bool = False, waits: bool = True
    ) -> AbstractContextManager[Transaction]:
        """Return a context for a script or a test: states, own tables and mail of its block are kept together.

        with settings.room.transaction() as transaction:
            transaction.connection.execute("SELECT …")

        The arguments are those of `Storage.transaction`.
        """
        return self.storage.transaction(sender, stateless, self.sending, waits=waits)

    def send(self, mail: EmailMessage, to: str | Iterable[str] | None = None, sender: str | None = None) -> None:
        """Put an `email.message.EmailMessage` into the outbox, with the transaction that is open or one of its own.

        A server that runs sends it within seconds. `to` is an address or several, by default those in the headers
        To, Cc and Bcc. `sender` is the envelope sender, by default the address in From, and `<>` the null sender.
        Date and Message-ID (RFC 5322, section 3.6) and Auto-Submitted (RFC 3834, section 5) are added where they
        are missing. Raises `ValueError` for an address that cannot be sent, and `StorageError`.
        """
        for name, value in self.missing_headers(mail):
            mail[name] = value
        with self.transaction() as transaction:
            transaction.send(mail, to, sender)

    def missing_headers(self, mail: Any) -> list[tuple[str, str]]:
        """Return names and values of what a mail of ours must have, and this one has not."""
        headers = [
            ("Date", formatdate()),
            ("Message-ID", make_msgid(domain=self.domain)),
            ("Auto-Submitted", "auto-generated"),
        ]
        return [(name, value) for name, value in headers if name not in mail]

    def _limit_replies(self, message: Message) -> int:
        """Remove the replies over the limit of this hour; return how many are left."""
        replies = 0
        for envelope in list(message.transaction.mail):
            if message.envelope_sender in envelope.recipients:
                if self.reply_limit.is_reached(message.From, replies):
                    LOG.warning("left out a reply to %r: replies_per_hour is reached", message.From)
                    message.transaction.mail.remove(envelope)
                    message.replies_left_out += 1
                else:
                    replies += 1
        return replies

    def push(self, message: Message) -> None:
        """Mark a mail that no handler took; the Router calls this as its `UNDELIVERABLE_QUEUE`."""
        message.unhandled = True


def current() -> Mailroom:
    """Return the `Mailroom` that `config.boot` or `config.testing` has put into Salmon's settings."""
    room: Mailroom = import_settings(False).room
    return room


def _digest(message: Message) -> bytes:
    """Return a hash of the envelope and the octets of a mail."""
    envelope = repr((message.From, message.To)).encode("utf-8", "surrogatepass")
    return hashlib.blake2b(envelope + b"\0" + message.Data, digest_size=16).digest()


def _refuse_without_handler(message: Message, handlers: list[Callable[..., object]]) -> None:
    """Raise `salmon.server.SMTPError` when the sender is in a state in which none of the `handlers` takes mail.

    451 where the state has no handler at all, so that one that comes back with the next release
    finds the mail; 550 where other addresses have it, and no stateless handler is here.
    """
    stateful = [handler for handler in handlers if not salmon_setting(handler, "stateless")]
    states = {module: Router.get_state(module, message) for module in {it.__module__: None for it in stateful}}
    if not stateful or any(handler.__name__ == states[handler.__module__] for handler in stateful):
        return
    for module, state in states.items():
        reason = LookupError(f"nothing in {module} takes mail for {message.To} of a sender in {state}")
        if not known.has_handler(Router.state_key(module, message), state):
            raise SMTPError(451, "4.3.0 No handler fits the state of the sender") from reason
    if len(stateful) == len(handlers):
        raise SMTPError(550, "5.7.1 There is nothing for you at this address now") from reason


def _handle(message: Message) -> None:
    """Let the Router call the handlers; raise `TypeError` for the next state of one that no handler has."""
    try:
        Router.deliver(message)
    except AttributeError as error:
        *_, (last, _) = traceback.walk_tb(error.__traceback__)
        if error.name not in ("__module__", "__name__") or last.f_globals["__name__"] != Router.__module__:
            raise  # the Router reads the name of the next state; this was raised elsewhere
        raise TypeError(f"{handler_name(error)} returned {error.obj!r}, which is no handler") from None
    for key, _, state in message.transaction.changes():
        if not known.has_handler(key, state):
            raise TypeError(f"a handler for {message.To} returned {state}, which has no route in {key}")
