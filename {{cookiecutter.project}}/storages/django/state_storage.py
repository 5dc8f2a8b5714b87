"""The memory of the state machine: a model of the Django project in `webapp/`, whose admin shows it.

`DJANGO_SETTINGS_MODULE` names another project, in which `mail_states` stands.
"""

import os

import django

from config import settings
from config.environment import needs

# Which setting is told of when Django cannot use it.
module = os.environ.setdefault("DJANGO_SETTINGS_MODULE", "webapp.settings")
if module == "webapp.settings":
    SETTING = "state_database", settings.state_database
else:
    SETTING = "django_settings_module", module
with needs(*SETTING):
    django.setup()

from webapp.mail_states.storage import DjangoStorage  # noqa: E402  models can be imported from here on


def configured(settings):
    """Return the storage that `config/settings.py` asks for; Django's settings say where the states are."""
    with needs(*SETTING):
        return DjangoStorage(protected=True)
