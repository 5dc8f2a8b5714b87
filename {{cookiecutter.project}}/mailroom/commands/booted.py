"""What commands share: they boot the application, which opens no port, and find addresses and their state keys."""

import functools
import logging
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import click
from salmon.routing import Router, salmon_setting
from salmon.server import SMTPError
from salmon.utils import import_settings

from mailroom.handlers import handlers_at, state_key, states_by_module
from mailroom.room import current

SYNTAX = re.compile(r"\?P<\w+>|\[[^]]*\]|\\(?=\W)")  # of a route: names, sets of characters, backslashes


def boot(module: str = "config.boot", disabled: int = logging.INFO) -> Any:
    """Import the settings and `module` as `salmon start` does, and return the settings.

    Log only what is above the level `disabled` from here on. Ends the process with one line when a setting cannot be
    used.
    """
    logging.disable(disabled)
    return import_settings(True, module)


def with_states(command: Callable[..., None]) -> Callable[..., None]:
    """Pass the `Storage` to a command; end with one line and exit status 1 when it fails."""

    @functools.wraps(command)
    def run(**options: Any) -> None:
        storage = boot(disabled=logging.ERROR).room.storage
        try:
            with one_line(repr(storage)):
                command(storage, **options)
                sys.stdout.flush()
        except BrokenPipeError:  # the reader has seen enough; Click handles it
            raise
        except OSError as error:
            raise click.ClickException(f"the output cannot be written: {error.strerror or error}") from error

    return run


@contextmanager
def one_line(failure: str, *more: type[Exception]) -> Iterator[None]:
    """End the command with one line, `failure` and the reason, when the storage fails or the block raises `more`."""
    try:
        yield
    except (NotImplementedError, SMTPError, *more) as error:
        reason = f" ({error.__cause__})" if error.__cause__ else ""
        raise click.ClickException(f"{failure}: {getattr(error, 'message', error)}{reason}") from error


def examples() -> list[str]:
    """Return the addresses that routes write out, such as the names of lists, without the domain."""
    words = [word for route in Router.ORDER for word in re.findall(r"\w[\w.-]*", SYNTAX.sub("", route))]
    return [word for word in dict.fromkeys(words) if current().is_routed(current().address(word))]


def modules_at(to: str | None) -> list[str]:
    """Return the modules that keep a state for mail `to` an address, or all for None; end the command if none does."""
    modules = list(states_by_module()) if to is None else _modules(to)
    if not modules:
        raise no_such_address(to, list(states_by_module()))
    return modules


def key_at(module: str, sender: str | None, to: str | None) -> str:
    """Return the key of a sender's state for mail `to` an address; end the command when it needs another address."""
    try:
        return state_key(module, sender or "", to)
    except ValueError as error:
        raise no_such_address(to, [module]) from error


def no_such_address(to: str | None, modules: Iterable[str]) -> click.ClickException:
    """Return the error for a `--to` that none of the `modules` handles."""
    example = next((f"; for example --to {word}" for word in examples() if {*_modules(word)} & {*modules}), "")
    given = "" if to is None else f" {to!r}"
    return click.ClickException(f"--to{given} must be an address that {' or '.join(modules)} handles{example}")


def _modules(to: str) -> list[str]:
    handlers = handlers_at(current().address(to).lower())
    stateful = [handler for handler in handlers if not salmon_setting(handler, "stateless")]
    return list(dict.fromkeys(handler.__module__ for handler in stateful))
