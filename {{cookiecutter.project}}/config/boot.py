"""Put the application together. `salmon start`, `operate.py` and scripts import this; it opens no port."""

import logging.config

from salmon.routing import Router

# % if cookiecutter.state_storage != "django"
from app.models import posts
# % endif
from config import settings
# % if cookiecutter.state_storage == "postgresql"
from mailroom import LMTPReceiver, Mailroom, Relay
from mailroom.storage.sqlalchemy import SQLAlchemyStorage

# % elif cookiecutter.state_storage == "django"
from mailroom import LMTPReceiver, Mailroom, Relay, signing_key
from mailroom.django import setup_django

# % elif cookiecutter.state_storage == "shelve"
from mailroom import LMTPReceiver, Mailroom, Relay, signing_key
from mailroom.storage.shelve import ShelveStorage

# % else
from mailroom import LMTPReceiver, Mailroom, Relay, signing_key
from mailroom.storage.sqlite import SQLiteStorage

# % endif
logging.config.dictConfig(settings.logging)

# Stores the state of each sender, and the application's own tables.
# % if cookiecutter.state_storage == "postgresql"
Router.STATE_STORE = SQLAlchemyStorage(settings.state_database, protected=True)

# % elif cookiecutter.state_storage == "django"
setup_django("webapp")
from app.models import posts  # noqa: E402  models can be imported from here on
from mailroom.django.storage import DjangoStorage  # noqa: E402

Router.STATE_STORE = DjangoStorage(protected=True)

# % elif cookiecutter.state_storage == "shelve"
Router.STATE_STORE = ShelveStorage(settings.state_database, protected=True)

# % else
Router.STATE_STORE = SQLiteStorage(settings.state_database, protected=True)

# % endif
# Sends outgoing mail.
settings.relay = Relay(
    settings.relay_host,
    settings.relay_port,
    settings.relay_username,
    settings.relay_password,
    tls=settings.relay_tls,
)

# Handles each mail, from its arrival to its answer.
settings.room = Mailroom(
    settings.relay,
    domain=settings.mail_domain,
    templates="app/templates",
    tables=posts.create,
    # % if cookiecutter.state_storage == "postgresql"
    secret_key=settings.secret_key,
    # % else
    secret_key=settings.secret_key or signing_key("run/secret_key"),
    # % endif
    replies_per_hour=settings.replies_per_hour,
    renamed_states=settings.renamed_states,
    max_message_size=settings.max_message_size,
    handler_threads=settings.handler_threads,
)
settings.room.load(settings.handlers)

# Receives mail. `salmon start` calls its start(), which opens the port.
settings.receiver = LMTPReceiver(settings.room, settings.receiver_host, settings.receiver_port)
