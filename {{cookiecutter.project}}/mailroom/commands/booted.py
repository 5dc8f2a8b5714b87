"""The application as `salmon start` puts it together, for a command that works beside it."""

import functools
import os
import sys
from pathlib import Path

import click
from salmon.server import SMTPError

import config


def attached():
    """Return the states (`app.model.mail_states.MailStates`) that the server works with.

    All of `config.boot` is done but the receiver, whose port the server has. Ends the process with
    one line when a setting cannot be used, as `salmon start` does.
    """
    # Paths in the settings are relative to the application, wherever it is operated from.
    os.chdir(Path(__file__).parent.parent)
    config.operating = True
    from app.mail.delivery import attached_states
    from config import boot  # noqa: F401  it acts when it is imported

    return attached_states()


def with_states(command):
    """Hand the storage to a command; one that fails makes one line, not a traceback.

    A test gives its own as the `obj` of Click's context.
    """

    @click.pass_context
    @functools.wraps(command)
    def run(context, /, **options):
        storage = context.obj or attached()
        try:
            iter(storage)
        except TypeError as error:  # Salmon's own: of one process, and without a list of what is in them
            rule = "a storage must yield its rows; for example those of app/model/state_storage.py"
            raise click.ClickException(f"{storage!r}, attached in config/boot.py: {rule}") from error
        try:
            command(storage, **options)
            sys.stdout.flush()
        except BrokenPipeError:  # whoever read has seen enough; Click knows
            raise
        except OSError as error:
            raise click.ClickException(f"the output cannot be written: {error.strerror or error}") from error
        except SMTPError as error:
            reason = f" ({error.__cause__})" if error.__cause__ else ""
            raise click.ClickException(f"{storage!r}: {error.message}{reason}") from error

    return run
