"""Which handlers there are, and how the Router treats mail; the same for `boot` and `testing`."""

import re
from importlib.util import find_spec
from pathlib import Path

import jinja2
from salmon import view
from salmon.routing import Router

from app.mail.delivery import Unhandled
from config import settings

TEMPLATES = Path(__file__).parent.parent / "app" / "templates"


class NoRoutes(Exception):
    """`settings.handlers` names no modules that handle mail."""


def load():
    """Load the handlers into the Router, and look at the templates; what is broken raises.

    Raises `NoRoutes` when a module is not there, or when none of them has a route.
    """
    for module in settings.handlers:
        if not _is_there(module):
            raise NoRoutes(f"there is no module {module}")
    view.LOADER = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
    )
    Router.RELOAD = False  # with it, every mail imports all handlers anew
    Router.LOG_EXCEPTIONS = False  # a handler's exception reaches `app.mail.receiver`, which answers 451
    Router.UNDELIVERABLE_QUEUE = Unhandled()
    Router.defaults(
        host=re.escape(settings.mail_domain),
        list_name="|".join(map(re.escape, settings.lists)),
    )
    Router.load(settings.handlers)
    if not Router.ORDER:
        raise NoRoutes("they have no routes")
    for name in view.LOADER.list_templates(["msg"]):
        view.LOADER.get_template(name)


def _is_there(module):
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # nor is its package
        return False
