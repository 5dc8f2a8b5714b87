"""A `Mailroom` with the handlers of `trial_list`, new for every test."""

import re
from copy import deepcopy
from types import SimpleNamespace
from unittest.mock import patch

import pytest
import salmon.utils
from salmon import view
from salmon.routing import MemoryStorage, Router

from mailroom import Mailroom
from mailroom.testing import Outbox

NAME = "tests.mailroom.trial_list"
ROUTES = {"REGISTERED": {}, "ORDER": [], "HANDLERS": {}, "DEFAULT_CAPTURES": {"host": re.escape("example.com")}}
with patch.multiple(Router, **ROUTES):
    from tests.mailroom import trial_list


@pytest.fixture(autouse=True)
def room():
    """The `Mailroom` that the package finds: its relay is an `Outbox`, its storage a new `MemoryStorage`."""
    flags = {name: getattr(Router, name) for name in ("RELOAD", "LOG_EXCEPTIONS", "UNDELIVERABLE_QUEUE")}
    with (
        patch.multiple(Router, **deepcopy(ROUTES), STATE_STORE=MemoryStorage(), **flags),
        patch.object(view, "LOADER", view.LOADER),
        patch.object(salmon.utils, "settings", SimpleNamespace(relay=Outbox(), receiver=None)) as settings,
    ):
        settings.room = Mailroom(
            settings.relay,
            domain=trial_list.DOMAIN,
            templates="tests.mailroom/templates",
            secret_key="only for tests",
        )
        settings.room.load([NAME])
        yield settings.room


@pytest.fixture
def sent(room):
    """What the application sent: a list of `mailroom.relay.Envelope`s."""
    return room.relay.sent
