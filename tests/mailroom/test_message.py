"""Reading a mail: text and headers, however broken, and what is refused."""

import re
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import default

import pytest
from salmon.server import SMTPError

from mailroom.message import read
from mailroom.relay import _stuffed
from mailroom.testing import receive

ALICE = "alice@people.example"
NESTED = b"Content-Type: multipart/mixed; boundary=b%d%s\n\n--b%d\n"


@pytest.fixture
def reading(room):
    """A function: return the `Message` in these octets."""
    return lambda data: read(room, ("127.0.0.1", 0), ALICE, "news@example.com", data)


@pytest.mark.parametrize(
    "data",
    [
        b"Content-Type: message/delivery-status\n\n" + b"\n" * 300_000,
        b"Content-Type: multipart/mixed; boundary=b\n\n" + b"--b\r\r" * 100_000,
        b"".join(NESTED % (level, b'; a="' + b";" * 50_000, level) for level in range(2)),
        b"".join(NESTED % (level, b"", level) for level in range(90)) + b"x\n" * 600_000,
        b"a:\n" * 60_000,
        b"Subject: hello\n\n" + b"\r" * 5_000_000,
    ],
    ids=["reports", "lone CR", "parameters", "nested", "headers", "lines"],
)
def test_mail_that_takes_minutes_to_read_is_refused(reading, data):
    with pytest.raises(SMTPError) as refused:
        reading(data)
    assert refused.value.code == 554


@pytest.mark.parametrize("line", [b"-- a comment in SQL", b"Content-Type: multipart/mixed", b"; a=b", b"--b"])
def test_text_may_look_like_parts_of_a_mail(reading, line):
    text = (line + b"\n") * 2000
    assert reading(b"Subject: hello\n\n" + text).body().encode() == text


@pytest.mark.parametrize(
    "header",
    [
        "Auto-Submitted : auto-replied",
        "Auto-Submitted : auto-replied\r\nX: y",
        "Subject\t: hello\nList-Id: <x>",
        "X : y\r\nPrecedence: bulk",
    ],
)
def test_space_before_a_colon_does_not_hide_automated_mail(header):
    assert receive(ALICE, "news-subscribe", f"{header}\n\nHello.\n".encode()) == []


@pytest.mark.parametrize(
    "line, text",
    [
        ("Subject: =?utf-8?q?Gr=C3=BC=C3=9Fe?=", "Gr\xfc\xdfe"),
        ("Subject: folded\n here", "folded here"),
        ("Subject: =?utf-8?q?one=0A=0Atwo?=", "one two"),
        ("Subject: =?utf-8?b?broken", "=?utf-8?b?broken"),
        ("Subject: =?utf-8?b?abc?=", "i\ufffd"),
        ("Comments: none", None),
    ],
)
def test_header_is_one_line_of_text_however_broken(reading, line, text):
    assert reading(f"{line}\n\nHello.\n".encode())["Subject"] == text


PICTURE = b"--b\nContent-Type: image/jpeg\nContent-Transfer-Encoding: base64\n\nAAAA\n"
TEXTS = (
    b"--b\nContent-Type: multipart/alternative; boundary=c\n\n"
    b"--c\nContent-Type: text/html\n\n<p>Hi\n--c\nContent-Type: text/plain\n\nHi\n--c--\n"
)


@pytest.mark.parametrize(
    "data, text",
    [
        (b"Subject: hello\n\n", ""),
        (b"Content-Type: text/html\n\n<p>Hi", "Hi\n"),
        (b"Content-Type: multipart/mixed; boundary=b\n\n" + PICTURE + TEXTS + b"--b--\n", "Hi\n"),
        (b"Content-Type: multipart/mixed; boundary=b\n\n" + PICTURE + b"--b--\n", ""),
        (b"Content-Type: text/plain; charset=latin-1\n\nGr\xfc\xdfe", "Gr\xfc\xdfe\n"),
        (b"Content-Type: text/plain; charset=nonsense\n\nHi \xfc", "Hi \xfc\n"),
        (b"Content-Type: text/plain; charset*=us-ascii'en'utf-8\n\nHi", "Hi\n"),
        (b"Content-Type: text/plain; charset=ascii\n\nHi \xfc", "Hi \xfc\n"),
    ],
)
def test_body_is_the_text_among_other_parts(reading, data, text):
    assert reading(data).body() == text


