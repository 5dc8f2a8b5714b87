"""Replies name the mail that they answer, and nothing from outside becomes a header."""

import re
from email import message_from_bytes
from email.policy import default
from email.utils import formataddr

import jinja2
import pytest
from salmon import view

from mailroom.message import read
from mailroom.testing import receive

ALICE = "alice@people.example"


def test_reply_refers_to_the_mail_that_it_answers(sent):
    (reply,) = receive(ALICE, "news", Message_ID="<2@a.example>", References="<0@a.example> <1@a.example>")

    assert reply["In-Reply-To"] == "<2@a.example>"
    assert reply["References"] == "<0@a.example> <1@a.example> <2@a.example>"
    assert reply["Auto-Submitted"] == "auto-replied"
    assert reply["Date"]
    assert sent[0].sender == "<>"


def test_long_references_lose_their_beginning():
    references = [f"<{'x' * 100}.{number}@a.example>" for number in range(30)]
    data = f"Message-ID: <31@a.example>\nReferences: {' '.join(references)}\n\nHello.\n".encode()
    (reply,) = receive(ALICE, "news", data)

    assert reply["References"].split() == [*references[-5:], "<31@a.example>"]


def test_reply_takes_over_in_reply_to_where_references_are_missing():
    (reply,) = receive(ALICE, "news", Message_ID="<2@a.example>", In_Reply_To="<1@a.example>")

    assert reply["References"] == "<1@a.example> <2@a.example>"


@pytest.fixture
def mail(room):
    return read(room, ("127.0.0.1", 0), ALICE, "news@example.com", b"Message-ID: <1@a.example>\n\nHello.\n")


@pytest.fixture
def write_template(room):
    """A function: write the template `any.msg`, the only one that there is then."""

    def write_template(text):
        room.templates.loader = jinja2.DictLoader({"any.msg": text})

    return write_template


def test_two_replies_to_one_mail_have_two_message_ids(mail, sent):
    for _ in range(2):
        mail.reply("answer.msg", sender="news@lists.example", list_name="news")

    first, second = (re.search(b"Message-ID: (.*)", sent.data)[1] for sent in sent)
    assert first != second


def test_template_that_salmon_renders_can_be_sent_and_knows_the_domain(mail, sent, write_template):
    write_template("The drill is back; write to drill@{{ domain }}, {{ name }}.\n")
    bob = "bob@people.example"

    mail.send(view.respond({"name": "Bob"}, "any.msg", From="drill@example.com", To=bob, Subject="Back"), to=bob)

    assert sent[0].sender == "drill@example.com"
    assert sent[0].recipients == (bob,)
    reply = message_from_bytes(sent[0].data, policy=default)
    assert reply["Subject"] == "Back"
    assert reply.get_content().splitlines() == ["The drill is back; write to drill@example.com, Bob."]


def test_template_may_be_given_another_domain(mail, sent, write_template):
    write_template("Hello from {{ domain }}\n\nA text.\n")
    mail.reply("any.msg", sender="news@lists.example")
    mail.reply("any.msg", sender="news@lists.example", domain="other.example")

    assert [re.search(b"Subject: (.*)\r", reply.data)[1] for reply in sent] == [
        b"Hello from example.com",
        b"Hello from other.example",
    ]


@pytest.mark.parametrize("empty_line", ["\n", " \t\n"])
def test_first_line_of_a_template_is_the_subject(mail, sent, write_template, empty_line):
    write_template(f"Hello\n{empty_line}A text.\n \nMore.\n")
    mail.reply("any.msg", sender="news@lists.example")

    assert b"\r\nSubject: Hello\r\n" in sent[0].data
    assert sent[0].data.endswith(b"\r\n\r\nA text.\r\n \r\nMore.\r\n")


@pytest.mark.parametrize(
    "text, sender, reason",
    [
        ("A subject\nA text.\n", "news@lists.example", "any.msg has no empty line"),
        ("A subject\n\nA text.\n", "Doe, John <news@lists.example>", "a name with other characters"),
    ],
)
def test_broken_template_or_sender_is_an_error(mail, sent, write_template, text, sender, reason):
    write_template(text)

    with pytest.raises(ValueError, match=reason):
        mail.reply("any.msg", sender=sender)
    assert sent == []


