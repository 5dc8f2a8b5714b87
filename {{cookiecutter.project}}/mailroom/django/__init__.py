"""A reusable Django app: the states as a model, and the admin to look at them.

A site adds "mailroom.django" to its INSTALLED_APPS.
"""

import os

import django
from django.core.exceptions import ImproperlyConfigured

from mailroom.settings import refuse


def setup_django(settings):
    """Set Django up with the module of settings that DJANGO_SETTINGS_MODULE names, or else with `settings`.

    Ends the process with one line when it cannot be used.
    """
    name = os.environ.setdefault("DJANGO_SETTINGS_MODULE", settings)
    try:
        django.setup()
    except (ImportError, ImproperlyConfigured) as error:
        refuse("DJANGO_SETTINGS_MODULE", name, f"cannot be used: {error}")
