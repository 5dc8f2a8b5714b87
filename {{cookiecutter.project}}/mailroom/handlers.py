"""Know which states have a handler, and rename stored states that lost theirs."""

import functools
import inspect
import logging
from collections import Counter
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

from salmon.routing import ROUTE_FIRST_STATE, Router, salmon_setting

import mailroom.message
import mailroom.room
from mailroom.settings import refuse
from mailroom.storage import Row, Storage

LOG = logging.getLogger(__name__)


@functools.cache
def states_by_module() -> dict[str, list[str]]:
    """Return `{module: names of its states}`, in the order of their routes."""
    functions = [function for _, functions in Router.REGISTERED.values() for function in functions]
    states = dict.fromkeys((f.__module__, f.__name__) for f in functions if not salmon_setting(f, "stateless"))
    return {module: [name for there, name in states if there == module] for module, _ in states}


@functools.lru_cache(1000)
def handlers_at(address: str) -> list[Callable[..., object]]:
    """Return the handlers for an address in small letters, in whatever state. Asked for a mail three times."""
    return [handler for functions, _ in Router.match(address) for handler in functions]


def refuse_routes_without_values() -> None:
    """End the process with one line when a `(name)` in a route has no value: such a route takes no mail."""
    for route, (_, functions) in Router.REGISTERED.items():
        for function in functions:
            for name in inspect.signature(function).parameters:
                if f"({name})" in route:
                    rule = f"has no value for ({name}) in its route; for example @route(…, {name}='news|dev')"
                    refuse("HANDLERS", f"{function.__module__}.{function.__name__}", rule)


def has_handler(key: str | None, state: str) -> bool:
    """Return whether a handler takes the next mail of a sender in `state`.

    The part of a state key before a colon counts as a module when it looks like one.
    """
    known, module = states_by_module(), (key or "").partition(":")[0]
    if module in known or "." in module:
        names = known.get(module, [])
    else:
        names = sum(known.values(), [])
    return state == ROUTE_FIRST_STATE or state in names


def state_key(module: str, sender: str, to: str | None = None) -> str:
    """Return the key under which the handlers in `module` keep the state of `sender` for mail `to` an address.

    `to` may omit the domain. It may be None where the key depends on the sender alone. Raises
    `ValueError` when the `@state_key_generator` of the module has no key.
    """
    room = mailroom.room.current()
    message: Any = SimpleNamespace(From=sender.lower())
    if to:
        message = mailroom.message.Message(room, None, sender, room.address(to), b"")
    try:
        return str(Router.state_key(module, message))
    except Exception as error:
        reason = f"for mail to {to!r}: {error}" if to else "that depends on the sender alone: it takes an address"
        raise ValueError(f"{module} has no state key {reason}") from error


def rename(storage: Storage, renames: Mapping[str, str]) -> None:
    """Rename the stored states that have no handler, each while its sender is locked.

    `renames` is `{old: new}`, for example `{"CONFIRMING": "ASKED", "OLD": "START"}`. A name with a dot is that
    of a module and a state. A state that still has a handler is left alone, so that a rename takes place
    once. Raises `ValueError`, and changes nothing, when a sender would be in a state without a handler, or in
    two states under one key.
    """
    renamed = changes(storage, renames)
    for (key, sender, state), (new_key, new_state) in renamed:
        with storage.transaction(sender):
            if storage.get(key, sender) == state:  # another worker that starts may have been faster
                storage.set(key, sender, ROUTE_FIRST_STATE)
                storage.set(new_key, sender, new_state)
    if renamed:
        LOG.info("renamed stored states; rows: %d", len(renamed))


def changes(storage: Storage, renames: Mapping[str, str]) -> list[tuple[Row, tuple[str | None, str]]]:
    """Return `(row, (new key, new state))` for each row that `rename` changes; arguments and errors are the same."""
    if all(has_handler(key, state) for key, state in storage.kinds()):
        return []
    renamed: dict[Any, tuple[Row, tuple[str | None, str]]] = {}
    for key, sender, state in storage:
        if not has_handler(key, state):
            new_key, new_state = _follow(key, state, renames)
            place = new_key, sender
            if place in renamed or new_key != key and storage.get(*place) != ROUTE_FIRST_STATE:
                raise ValueError(f"{sender} has a state under {new_key} already; set the one under {key} to START")
            renamed[place] = (key, sender, state), (new_key, new_state)
    lost = Counter(
        f"{(key or '').partition(':')[0]}.{state}" for (key, _, state), new in renamed.values() if not has_handler(*new)
    )
    if lost:
        numbers = ", ".join(f"{name} ({number})" for name, number in sorted(lost.items()))
        example = {min(lost).rpartition(".")[2]: ROUTE_FIRST_STATE}
        raise ValueError(f"stored states have no handler: {numbers}; for example renamed_states = {example}")
    return list(renamed.values())


def _follow(key: str | None, state: str, renames: Mapping[str, str]) -> tuple[str | None, str]:
    """Return the key and the state after all renames that apply, one after the other."""
    for _ in renames:
        module, colon, rest = (key or "").partition(":")
        new = renames.get(f"{module}.{state}", renames.get(state))
        if new is None or has_handler(key, state):
            break
        new_module, _, state = new.rpartition(".")
        key = f"{new_module}{colon}{rest}" if new_module else key
    return key, state
