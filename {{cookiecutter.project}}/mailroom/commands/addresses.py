"""Find the addresses that the handlers take."""

import re
from collections.abc import Iterable

import click
from salmon.routing import Router, salmon_setting

from mailroom.handlers import state_key, states_by_module
from mailroom.room import current

NO_TEXT = re.compile(r"\?P<\w+>|\[[^]]*\]|\\(?=\W)")  # in a route: names, sets of characters, backslashes


def examples() -> list[str]:
    """Return addresses without the domain that are written out in the routes, such as the names of lists."""
    words = [word for route in Router.ORDER for word in re.findall(r"\w[\w.-]*", NO_TEXT.sub("", route))]
    return [word for word in dict.fromkeys(words) if current().is_routed(current().address(word))]


def modules_at(to: str | None) -> list[str]:
    """Return the modules that keep a state for mail to the address `to`, or all; end the command where there are none."""
    modules = list(states_by_module()) if to is None else _modules(to)
    if not modules:
        raise no_such_address(to, list(states_by_module()))
    return modules


def key_at(module: str, sender: str | None, to: str | None) -> str:
    """Return the key of the state of `sender` for mail to the address `to`; end the command where it is not known."""
    try:
        return state_key(module, sender or "", to)
    except ValueError as error:
        raise no_such_address(to, [module]) from error


def no_such_address(to: str | None, modules: Iterable[str]) -> click.ClickException:
    """Return the `ClickException` for a `--to` that is none of the addresses that the `modules` handle."""
    example = next((f"; for example --to {word}" for word in examples() if {*_modules(word)} & {*modules}), "")
    given = "" if to is None else f" {to!r}"
    return click.ClickException(f"--to{given} must be an address that {' or '.join(modules)} handles{example}")


def _modules(to: str) -> list[str]:
    matches = Router.match(current().address(to).lower())
    handlers = [handler for found, _ in matches for handler in found if not salmon_setting(handler, "stateless")]
    return list(dict.fromkeys(handler.__module__ for handler in handlers))
