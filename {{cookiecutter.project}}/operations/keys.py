"""The keys under which the handlers keep their states."""

from salmon.mail import MailRequest
from salmon.routing import Router

from config import settings


def state_key(module, list_name, sender):
    """Return the key under which the handlers in `module` keep the state of `sender` in a list."""
    mail = MailRequest(None, sender, f"{list_name}@{settings.mail_domain}", "")
    return Router.state_key(module, mail)


def split_key(key):
    """Return the two parts of a state key, as `app.handlers.subscription` makes it."""
    module, _, list_name = (key or "").partition(":")
    return module, list_name
