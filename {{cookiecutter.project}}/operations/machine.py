"""The state machine that the handlers are, read from their code.

A handler's next state is what it returns. That is followed through names, conditions, tables and
helper functions; nothing is run. What cannot be read this way is listed, not guessed.
"""

import ast
import inspect
import os
import re
import textwrap
from collections import ChainMap
from dataclasses import dataclass, field

from salmon.routing import ROUTE_FIRST_STATE, Router, salmon_setting

LABEL = 40  # characters
STAY = object()


@dataclass
class State:
    """A handler, its `route` as it stands in the code, and where to it `moves`.

    `moves` has the conditions, texts from the code, by the `(module, name)` of the next state;
    an empty text is for a move that has no condition of its own.
    """

    module: str
    name: str
    route: str
    stateless: bool
    moves: dict = field(default_factory=dict)

    @property
    def key(self):
        return self.module, self.name


@dataclass
class Machine:
    """All handlers, by `(module, name)` in the Router's order; and lines on what is wrong or cannot be read."""

    states: dict = field(default_factory=dict)
    wrong: list = field(default_factory=list)
    unread: list = field(default_factory=list)

    def modules(self):
        """Return the names of the modules, in order."""
        return list(dict.fromkeys(state.module for state in self.states.values()))

    def in_module(self, module):
        """Return the states of a module, in order."""
        return [state for state in self.states.values() if state.module == module]

    def title(self, state):
        """Return the name of a state, with its module where another has one of that name."""
        is_alone = sum(other.name == state.name for other in self.states.values()) == 1
        return state.name if is_alone else f"{state.module.rpartition('.')[2]}.{state.name}"

    def label(self, state, target):
        """Return the conditions of a move, empty where one is always possible or none leads elsewhere."""
        conditions = state.moves[target]
        return "" if target == state.key or "" in conditions else " or ".join(conditions)

    def number(self, state, counts):
        """Return how many senders are in a state, as ` (12)`; nobody is remembered at the start."""
        if counts is None or state.stateless or state.name == ROUTE_FIRST_STATE:
            return ""
        return f" ({counts[state.key]})"

    def is_entry(self, state):
        """Tell whether the picture shows mail that comes in here: at the start, and where the route is another."""
        start = self.states.get((state.module, ROUTE_FIRST_STATE))
        return state.stateless or state is start or start is None or state.route != start.route


def read_machine():
    """Return the `Machine` of the handlers that the Router has loaded."""
    machine = Machine()
    handlers = [(format, handler) for format in Router.ORDER for handler in Router.REGISTERED[format][1]]
    routes = {}
    for format, handler in handlers:
        routes.setdefault(format, _written_route(handler))
    for format, handler in handlers:
        stateless = bool(salmon_setting(handler, "stateless"))
        state = State(handler.__module__, handler.__name__, routes[format] or format, stateless)
        state = machine.states.setdefault(state.key, state)
        if not stateless and not state.moves:
            _read_moves(machine, state, handler)
    return machine


def place(function, line=0):
    """Return where a function stands, or a line of it, as `app/handlers/subscription.py:35`."""
    code = inspect.unwrap(function).__code__
    return f"{os.path.relpath(code.co_filename)}:{code.co_firstlineno + line}"


def _read_moves(machine, state, handler):
    for value, condition, where in _values_returned(inspect.unwrap(handler), ()):
        if value is STAY:
            target = state.key
        elif isinstance(value, ast.AST):
            machine.unread.append(f"{where}: {state.name} returns {_short(ast.unparse(value))}")
            continue
        else:
            target = (getattr(value, "__module__", None), getattr(value, "__name__", None))
            if not callable(value) or not hasattr(value, "_salmon_settings") or "format" not in value._salmon_settings:
                what = target[1] if callable(value) else repr(value)
                why = "which has no route" if callable(value) else "and not a handler"
                machine.wrong.append(f"{where}: {state.name} returns {what}, {why}")
                continue
        conditions = state.moves.setdefault(target, [])
        if condition not in conditions:
            conditions.append(condition)


def _values_returned(function, callers, given=()):
    """Yield `(value, condition, place)` for each way to leave a function: a value, STAY, or what cannot be read.

    `given` has what a call gives for arguments, by their names, as `(reader, expression)`.
    """
    if function in callers:
        return
    tree = ast.parse(textwrap.dedent(inspect.getsource(function))).body[0]
    known = ChainMap(inspect.getclosurevars(function).nonlocals, function.__globals__)
    reader = _Reader(tree, known, (*callers, function), dict(given))
    for returned, condition in _returns(tree.body, ""):
        line = returned.lineno - 1 if returned else 0
        for value, inner in reader.values(returned.value if returned else None):
            yield value, inner or condition, place(function, line)
    if not _always_leaves(tree.body):
        yield STAY, "", place(function)


def _returns(statements, condition):
    """Yield each return statement below, with the condition next around it."""
    for statement in statements:
        if isinstance(statement, ast.Return):
            yield statement, condition
        elif isinstance(statement, ast.If):
            yield from _returns(statement.body, _short(ast.unparse(statement.test)))
            yield from _returns(statement.orelse, "otherwise")
        elif isinstance(statement, ast.Match):
            for case in statement.cases:
                yield from _returns(case.body, _short(ast.unparse(case.pattern)))
        elif isinstance(statement, ast.Try):
            yield from _returns(statement.body + statement.orelse + statement.finalbody, condition)
            for handler in statement.handlers:
                yield from _returns(handler.body, f"except {_short(ast.unparse(handler.type))}" if handler.type else "")
        elif isinstance(statement, (ast.With, ast.For, ast.While)):
            yield from _returns(statement.body + getattr(statement, "orelse", []), condition)


