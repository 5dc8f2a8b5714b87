"""Put the application together for tests, which import this instead of `config.boot`."""

from salmon.routing import MemoryStorage, Router

# % if cookiecutter.state_storage != "django"
from app.models import posts
# % endif
from config import settings
from mailroom import Mailroom
# % if cookiecutter.state_storage == "postgresql"
from mailroom.storage.joined import JoinedStorage
from mailroom.storage.sqlalchemy import SQLAlchemyStorage
from mailroom.testing import Outbox

Router.STATE_STORE = JoinedStorage(MemoryStorage(), SQLAlchemyStorage("sqlite://"))  # own tables in memory as well
# % elif cookiecutter.state_storage == "django"
from mailroom.django import setup_django
from mailroom.storage.joined import JoinedStorage
from mailroom.testing import Outbox

settings.secret_key = "only for tests"  # of Django as well
setup_django("webapp", in_memory=True)  # every database, in SQLite
from app.models import posts  # noqa: E402  models can be imported from here on
from mailroom.django.storage import DjangoStorage  # noqa: E402

Router.STATE_STORE = JoinedStorage(MemoryStorage(), DjangoStorage())
# % else
from mailroom.testing import Outbox

Router.STATE_STORE = MemoryStorage()
# % endif

settings.relay = Outbox()  # keeps outgoing mail for the tests to read
settings.room = Mailroom(
    settings.relay,
    domain=settings.mail_domain,
    templates="app/templates",
    tables=posts.create,
    secret_key="only for tests",
)
settings.room.load(settings.handlers)
