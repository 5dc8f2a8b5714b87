"""Boot the application for a command, which may run beside the server: booting opens no port."""

import functools
import logging
import sys
from collections.abc import Callable
from typing import Any

import click
from salmon.server import SMTPError
from salmon.utils import import_settings


def boot(module: str = "config.boot") -> Any:
    """Import the settings and `module` as `salmon start` does, and return the settings.

    Log only warnings and errors from here on. Ends the process with one line when a setting cannot be used.
    """
    logging.disable(logging.INFO)
    return import_settings(True, module)


def boot_quietly() -> Any:
    """Boot for a command that prints errors itself, and return the settings: log nothing."""
    settings = boot()
    logging.disable(logging.ERROR)
    return settings


def with_states(command: Callable[..., None]) -> Callable[..., None]:
    """Pass the open `Storage` to a command; end with one line and exit status 1 when it fails."""

    @functools.wraps(command)
    def run(**options: Any) -> None:
        storage = boot_quietly().room.storage
        try:
            storage.open()
            command(storage, **options)
            sys.stdout.flush()
        except NotImplementedError as error:  # a storage with Salmon's three methods only
            rule = "a storage must yield its rows; for example those of mailroom/storage/"
            raise click.ClickException(f"{storage!r}, attached in config/boot.py: {rule}") from error
        except BrokenPipeError:  # the reader has seen enough; Click handles it
            raise
        except OSError as error:
            raise click.ClickException(f"the output cannot be written: {error.strerror or error}") from error
        except SMTPError as error:
            reason = f" ({error.__cause__})" if error.__cause__ else ""
            raise click.ClickException(f"{storage!r}: {error.message}{reason}") from error

    return run