def _always_leaves(statements):
    """Tell whether the end of these statements is never reached, as far as that is plain to see."""
    last = statements[-1] if statements else None
    if isinstance(last, ast.If):
        return _always_leaves(last.body) and _always_leaves(last.orelse)
    if isinstance(last, ast.Match):
        is_total = isinstance(last.cases[-1].pattern, ast.MatchAs) and last.cases[-1].pattern.pattern is None
        return is_total and all(_always_leaves(case.body) for case in last.cases)
    if isinstance(last, ast.Try):
        ways = [last.body + last.orelse, *(handler.body for handler in last.handlers)]
        return _always_leaves(last.finalbody) or all(map(_always_leaves, ways))
    if isinstance(last, ast.With):
        return _always_leaves(last.body)
    return isinstance(last, (ast.Return, ast.Raise))


class _Reader:
    """Finds what an expression in a function may be."""

    def __init__(self, tree, known, callers, given):
        self.known = known
        self.callers = callers
        self.given = given
        self.arguments = {argument.arg for argument in ast.walk(tree.args) if isinstance(argument, ast.arg)}
        self.assigned = {}
        for node in ast.walk(tree):
            if isinstance(node, (ast.Assign, ast.NamedExpr, ast.AnnAssign)):
                for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                    if isinstance(target, ast.Name):
                        self.assigned.setdefault(target.id, []).append(node.value)

    def values(self, node, seen=()):
        """Yield `(value, condition)`; the value is an object, STAY, or the part of the code that cannot be read."""
        if node is None:
            yield STAY, ""
        elif isinstance(node, ast.IfExp):
            condition = _short(ast.unparse(node.test))
            yield from ((value, condition) for value, _ in self.values(node.body, seen))
            yield from ((value, "otherwise") for value, _ in self.values(node.orelse, seen))
        elif isinstance(node, ast.BoolOp):
            for part in node.values:
                yield from self.values(part, seen)
        elif isinstance(node, ast.NamedExpr):
            yield from self.values(node.value, seen)
        elif isinstance(node, ast.Name) and node.id in self.assigned and node.id not in seen:
            for value in self.assigned[node.id]:
                yield from self.values(value, (*seen, node.id))
        elif isinstance(node, ast.Name) and node.id in self.given:
            reader, expression = self.given[node.id]
            yield from reader.values(expression)
        elif isinstance(node, ast.Subscript):
            yield from self._entries(node.value, node, seen)
        elif isinstance(node, ast.Call):
            yield from self._called(node, seen)
        else:
            found = self._object(node)
            yield (STAY if found is not node and not found else found), ""

    def _object(self, node):
        """Return what a constant or a dotted name stands for; the node itself where that is not known."""
        if isinstance(node, ast.Constant):
            return node.value
        if isinstance(node, ast.Name) and node.id not in self.arguments:
            return self.known.get(node.id, node)
        if isinstance(node, ast.Attribute):
            owner = self._object(node.value)
            return node if owner is node.value else getattr(owner, node.attr, node)
        return node

    def _entries(self, table, node, seen):
        """Yield what the values of a table may be, written here or known by name."""
        if isinstance(table, ast.Dict):
            for key, value in zip(table.keys, table.values, strict=True):
                for found, _ in self.values(value, seen):
                    yield found, _short(ast.unparse(key)) if key else ""
        elif isinstance(self._object(table), dict):
            yield from ((value, _short(repr(key))) for key, value in self._object(table).items())
        else:
            yield node, ""

    def _called(self, node, seen):
        """Yield what a call may return: of a function of ours, or of a table's `get`."""
        if isinstance(node.func, ast.Attribute) and node.func.attr == "get":
            yield from self._entries(node.func.value, node, seen)
            yield from self.values(node.args[1] if len(node.args) > 1 else None, seen)
            return
        function = inspect.unwrap(self._object(node.func))
        if inspect.isfunction(function) and _is_ours(function):
            names = list(inspect.signature(function).parameters)
            given = dict(zip(names, node.args, strict=False))
            given.update({keyword.arg: keyword.value for keyword in node.keywords})
            given = {name: (self, expression) for name, expression in given.items()}
            returned = _values_returned(function, self.callers, given)
            yield from ((value, condition) for value, condition, _ in returned)
        else:
            yield node, ""


def _is_ours(function):
    path = os.path.relpath(function.__code__.co_filename)
    return not path.startswith("..") and "site-packages" not in path


def _written_route(handler):
    """Return the first argument of `@route` as it is written, None where it is not written out."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(inspect.unwrap(handler)))).body[0]
    for decorator in tree.decorator_list:
        if isinstance(decorator, ast.Call) and ast.unparse(decorator.func).split(".")[-1] == "route":
            if decorator.args and isinstance(decorator.args[0], ast.Constant):
                return decorator.args[0].value
    return None


def _short(text):
    """Return a part of the code for a diagram: one line, without arguments where it is long."""
    text = " ".join(text.split())
    while len(text) > LABEL and text != (shorter := re.sub(r"\((?!\.\.\.\))[^()]*\)(?!\))", "(...)", text)):
        text = shorter
    return text if len(text) <= LABEL else text[: LABEL - 3] + "..."