@pytest.mark.parametrize("name", ["x" * 5000, "J\xf6rg " * 1000, '"' * 2000])
def test_long_name_of_a_sender_makes_no_long_line(mail, sent, write_template, name):
    write_template("Hello\n\nA text.\n")
    sender = formataddr((name, "news@lists.example"))
    mail.reply("any.msg", sender=sender, reply_to=sender)

    header = sent[0].data.partition(b"\r\n\r\n")[0]
    assert max(map(len, header.split(b"\r\n"))) <= 998
    assert message_from_bytes(sent[0].data, policy=default)["From"].addresses[0].addr_spec == "news@lists.example"


def test_reply_keeps_responders_from_answering(sent):
    (reply,) = receive(ALICE, "news")
    assert reply["X-Auto-Response-Suppress"] == "All"


@pytest.fixture
def write_html(room, write_template):
    """A function: write the templates `any.msg` and `any.html`."""

    def write_html(html):
        write_template("Hello\n\nHello, {{ name }}.\n")
        room.templates.loader.mapping["any.html"] = html
        room.html_templates = frozenset(["any.html"])

    return write_html


def test_reply_includes_the_html_template_beside_the_text(mail, sent, write_html):
    write_html("<p>Hello, {{ name }}.</p>\n")
    mail.reply("any.msg", sender="news@lists.example", name="J\xf6rg & <Alice>")

    reply = message_from_bytes(sent[0].data, policy=default)
    assert reply.get_content_type() == "multipart/alternative"
    assert reply.get_body(("plain",)).get_content() == "Hello, J\xf6rg & <Alice>.\r\n"
    assert reply.get_body(("html",)).get_content() == "<p>Hello, J\xf6rg &amp; &lt;Alice&gt;.</p>\r\n"
    assert (reply["Auto-Submitted"], reply["In-Reply-To"]) == ("auto-replied", "<1@a.example>")
    assert sent[0].data.isascii() and b"\n" not in sent[0].data.replace(b"\r\n", b"")


def test_reply_takes_attachments(mail, sent, write_template):
    write_template("Hello\n\nA text.\n")
    files = [("gr\xfc\xdfe.png", "image/png", b"\x00\xff"), ("a.eml", "message/rfc822", b"Subject: a\n\n")]
    mail.reply("any.msg", sender="news@lists.example", attachments=files)

    reply = message_from_bytes(sent[0].data, policy=default)
    assert reply.get_body().get_content() == "A text.\r\n"
    assert [(part.get_filename(), part.get_content()) for part in reply.iter_attachments()] == [
        ("gr\xfc\xdfe.png", b"\x00\xff"),
        ("a.eml", b"Subject: a\n\n"),
    ]


def test_attachments_of_a_mail_are_sent_back_unchanged(room, sent, write_template):
    write_template("Hello\n\nA text.\n")
    data = b"Content-Type: image/png; name=a.png\nContent-Transfer-Encoding: base64\n\nAP8=\n"
    mail = read(room, ("127.0.0.1", 0), ALICE, "news@example.com", data)
    mail.reply("any.msg", sender="news@lists.example", attachments=mail.attachments)

    (part,) = message_from_bytes(sent[0].data, policy=default).iter_attachments()
    assert (part.get_filename(), part.get_content()) == ("a.png", b"\x00\xff")


def test_reply_has_the_headers_that_a_handler_adds(mail, sent, write_template):
    write_template("Hello\n\nA text.\n")
    mail.reply(
        "any.msg",
        "news@lists.example",
        headers={"List-Unsubscribe": "<mailto:a@b.example>\r\nBcc: eve@evil.example", "X-Name": "J\xf6rg"},
    )

    reply = message_from_bytes(sent[0].data, policy=default)
    assert reply["List-Unsubscribe"] == "<mailto:a@b.example> Bcc: eve@evil.example"
    assert reply["X-Name"] == "J\xf6rg"
    assert reply["Bcc"] is None
