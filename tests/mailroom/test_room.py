"""One mail through the `Mailroom`: all of its changes, or none."""

import pytest
from salmon.routing import Router, route
from salmon.server import SMTPError

from mailroom.storage import Storage
from mailroom.testing import assert_in_state, put_in_state, receive
from tests.mailroom import trial_list
from tests.mailroom.trial_list import CONFIRMING, START, SUBSCRIBED

ALICE = "alice@people.example"
MODULE = trial_list.__name__


def test_handler_that_fails_after_its_reply_changes_and_sends_nothing(monkeypatch, sent):
    put_in_state(SUBSCRIBED, ALICE, "news")
    answer = trial_list.answer

    def answer_and_fail(*arguments, **options):
        answer(*arguments, **options)
        raise ZeroDivisionError

    monkeypatch.setattr(trial_list, "answer", answer_and_fail)
    with pytest.raises(ZeroDivisionError):
        receive(ALICE, "news-unsubscribe")

    assert_in_state(SUBSCRIBED, ALICE, "news")
    assert sent == []

    monkeypatch.undo()
    receive(ALICE, "news-unsubscribe")
    assert_in_state(START, ALICE, "news")


def test_storage_that_fails_at_the_commit_changes_nothing_and_sends_nothing(monkeypatch, room, sent):
    def fail(*row):
        raise SMTPError(451, "4.3.0 The state storage is not available")

    monkeypatch.setattr(room.storage.states, "set", fail)
    with pytest.raises(SMTPError):
        receive(ALICE, "news-subscribe")

    assert_in_state(START, ALICE, "news")
    assert sent == []


def test_mail_of_a_sender_in_a_state_without_handler_is_answered_451():
    Router.STATE_STORE.set(f"{MODULE}:news", ALICE, "RENAMED")

    with pytest.raises(SMTPError) as refused:
        receive(ALICE, "news")

    assert refused.value.code == 451


def test_mail_to_an_address_that_does_not_handle_the_state_is_answered_550():
    @route("tickets@(host)")
    def OPEN(message, host=None):
        return OPEN

    OPEN.__module__ = MODULE
    put_in_state(OPEN, ALICE, "news")

    with pytest.raises(SMTPError) as refused:
        receive(ALICE, "news")
    assert refused.value.code == 550
    assert "in OPEN" in str(refused.value.__cause__)


@pytest.mark.parametrize(
    "returned", [trial_list.answer, dict, "SUBSCRIBED", True], ids=["function", "class", "name", "truth"]
)
def test_returning_something_that_is_no_handler_is_an_error(monkeypatch, returned):
    monkeypatch.setattr(trial_list, "answer", lambda *arguments: returned)

    with pytest.raises(
        TypeError, match=r"(trial_list\.START|a handler for news-subscribe@\S+) returned .*, which (is no|has no)"
    ):
        receive(ALICE, "news-subscribe")
    assert_in_state(START, ALICE, "news")


@pytest.mark.parametrize(
    "headers",
    [
        {"Auto_Submitted": "auto-replied"},
        {"Auto_Submitted": "Auto-Generated; owner-email=x@y.example"},
        {"List_Id": "<talk.example>"},
        {"List_Post": "<mailto:talk@talk.example>"},
        {"Precedence": "Bulk"},
        {"Precedence": "list"},
        {"Precedence": "junk"},
        {"Precedence": "auto_reply"},
        {"X_Autoreply": "yes"},
        {"X_AutoRespond": "I am away"},
    ],
)
def test_automated_mail_gets_no_reply_and_changes_no_state(headers):
    assert receive(ALICE, "news-subscribe", **headers) == []
    assert_in_state(START, ALICE, "news")


def test_report_gets_no_reply_whoever_sends_it():
    report = b"Content-Type: multipart/report; report-type=delivery-status; boundary=b\n\n--b\n\nNo.\n--b--\n"
    assert receive("mta@people.example", "news-subscribe", report) == []
    assert_in_state(START, "mta@people.example", "news")


def test_null_sender_gets_no_reply():
    assert receive("", "news-subscribe") == []
    assert_in_state(START, "", "news")


def test_auto_submitted_no_gets_a_reply():
    assert len(receive(ALICE, "news-subscribe", Auto_Submitted="no")) == 1


def test_address_gets_at_most_replies_per_hour(monkeypatch, room):
    monkeypatch.setattr(room.reply_limit, "replies_per_hour", 2)
    receive(ALICE, "news-subscribe")
    receive(ALICE, "news-subscribe")

    assert receive(ALICE, "news-unsubscribe") == []
    assert_in_state(CONFIRMING, ALICE, "news")


def test_mail_to_other_domains_is_not_routed(room):
    assert not room.is_routed(f"news@not-{room.domain}")
    assert not room.is_routed(f"news@{room.domain}.evil.example")
    similar = room.domain.replace(".", "-")
    assert similar == room.domain or not room.is_routed(f"news@{similar}")


def test_domain_in_a_route_is_taken_literally(room):
    route("other@(host)")(lambda message, host: None)

    assert room.is_routed("other@example.com")
    assert not room.is_routed("other@example-com")


def test_attribute_error_in_a_handler_keeps_its_traceback(monkeypatch):
    monkeypatch.setattr(trial_list, "answer", lambda *arguments: object().__name__)

    with pytest.raises(AttributeError, match="__name__"):
        receive(ALICE, "news-subscribe")


def test_same_mail_is_handled_once(room, sent):
    for _ in range(2):
        receive(ALICE, "news-subscribe", Message_ID="<1@a.example>")
    assert len(sent) == 1

    receive(ALICE, "news-subscribe", Message_ID="<2@a.example>")
    assert len(sent) == 2


def test_same_text_without_message_id_is_two_mails(sent):
    for _ in range(2):
        receive(ALICE, "news-subscribe", b"Subject: hello\n\nHello.\n")
    assert len(sent) == 2


def test_mail_that_wrote_nothing_is_not_noted(room, sent):
    put_in_state(SUBSCRIBED, ALICE, "news")
    for _ in range(2):
        receive(ALICE, "news", Message_ID="<1@a.example>")
    assert len(sent) == 2


def test_reply_over_the_limit_is_left_out_and_the_mail_is_handled(room, monkeypatch, sent):
    monkeypatch.setattr(room.reply_limit, "replies_per_hour", 1)
    receive(ALICE, "news-subscribe")
    receive(ALICE, "news-confirm-0")

    assert len(sent) == 1
    assert_in_state(SUBSCRIBED, ALICE, "news")


def test_reply_to_a_mail_that_failed_is_not_counted(room, monkeypatch):
    monkeypatch.setattr(room.reply_limit, "replies_per_hour", 1)
    with monkeypatch.context() as storage_is_down:
        storage_is_down.setattr(room.storage.states, "set", None)
        with pytest.raises(SMTPError):
            receive(ALICE, "news-subscribe")

    assert len(receive(ALICE, "news-subscribe")) == 1


def test_tables_for_a_storage_without_own_tables_end_the_start_in_one_line(room):
    room.tables = lambda connection: None
    Router.STATE_STORE = Storage()

    with pytest.raises(SystemExit, match=r"^ERROR: <.*> has no own tables; leave out `tables=` in config/boot\.py$"):
        room.storage  # noqa: B018
