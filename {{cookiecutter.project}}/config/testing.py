"""Put the application together for tests, which import this instead of `config.boot`."""

from salmon.routing import MemoryStorage, Router

from config import settings
from mailroom import Mailroom
from mailroom.testing import Outbox

Router.STATE_STORE = MemoryStorage()

settings.relay = Outbox()  # keeps outgoing mail for the tests to read
settings.room = Mailroom(
    settings.relay,
    domain=settings.mail_domain,
    templates="app/templates",
    secret_key="only for tests",
)
settings.room.load(settings.handlers)
settings.receiver = None
