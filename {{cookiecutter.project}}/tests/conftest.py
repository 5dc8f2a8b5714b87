"""Every test starts afresh: no states, no replies, nothing counted. Nobody has to ask for it."""

from copy import deepcopy
from unittest.mock import patch

import pytest
from salmon import view
from salmon.routing import Router

import config.testing  # noqa: F401  before anything of the application: it pins MemoryStorage
from app.mail.manners import reply_limit
from app.model.renamed_states import states_by_module
from config import settings

ROUTES = {"REGISTERED": {}, "ORDER": []}
with patch.multiple(Router, **ROUTES):
    from tests.trial_list import TEMPLATES  # with its routes in ROUTES, and not among the application's


@pytest.fixture(autouse=True)
def afresh():
    Router.clear_states()
    settings.relay.sent.clear()
    reply_limit.clear()


@pytest.fixture
def trial_list():
    """The handlers, the list and the template of `tests/trial_list.py` instead of the application's."""
    states_by_module.cache_clear()
    with (
        patch.multiple(Router, **deepcopy(ROUTES)),  # what a test adds is not there in the next one
        patch.object(settings, "lists", ["news"]),
        patch.object(view, "LOADER", view.LOADER.overlay(loader=TEMPLATES)),
    ):
        yield
    states_by_module.cache_clear()
