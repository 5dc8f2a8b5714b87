"""The application keeps its promises in any order of mails and failures. You can delete this test, and rstr."""

from mailroom.testing.any_order import play_in_any_order


def test_promises_hold_in_any_order():
    play_in_any_order(end_states=[])
