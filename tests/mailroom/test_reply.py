"""Replies name what they answer, and nothing from outside becomes a header."""

import re

import pytest
from salmon import view

from app.mail.reply import reply
from app.mail.request import read
from config import settings
from tests.conversation import receive, receive_data

pytestmark = pytest.mark.usefixtures("trial_list")
ALICE = "alice@people.example"


def test_a_reply_belongs_to_the_mail_that_it_answers():
    (reply,) = receive(ALICE, "news", Message_ID="<2@a.example>", References="<0@a.example> <1@a.example>")

    assert reply["In-Reply-To"] == "<2@a.example>"
    assert reply["References"] == "<0@a.example> <1@a.example> <2@a.example>"
    assert reply["Auto-Submitted"] == "auto-replied"
    assert reply["Date"]
    assert settings.relay.sent[0].sender == "<>"


def test_the_same_mail_gets_the_same_message_id():
    (first,) = receive(ALICE, "news", Message_ID="<1@a.example>")
    (again,) = receive(ALICE, "news", Message_ID="<1@a.example>")
    (other,) = receive(ALICE, "news", Message_ID="<2@a.example>")

    assert first["Message-ID"] == again["Message-ID"] != other["Message-ID"]
    assert re.fullmatch(rf"<\w+@{re.escape(settings.mail_domain)}>", first["Message-ID"].strip())


def test_a_thread_that_is_too_long_loses_its_beginning():
    references = [f"<{'x' * 100}.{number}@a.example>" for number in range(30)]
    data = f"Message-ID: <31@a.example>\nReferences: {' '.join(references)}\n\nHello.\n".encode()
    (reply,) = receive_data(ALICE, "news", data)

    assert reply["References"].split() == [*references[-5:], "<31@a.example>"]


def test_a_mail_without_references_brings_what_it_answers():
    (reply,) = receive(ALICE, "news", Message_ID="<2@a.example>", In_Reply_To="<1@a.example>")

    assert reply["References"] == "<1@a.example> <2@a.example>"


def test_an_id_that_is_none_does_not_make_two_mails_one():
    (first,) = receive_data(ALICE, "news", b"Message-ID: <>\nSubject: one\n\nHello.\n")
    (second,) = receive_data(ALICE, "news", b"Message-ID: <>\nSubject: two\n\nHello.\n")

    assert first["Message-ID"] != second["Message-ID"]


@pytest.fixture
def mail():
    return read(("127.0.0.1", 0), ALICE, f"news@{settings.mail_domain}", b"Message-ID: <1@a.example>\n\nHello.\n")


def test_two_replies_to_one_mail_are_two_mails(mail):
    for _ in range(2):
        reply(mail, "answer.msg", From="news@lists.example", list_name="news")

    first, second = (re.search(b"Message-ID: (.*)", sent.data)[1] for sent in settings.relay.sent)
    assert first != second


@pytest.mark.parametrize("empty_line", ["\n", " \t\n"])
def test_a_template_is_a_subject_and_a_text(mail, monkeypatch, empty_line):
    monkeypatch.setattr(view, "render", lambda variables, template: f"Hello\n{empty_line}A text.\n \nMore.\n")
    reply(mail, "any.msg", From="news@lists.example")

    assert b"\r\nSubject: Hello\r\n" in settings.relay.sent[0].data
    assert settings.relay.sent[0].data.endswith(b"\r\n\r\nA text.\r\n \r\nMore.\r\n")


@pytest.mark.parametrize(
    "text, From, reason",
    [
        ("A subject\nA text.\n", "news@lists.example", "any.msg has no empty line"),
        ("A subject\n\nA text.\n", "Doe, John <news@lists.example>", "a name with other characters"),
    ],
)
def test_what_would_be_a_broken_reply_is_an_error(mail, monkeypatch, text, From, reason):
    monkeypatch.setattr(view, "render", lambda variables, template: text)

    with pytest.raises(ValueError, match=reason):
        reply(mail, "any.msg", From=From)
    assert settings.relay.sent == []
