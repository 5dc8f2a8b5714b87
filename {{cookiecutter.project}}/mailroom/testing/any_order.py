"""The handlers, whatever they are, keep the promises of the application in any order of mails and troubles.

Hypothesis makes up the conversations from the routes, the addresses in the replies, and the words in the
code. One that breaks a promise is printed as a transcript.
"""

import ast
import importlib
import inspect
import re

import hypothesis
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule
from salmon.routing import ROUTE_FIRST_STATE, Router, salmon_setting

from config import settings
from operations.machine import read_machine
from tests.conversations.promises import BrokenPromise, Conversation, Step, shortest


def addresses(are_wanted):
    """Make up an address for a route of the Router whose handlers are wanted, or for any."""
    ascii_only = st.characters(min_codepoint=33, max_codepoint=126)
    formats = [format for format, (_, handlers) in Router.REGISTERED.items() if any(map(are_wanted, handlers))]
    patterns = [re.compile(format, re.ASCII) for format in formats or Router.ORDER]
    return st.one_of([st.from_regex(one, fullmatch=True, alphabet=ascii_only) for one in patterns])


def keeps_a_state(handler):
    return not salmon_setting(handler, "stateless")


def words():
    """Take a short text from the code of the handlers, which may wait for it in a subject or a text."""
    found = {""}
    for module in settings.handlers:
        for node in ast.walk(ast.parse(inspect.getsource(importlib.import_module(module)))):
            if (
                isinstance(node, ast.Constant)
                and isinstance(node.value, str)
                and re.fullmatch(r"[ -~]{1,30}", node.value)
            ):
                found.add(node.value)
    return st.sampled_from(sorted(found))


WORDS = words()
CHOICES = st.integers(0, 11)
PEOPLE = st.sampled_from(["alice@people.example", "bob@people.example"])
RECIPIENTS = st.integers(0, 5).flatmap(lambda number: addresses(keeps_a_state if number else bool))
MACHINES = st.sampled_from([("Auto-Submitted", "auto-replied"), ("List-Id", "<a.example>"), ("Precedence", "bulk"), ()])


class AnyOrder(RuleBasedStateMachine):
    """Mails in any order; after each, the promises."""

    def __init__(self):
        super().__init__()
        self.conversation = Conversation()

    def teardown(self):
        self.conversation.end()

    @rule(sender=PEOPLE, recipient=RECIPIENTS, mails=st.lists(st.tuples(CHOICES, WORDS, WORDS), min_size=1, max_size=6))
    def a_person_writes_and_answers(self, sender, recipient, mails):
        for choice, subject, text in mails:
            self.take(Step(sender, recipient, subject, text, len(self.conversation.steps)))
            replied = self.conversation.answerable.get(sender, [recipient])
            recipient = replied[choice % len(replied)]

    @precondition(lambda self: self.conversation.steps)
    @rule()
    def the_last_mail_comes_again(self):
        self.take(self.conversation.steps[-1])

    @rule(recipient=RECIPIENTS, header=MACHINES, text=WORDS)
    def a_machine_writes(self, recipient, header, text):
        self.take(Step("alice@people.example" if header else "", recipient, "", text, header=header))

    def take(self, step):
        try:
            self.conversation.take(step)
        except BrokenPromise as broken:
            steps = self.conversation.steps
            raise AssertionError(f"{broken}:\n\n{shortest(tuple(steps), str(broken))}") from None


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = hypothesis.settings(
    max_examples=15,  # more of them search longer
    stateful_step_count=10,
    derandomize=True,  # the same conversations each time
    database=None,
    deadline=None,
    phases=[hypothesis.Phase.generate],  # `shortest` does the rest, since it knows what a conversation is
    verbosity=hypothesis.Verbosity.quiet,
    suppress_health_check=list(hypothesis.HealthCheck),
)


def test_from_every_state_a_way_leads_back_to_the_start():
    machine = read_machine()
    for module in machine.modules():
        moves = {
            state.name: {name for where, name in state.moves if where == module}
            for state in machine.in_module(module)
            if not state.stateless
        }
        reached, back = {ROUTE_FIRST_STATE}, {ROUTE_FIRST_STATE}
        for _ in moves:
            reached |= {target for name in reached for target in moves.get(name, ())}
            back |= {name for name, targets in moves.items() if targets & back}
        assert reached <= back, f"in {module}, no way leads from {', '.join(sorted(reached - back))} to START"
