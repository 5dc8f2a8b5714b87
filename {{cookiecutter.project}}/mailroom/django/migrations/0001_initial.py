"""The table of the states."""

from django.db import migrations, models

from ..models import ExactField


class Migration(migrations.Migration):
    initial = True
    dependencies: list[tuple[str, str]] = []
    operations = [
        migrations.CreateModel(
            name="State",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("key", ExactField(max_length=255)),
                ("sender", ExactField(max_length=400)),
                ("state", ExactField(max_length=255)),
                ("changed", models.DateTimeField(auto_now=True)),
            ],
            options={
                "constraints": [models.UniqueConstraint(fields=["key", "sender"], name="mail_states_unique")],
                "indexes": [
                    models.Index(fields=["sender"], name="mail_states_sender"),
                    models.Index(fields=["changed"], name="mail_states_changed"),
                    models.Index(fields=["state", "changed"], name="mail_states_state_changed"),
                    models.Index(fields=["key", "changed"], name="mail_states_key_changed"),
                    models.Index(fields=["key", "state", "changed"], name="mail_states_key_state_changed"),
                ],
            },
        )
    ]
