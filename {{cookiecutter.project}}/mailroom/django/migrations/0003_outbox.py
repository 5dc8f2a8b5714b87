"""The tables of the outgoing mail."""

from django.db import migrations, models

from ..models import ExactField


class Migration(migrations.Migration):
    dependencies = [("mail_states", "0002_handled")]
    operations = [
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
                (
                    "mail",
                    models.ForeignKey(
                        db_column="mail",
                        db_constraint=False,
                        on_delete=models.deletion.DO_NOTHING,
                        to="mail_states.outgoing",
                    ),
                ),
            ],
            options={"verbose_name": "outbox", "verbose_name_plural": "outbox"},
        ),
        migrations.AddConstraint(
            "Outbox", models.UniqueConstraint(fields=("mail", "recipient"), name="mail_states_outbox_unique")
        ),
    ]