def test_space_before_a_colon_stays_in_the_text(reading):
    assert reading(b"X : y\r\n\r\nwhy : because\r\n").text == "why : because\n"


def test_token_is_for_its_sender_and_its_name(reading):
    message = reading(b"\n")
    token = message.token("news")

    assert message.has_token(token, "news")
    assert not message.has_token(token, "dev")
    message.From = "bob@people.example"
    assert not message.has_token(token, "news")


def test_forwarded_mail_leaves_as_it_came(reading, sent):
    headers = b"Date: Sat, 28 Nov 2026 09:00:00 +0000\nMessage-ID: <1@people.example>\nAuto-Submitted: no\n"
    reading(headers + b"Subject: help\n\n.a dot\nK\xc3\xb6ln\n").forward(to="root@localhost")

    (forwarded,) = sent
    assert (forwarded.sender, forwarded.recipients) == ("<>", ("root@localhost",))
    assert forwarded.data == headers.replace(b"\n", b"\r\n") + b"Subject: help\r\n\r\n.a dot\r\nK\xc3\xb6ln\r\n"


def test_forwarded_mail_gets_the_headers_that_it_misses_before_its_own(reading, sent):
    reading(b"Message-ID: <1@people.example>\n\nHello.\n").forward(to="root@localhost", sender="news@example.com")

    (forwarded,) = sent
    assert forwarded.sender == "news@example.com"
    assert re.fullmatch(
        rb"Date: .+\r\nAuto-Submitted: auto-generated\r\nMessage-ID: <1@people.example>\r\n\r\nHello.\r\n",
        forwarded.data,
    )


def test_forwarded_mail_keeps_a_lone_cr_for_its_signature(reading, sent):
    data = b"Subject: help\r\n\r\nA\rB\r\rC\r\n"
    reading(data).forward(to="root@localhost")

    assert sent[0].data.endswith(b"\r\n" + data)


@pytest.mark.parametrize("end", [b"\r.\r", b"\r.\r\n", b"\n.\r\n", b"\n.\n", b"\r.\n"])
def test_forwarded_mail_holds_nothing_that_a_server_takes_for_its_end(reading, sent, end):
    reading(b"Subject: help\r\n\r\nA" + end + b"MAIL FROM:<eve@evil.example>\r\n").forward(to="root@localhost")

    assert re.search(rb"[\r\n]\.[\r\n]", _stuffed(sent[0].data)) is None


def test_mail_of_the_handler_gets_date_message_id_and_auto_submitted(reading, sent):
    mail = EmailMessage()
    mail["From"], mail["To"], mail["Subject"] = "News <news@example.com>", "bob@people.example", "Alice is here"
    mail.set_content("Say hello.\n")
    reading(b"\n").send(mail)

    (envelope,) = sent
    assert (envelope.sender, envelope.recipients) == ("news@example.com", ("bob@people.example",))
    arrived = message_from_bytes(envelope.data, policy=default)
    assert arrived["Date"] and arrived["Message-ID"].endswith("@example.com>")
    assert arrived["Auto-Submitted"] == "auto-generated"


def test_envelope_of_a_mail_may_differ_from_its_headers(reading, sent):
    mail = EmailMessage()
    mail["From"], mail["To"] = "news@example.com", "list:;"
    reading(b"\n").send(mail, to=["bob@people.example", "carol@people.example"], sender="news-bounces@example.com")

    (envelope,) = sent
    assert envelope.sender == "news-bounces@example.com"
    assert envelope.recipients == ("bob@people.example", "carol@people.example")


@pytest.mark.parametrize("trouble", [MemoryError, ImportError, OSError, RecursionError])
def test_failure_of_the_machine_while_a_mail_is_read_is_answered_451(reading, monkeypatch, trouble):
    def fail(*arguments, **options):
        raise trouble

    monkeypatch.setattr("mailroom.message.BytesParser", fail)
    with pytest.raises(trouble):  # which the receiver answers 451
        reading(b"\n")
