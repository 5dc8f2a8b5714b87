"""What `salmon start` imports after `config.settings`: everything is put together here, once."""

import atexit
import logging.config

from salmon.routing import Router

from app.mail.receiver import open_receiver
from app.mail.relay import Relay
from app.model import renamed_states, secret_key, state_storage
from app.model.mail_states import MailStates
from config import operating, routes, settings
from config.environment import make_private, needs

# Folders: what is kept and what is logged is for our own user only.
for folder in ("run", "logs"):
    make_private(folder)

# Logging: to stderr, which is the terminal, systemd's journal, or logs/salmon.err of the daemon.
logging.config.dictConfig(
    {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"line": {"format": "%(asctime)s %(levelname)s %(name)s: %(message)s"}},
        "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line"}},
        "root": {"level": "WARNING" if operating else "INFO", "handlers": ["stderr"]},
    }
)

# Storage: the one of app/model/state_storage.py is attached; and what signs the tokens.
with needs("state_database", settings.state_database):
    Router.STATE_STORE = MailStates(state_storage.configured(settings))
with needs("secret_key", ""):
    settings.secret_key = secret_key.signing_key(settings.secret_key)

# Relay: where replies go.
settings.relay = Relay(
    settings.relay_host,
    settings.relay_port,
    settings.relay_username,
    settings.relay_password,
    settings.relay_starttls,
)
atexit.register(settings.relay.close)

# Routes: a broken handler or template stops the start; nothing is answered without routes.
with needs("handlers", settings.handlers, routes.NoRoutes):
    routes.load()

# States: nobody is left in one that has no handler any more. `operate.py` mends such states.
if not operating:
    with needs("state_database", settings.state_database), needs("renamed_states", settings.renamed_states, ValueError):
        renamed_states.rename(Router.STATE_STORE, settings.renamed_states)

# Receiver: where mail comes in. It listens from here on, and answers once `salmon start` starts it.
# `operate.py` has none: it works on the same states beside the server.
if not operating:
    with needs("receiver_host, receiver_port", (settings.receiver_host, settings.receiver_port)):
        settings.receiver = open_receiver(
            settings.receiver_protocol, settings.receiver_host, settings.receiver_port, settings.max_message_size
        )
