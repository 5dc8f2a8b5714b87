"""A transcript holds, or names the line that does not; a recorded one holds."""

import io

import pytest
from salmon.routing import Router

from mailroom.testing import exchange, make_mail
from mailroom.testing.transcript import Difference, Recorder, Transcript
from tests.mailroom.trial_list import POSTMASTER

SUBSCRIBE = "alice@people.example -> news-subscribe\n"
CONFIRM = "<- Subject: Please confirm your subscription to news\n"


def play(text):
    return [result for _, result in Transcript("a.txt", text).play()]


@pytest.mark.parametrize(
    "text",
    [
        SUBSCRIBE + CONFIRM,
        SUBSCRIBE + "<-\n",
        SUBSCRIBE + "<- subject: Please {what} to news\n",
        SUBSCRIBE + CONFIRM + "   To: alice@people.example\n\n   If not, do {nothing}, and {nothing} will happen.\n",
        SUBSCRIBE + CONFIRM + "[CONFIRMING]\n[news: CONFIRMING]\n",
        SUBSCRIBE + "    Auto-Submitted: auto-replied\n[START]\n",
        "<> -> news\n\n<> -> postmaster\n\n    Help.\n{somebody} <- Subject: hello\n",
        "eve@people.example -> nobody\n550\n\neve@people.example -> nobody@{domain}\n550 5.1.1 There is\n",
        "eve@people.example -> news@elsewhere.example\n550\n",
    ],
)
def test_transcript_with_the_actual_result_holds(text):
    assert play(text)


@pytest.mark.parametrize(
    "text, line, came",
    [
        (SUBSCRIBE, 1, CONFIRM.strip()),
        (SUBSCRIBE + "<- Subject: Please\n", 2, CONFIRM.strip()),
        (SUBSCRIBE + CONFIRM + "   To: {who}\n   From: {who}\n", 4, "From: news@"),
        (SUBSCRIBE + CONFIRM + "   X-None: {any}\n", 3, CONFIRM.strip()),
        (SUBSCRIBE + CONFIRM + "\n   If not, do nothing\n", 4, "If not, do nothing, and nothing will happen."),
        (SUBSCRIBE + CONFIRM + CONFIRM, 3, CONFIRM.strip()),
        (SUBSCRIBE + "bob@people.example " + CONFIRM, 2, CONFIRM.strip()),
        (SUBSCRIBE + CONFIRM + "[SUBSCRIBED]\n", 3, "[CONFIRMING]"),
        (SUBSCRIBE + CONFIRM + "[CONFIRMING]\n[news: START]\n", 4, "[news: CONFIRMING]"),
        (SUBSCRIBE + "550\n" + CONFIRM, 2, CONFIRM.strip()),
        ("<> -> postmaster\n<-\n", 2, "{postmaster} <- Subject: hello"),
        ("<> -> postmaster\n{somebody} <-\n[START]\n", 3, "{postmaster} <- Subject: hello"),
        ("eve@people.example -> nobody\n", 1, "550 5.1.1 There is no such address here"),
        ("eve@people.example -> nobody\n551\n", 2, "550 5.1.1 There is no such address here"),
        ("<> -> news\n<-\n", 2, "# automated mail"),
    ],
)
def test_line_that_does_not_hold_is_named_with_what_came_instead(text, line, came):
    with pytest.raises(Difference) as difference:
        play(text)

    expected, instead = str(difference.value).split("This came instead:")
    assert expected.startswith(f"a.txt, line {line} does not hold:")
    assert text.splitlines()[line - 1].strip() in expected
    assert came.replace("{postmaster}", POSTMASTER) in instead


@pytest.mark.parametrize(
    "text, line",
    [
        ("nonsense\n", 1),
        (CONFIRM, 1),
        ("    Subject: of nobody\n", 1),
        (SUBSCRIBE + "    no header\n", 2),
        (SUBSCRIBE + "    Subject: a\n    Subject: b\n", 1),
        (SUBSCRIBE + CONFIRM + "[CONFIRMING] \n\nalice@people.example -> {confirm}\n", 5),
    ],
)
def test_line_that_cannot_be_read_is_named(text, line):
    with pytest.raises(Difference, match=f"a.txt, line {line}: "):
        play(text)


def test_transcript_without_a_mail_is_refused():
    with pytest.raises(Difference, match="a.txt has no mail"):
        play("# Nothing yet.\n")


def test_exception_of_a_handler_is_noted_with_its_line(room, monkeypatch):
    monkeypatch.setattr(room.relay, "deliver", None)

    (result,) = play(SUBSCRIBE + "451\n[START]\n")

    assert result.note.startswith("TypeError: 'NoneType' object is not callable (tests/mailroom/trial_list.py:")


def test_recorded_conversation_holds_when_it_is_played_again(room):
    file = io.StringIO()
    recorder = Recorder(file)
    recipient = "news-subscribe"
    for sender, headers, text in [
        ("alice@people.example", [], ""),
        ("alice@people.example", [], ""),
        ("alice@people.example", [("Subject", "Lunch")], "Who joins?\n\n  I do.\n"),
        ("", [], ""),
    ]:
        mail = make_mail(sender, room.address(recipient), headers, text or "Hello.\n")
        result = exchange(sender, room.address(recipient), mail)
        recorder.record(result, headers, text)
        recipient = result.sent[0][1]["Reply-To"] or "news" if result.sent else recipient
    written = file.getvalue()

    assert "confirm-" not in written
    assert "    Who joins?\n\n      I do.\n" in written
    Router.clear_states()
    assert len(play(written)) == 4
