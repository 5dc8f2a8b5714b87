"""Every test starts afresh: no states, no replies, nothing counted. Nobody has to ask for it."""

import pytest
from salmon.routing import Router

import config.testing  # noqa: F401  before anything of the application: it pins MemoryStorage
from app.mail.manners import reply_limit
from config import settings


@pytest.fixture(autouse=True)
def afresh():
    Router.clear_states()
    settings.relay.sent.clear()
    reply_limit.clear()
