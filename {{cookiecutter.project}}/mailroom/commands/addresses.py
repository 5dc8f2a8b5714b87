"""Find the addresses that handlers take, and the state keys for them."""

import re
from collections.abc import Iterable

import click
from salmon.routing import Router, salmon_setting

from mailroom.handlers import state_key, states_by_module
from mailroom.room import current

SYNTAX = re.compile(r"\?P<\w+>|\[[^]]*\]|\\(?=\W)")  # of a route: names, sets of characters, backslashes


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
    matches = Router.match(current().address(to).lower())
    handlers = [handler for found, _ in matches for handler in found if not salmon_setting(handler, "stateless")]
    return list(dict.fromkeys(handler.__module__ for handler in handlers))
