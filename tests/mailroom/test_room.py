"""What the application promises, whatever its handlers do."""

import pytest
from salmon.routing import Router, route
from salmon.server import SMTPError

from app.mail import delivery
from config import settings
from tests import trial_list
from tests.conversation import assert_in_state, put_in_state, receive, receive_data
from tests.trial_list import CONFIRMING, START, SUBSCRIBED

pytestmark = pytest.mark.usefixtures("trial_list")
ALICE = "alice@people.example"


def test_states_and_replies_of_one_test_1():
    receive(ALICE, "news-subscribe")

    assert_in_state(CONFIRMING, ALICE)


def test_are_not_there_in_the_next_2():
    assert_in_state(START, ALICE)
    assert settings.relay.sent == []


def test_a_handler_that_raises_after_its_reply_changes_nothing_and_sends_nothing(monkeypatch):
    put_in_state(SUBSCRIBED, ALICE)
    answer = trial_list.answer

    def answer_and_fail(*arguments, **options):
        answer(*arguments, **options)
        raise ZeroDivisionError

    monkeypatch.setattr(trial_list, "answer", answer_and_fail)
    with pytest.raises(ZeroDivisionError):
        receive(ALICE, "news-unsubscribe")

    assert_in_state(SUBSCRIBED, ALICE)
    assert settings.relay.sent == []

    monkeypatch.undo()
    receive(ALICE, "news-unsubscribe")
    assert_in_state(START, ALICE)


def test_a_relay_that_refuses_changes_nothing(monkeypatch):
    def refuse(envelope):
        raise SMTPError(451, "4.4.1 The relay is not available")

    monkeypatch.setattr(settings.relay, "send_now", refuse)
    with pytest.raises(SMTPError):
        receive(ALICE, "news-subscribe")

    assert_in_state(START, ALICE)


def test_a_storage_that_fails_at_the_end_changes_nothing(monkeypatch):
    def fail(*row):
        raise SMTPError(451, "4.3.0 The state storage is not available")

    monkeypatch.setattr(Router.STATE_STORE.storage, "set", fail)
    with pytest.raises(SMTPError):
        receive(ALICE, "news-subscribe")

    assert_in_state(START, ALICE)


def test_a_state_without_a_handler_is_not_answered_250():
    Router.STATE_STORE.set("tests.trial_list:news", ALICE, "RENAMED")

    with pytest.raises(SMTPError) as refused:
        receive(ALICE, "news")

    assert refused.value.code == 451


def test_a_state_that_other_addresses_have_is_told_at_once():
    @route("tickets@(host)")
    def OPEN(message, host=None):
        return OPEN

    OPEN.__module__ = trial_list.__name__
    put_in_state(OPEN, ALICE)

    with pytest.raises(SMTPError) as refused:
        receive(ALICE, "news")
    assert refused.value.code == 550
    assert "in OPEN" in str(refused.value.__cause__)


@pytest.mark.parametrize("returned", [trial_list.answer, dict, "SUBSCRIBED", True], ids=str)
def test_what_is_no_state_is_not_answered_250(monkeypatch, returned):
    monkeypatch.setattr(trial_list, "answer", lambda *arguments: returned)

    with pytest.raises(TypeError, match="a handler for news-subscribe@.* returned"):
        receive(ALICE, "news-subscribe")
    assert_in_state(START, ALICE)


@pytest.mark.parametrize(
    "headers",
    [
        {"Auto_Submitted": "auto-replied"},
        {"Auto_Submitted": "Auto-Generated; owner-email=x@y.example"},
        {"List_Id": "<talk.example>"},
        {"List_Unsubscribe": "<mailto:leave@talk.example>"},
        {"Precedence": "Bulk"},
        {"Precedence": "list"},
        {"Precedence": "junk"},
        {"Precedence": "auto_reply"},
        {"X_Autoreply": "yes"},
        {"X_AutoRespond": "I am away"},
    ],
)
def test_machines_are_not_answered_and_change_nothing(headers):
    assert receive(ALICE, "news-subscribe", **headers) == []
    assert_in_state(START, ALICE)


def test_nor_are_reports_who_ever_sends_them():
    report = b"Content-Type: multipart/report; report-type=delivery-status; boundary=b\n\n--b\n\nNo.\n--b--\n"
    assert receive_data("mta@people.example", "news-subscribe", report) == []
    assert_in_state(START, "mta@people.example")


def test_nor_is_the_null_sender():
    assert receive("", "news-subscribe") == []
    assert_in_state(START, "")


def test_people_are_people():
    assert len(receive(ALICE, "news-subscribe", Auto_Submitted="no")) == 1


def test_nobody_gets_more_than_replies_per_hour(monkeypatch):
    monkeypatch.setattr(settings, "replies_per_hour", 2)
    receive(ALICE, "news-subscribe")
    receive(ALICE, "news-subscribe")

    assert receive(ALICE, "news-unsubscribe") == []
    assert_in_state(CONFIRMING, ALICE)


def test_a_list_takes_no_mail_of_another_domain():
    assert not delivery.is_routed(f"news@not-{settings.mail_domain}")
    assert not delivery.is_routed(f"news@{settings.mail_domain}.evil.example")
    similar = settings.mail_domain.replace(".", "-")
    assert similar == settings.mail_domain or not delivery.is_routed(f"news@{similar}")
