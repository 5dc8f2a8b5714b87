"""Replies name what they answer, and nothing from outside becomes a header."""

import email
import re
from email.policy import default

import pytest

from app.mail.reply import one_line
from config import settings
from tests.conversation import receive

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


@pytest.mark.parametrize("text", ["a\r\nBcc: eve@evil.example", "a\nb", "a\0b", "a\x85b\u2028c", "\ud800"])
def test_one_line_is_one_line(text):
    reply = email.message.EmailMessage(policy=default)
    reply["Subject"] = one_line(text)

    assert reply.keys() == ["Subject"]
    assert email.message_from_bytes(reply.as_bytes()).keys() == ["Subject"]
