"""Which handlers there are, and how the Router treats mail; the same for `boot` and `testing`."""

import re
from pathlib import Path

import jinja2
from salmon import view
from salmon.routing import Router

from app.mail.delivery import Unhandled
from config import settings

TEMPLATES = Path(__file__).parent.parent / "app" / "templates"


def load():
    """Load the handlers into the Router; a broken one raises, and so does having no routes."""
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
        raise ImportError("the modules in settings.handlers have no routes")
