"""Django's name for this app. Tables and migrations begin with the label."""

from django.apps import AppConfig


class MailStatesConfig(AppConfig):
    name = "mailroom.django"
    label = "mail_states"
    verbose_name = "Mail"
    default_auto_field = "django.db.models.BigAutoField"
