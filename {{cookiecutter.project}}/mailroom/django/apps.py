"""Django's name for this app, wherever it was put: `webapp.mail_states` here, `mail_states` in a site of yours."""

from django.apps import AppConfig


class MailStatesConfig(AppConfig):
    name = __package__
    label = "mail_states"
    verbose_name = "Mail"
    default_auto_field = "django.db.models.BigAutoField"
