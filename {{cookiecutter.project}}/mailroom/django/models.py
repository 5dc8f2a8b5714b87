"""The states: a row for every sender and key that is not at the start."""

from typing import Any

from django.db import models

from mailroom.storage import MAX_KEY, MAX_SENDER, MAX_STATE


class ExactField(models.CharField):
    """A text that is compared octet by octet, and sorted so.

    Salmon wants its keys exactly as they were, and a collation for people takes different ones for the same
    (MariaDB), or sorts by rules that come with the system (PostgreSQL). SQLite has none.
    """

    def db_parameters(self, connection: Any) -> dict[str, Any]:
        collations = {"postgresql": "C", "mysql": "utf8mb4_nopad_bin"}  # MariaDB's, for which a space at the end counts
        return {**super().db_parameters(connection), "collation": collations.get(connection.vendor)}


class State(models.Model):
    """The state of one sender under one key: a module of handlers and what its `@state_key_generator` adds."""

    key = ExactField(max_length=MAX_KEY)
    sender = ExactField(max_length=MAX_SENDER)
    state = ExactField(max_length=MAX_STATE)
    changed = models.DateTimeField(auto_now=True)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["key", "sender"], name="mail_states_unique")]
        # For the admin with a million rows: each way to filter, newest first.
        indexes = [
            models.Index(fields=["sender"], name="mail_states_sender"),
            models.Index(fields=["changed"], name="mail_states_changed"),
            models.Index(fields=["state", "changed"], name="mail_states_state_changed"),
            models.Index(fields=["key", "changed"], name="mail_states_key_changed"),
            models.Index(fields=["key", "state", "changed"], name="mail_states_key_state_changed"),
        ]

    def __str__(self) -> str:
        return f"{self.sender}, {self.state} ({self.key})"


class Handled(models.Model):
    """The note that a mail was handled, which is kept for a week."""

    digest = ExactField(max_length=64, primary_key=True)
    at = models.FloatField(db_index=True)  # seconds since the epoch


class Outgoing(models.Model):
    """A mail that waits for the relay; `mailroom/outbox.py` writes it and `Outbox` without the ORM."""

    id = models.BigIntegerField(primary_key=True)
    sender = ExactField(max_length=MAX_SENDER)
    data = models.BinaryField()
    created = models.FloatField()  # seconds since the epoch, as `due`


class Outbox(models.Model):
    """A recipient who has not got a mail, never `due` where the relay has refused for good."""

    mail = models.ForeignKey(Outgoing, models.DO_NOTHING, db_column="mail", db_constraint=False)
    recipient = ExactField(max_length=MAX_SENDER)
    due = models.FloatField(null=True)
    tries = models.IntegerField()
    answer = models.TextField(null=True)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["mail", "recipient"], name="mail_states_outbox_unique")]
        verbose_name, verbose_name_plural = "mail in the outbox", "mails in the outbox"

    def __str__(self) -> str:
        return self.recipient
