"""Put the application together for tests, which import this instead of `config.boot`."""

from salmon.routing import MemoryStorage, Router

# % if cookiecutter.state_storage in ("sqlite", "shelve")
from app.models import posts
# % endif
from config import settings
from mailroom import Mailroom
from mailroom.testing import Outbox

Router.STATE_STORE = MemoryStorage()

settings.relay = Outbox()  # keeps outgoing mail for the tests to read
settings.room = Mailroom(
    settings.relay,
    domain=settings.mail_domain,
    templates="app/templates",
    # % if cookiecutter.state_storage in ("sqlite", "shelve")
    tables=posts.create,
    # % endif
    secret_key="only for tests",
)
settings.room.load(settings.handlers)
settings.receiver = None
