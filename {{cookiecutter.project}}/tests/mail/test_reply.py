"""Replies name what they answer, and nothing from outside becomes a header."""

import re

from config import settings
from tests.conversation import receive, receive_data

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
