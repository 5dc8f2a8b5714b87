"""The pictures of the state machine that are kept are those of the code."""

from pathlib import Path
from xml.etree import ElementTree

from operations.diagram import count, in_readme, mermaid
from operations.machine import read_machine
from operations.svg import draw

HOME = Path(__file__).parent.parent.parent
AGAIN = "the conversation has changed; `python operate.py diagram --write` draws it again"


def test_the_handlers_return_only_handlers():
    machine = read_machine()

    assert machine.wrong == []
    assert machine.unread == []


def test_the_kept_machine_is_that_of_the_code():
    assert (HOME / "states.mmd").read_text("utf-8") == mermaid(read_machine()), AGAIN


def test_the_picture_in_the_readme_is_that_of_the_code():
    readme = (HOME / "README.md").read_text("utf-8")

    assert in_readme(readme, read_machine()) == readme, AGAIN


def test_it_is_drawn_with_the_numbers_of_senders(trial_list):
    counts = count([("tests.trial_list:news", "alice@people.example", "SUBSCRIBED")])
    texts = [element.text for element in ElementTree.fromstring(draw(read_machine(), counts)).iter() if element.text]

    assert {"START", "CONFIRMING (0)", "SUBSCRIBED (1)"} <= set(texts)
    assert "    SUBSCRIBED : SUBSCRIBED (1)" in mermaid(read_machine(), counts)
