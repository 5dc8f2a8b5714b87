"""The table of the notes which mails were handled."""

from django.db import migrations, models

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
        )
    ]
