"""The tables of the outgoing mail, and of the notes which mails were handled."""

from django.db import migrations, models
from django.db.models import DO_NOTHING

from ..models import ExactField


class Migration(migrations.Migration):
    dependencies = [("mail_states", "0001_initial")]
    operations = [
        migrations.CreateModel(
            name="Handled",
            fields=[
                ("digest", ExactField(max_length=64, primary_key=True, serialize=False)),
                ("at", models.FloatField(db_index=True)),
            ],
        ),
        migrations.CreateModel(
            name="Outgoing",
            fields=[
                ("id", models.BigIntegerField(primary_key=True, serialize=False)),
                ("sender", ExactField(max_length=400)),
                ("data", models.BinaryField()),
                ("created", models.FloatField()),
            ],
        ),
        migrations.CreateModel(
            name="Outbox",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("recipient", ExactField(max_length=400)),
                ("due", models.FloatField(null=True)),
                ("tries", models.IntegerField()),
                ("answer", models.TextField(null=True)),
                ("mail", models.ForeignKey("mail_states.outgoing", DO_NOTHING, db_column="mail", db_constraint=False)),
            ],
            options={
                "verbose_name": "mail in the outbox",
                "verbose_name_plural": "mails in the outbox",
                "constraints": [
                    models.UniqueConstraint(fields=["mail", "recipient"], name="mail_states_outbox_unique")
                ],
            },
        ),
    ]
