"""The memory of the state machine: a model of the Django project in `webapp/`, whose admin shows it.

`DJANGO_SETTINGS_MODULE` names another project, in which `mail_states` stands.
"""

import os

import django

from config import settings
from config.environment import needs

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "webapp.settings")
with needs("state_database", settings.state_database):
    django.setup()

from webapp.mail_states.storage import DjangoStorage  # noqa: E402  models can be imported from here on


def configured(settings):
    """Return the storage that `config/settings.py` asks for; Django's settings say where the states are."""
    return DjangoStorage(protected=True)
