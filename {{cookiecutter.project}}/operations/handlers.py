"""What the Router has been told by the handlers: which states there are, and under which keys."""

import functools

from salmon.mail import MailRequest
from salmon.routing import ROUTE_FIRST_STATE, Router, salmon_setting

from config import settings


@functools.cache
def states_by_module():
    """Return the names of the states that each module of handlers has, in the order of their routes."""
    found = {}
    for _, functions in Router.REGISTERED.values():
        for function in functions:
            if not salmon_setting(function, "stateless"):
                names = found.setdefault(function.__module__, [])
                if function.__name__ not in names:
                    names.append(function.__name__)
    return found


def state_key(module, list_name, sender):
    """Return the key under which the handlers in `module` keep the state of `sender` in a list."""
    mail = MailRequest(None, sender, f"{list_name}@{settings.mail_domain}", "")
    return Router.state_key(module, mail)


def module_and_list(key):
    """Return the two parts of a state key, as `app.handlers.subscription` makes it."""
    module, _, list_name = (key or "").partition(":")
    return module, list_name


def has_handler(key, state):
    """Tell whether a handler takes the next mail of a sender in `state`; otherwise they are stuck."""
    return state == ROUTE_FIRST_STATE or state in states_by_module().get(module_and_list(key)[0], [])
