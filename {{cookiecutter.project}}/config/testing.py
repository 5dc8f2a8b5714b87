"""What the tests import in place of `config.boot`: nothing is kept, sent or listened to."""

from salmon.routing import MemoryStorage, Router

from app.mail.relay import Outbox
from app.model.mail_states import MailStates
from config import routes, settings

Router.STATE_STORE = MailStates(MemoryStorage())
settings.secret_key = "only for tests"
settings.relay = Outbox()
settings.receiver = None
routes.load()
