"""A mail of each kind that real mail has, from the wire to what a handler reads, or to the answer."""

import re

import pytest

from mailroom import LMTPReceiver, Message
from mailroom.testing import assert_in_state
from tests.mailroom.test_receiver import ALICE, address, client  # noqa: F401  the fixture
from tests.mailroom.trial_list import CONFIRMING, START

pytestmark = pytest.mark.parametrize("client", [LMTPReceiver], indirect=True)
TEXT = b"Content-Type: text/plain; charset=%s\r\nContent-Transfer-Encoding: %s\r\n\r\n"
MIXED = b"Content-Type: multipart/%s; boundary=b\r\n\r\n--b\r\n"
HTML = b"Content-Type: text/html; charset=utf-8\r\n\r\n<p>Gr\xc3\xbc\xc3\x9fe</p>\r\n"
FILE = b"--b\r\nContent-Type: text/csv\r\nContent-Disposition: attachment; filename=a.csv\r\n\r\n1;2\r\n--b--\r\n"
REPORT = (
    b"--b\r\nContent-Type: message/delivery-status\r\n\r\nReporting-MTA: dns; a\r\n\r\nFinal-Recipient: rfc822; a@b"
)

READ = {
    "GBK under charset=gb2312": (TEXT % (b"gb2312", b"8bit") + "\u6731\u9555".encode("gbk"), "\u6731\u9555\n"),
    "8 bit under us-ascii": (TEXT % (b"us-ascii", b"8bit") + b"Gr\xfc\xdfe", "Gr\xfc\xdfe\n"),
    "HTML beside a file": (MIXED % b"mixed" + HTML + FILE, "Gr\xfc\xdfe\n"),
    "blank text beside HTML": (MIXED % b"alternative" + b"\r\n \r\n--b\r\n" + HTML + b"--b--\r\n", "Gr\xfc\xdfe\n"),
    "no boundary": (b"Content-Type: multipart/mixed; boundary=lost\r\n\r\nYes.", "Yes.\n"),
    "another boundary": (b"Content-Type: multipart/mixed; boundary=lost\r\n\r\n--b\r\n" + HTML + FILE, "Gr\xfc\xdfe\n"),
    "boundary on two lines": (
        b'Content-Type: multipart/mixed; boundary="a\r\n b"\r\n\r\n--a b\r\n\r\nYes.\r\n--a b--',
        "Yes.\n",
    ),
    "base64 with CRLF": (TEXT % (b"utf-8", b"base64") + b"eWVzDQpubw0K", "yes\nno\n"),
    "S/MIME inside of the signature": (b"Content-Type: application/pkcs7-mime; name=smime.p7m\r\n\r\nMIAG", ""),
    "quoted-printable": (TEXT % (b"utf-8", b"quoted-printable") + b"Gr=C3=BC=\r\n=C3=9Fe", "Gr\xfc\xdfe\n"),
    "format=flowed": (b"Content-Type: text/plain; format=flowed\r\n\r\none \r\ntwo\r\n.\r\n", "one two\n.\n"),
    "lone CR": (b"\r\none\rtwo\r\r\n", "one\ntwo\n"),
    "raw UTF-8 in the subject": (b"Subject: Gr\xc3\xbc\xc3\x9fe\r\n\r\nYes.", "Yes.\n", "Gr\xfc\xdfe"),
    "Shift_JIS in the subject": (b"Subject: =?Shift_JIS?B?g2WDWINn?=\r\n\r\nYes.", "Yes.\n", "\u30c6\u30b9\u30c8"),
    "subject on two lines": (
        b"Subject: =?utf-8?q?Gr=C3?=\r\n =?UTF-8?Q?=BC=C3=9Fe?=\r\n\r\nYes.",
        "Yes.\n",
        "Gr\xfc\xdfe",
    ),
}


@pytest.mark.parametrize("kind", READ.values(), ids=list(READ))
def test_handler_reads_the_text_that_was_sent(client, monkeypatch, kind):  # noqa: F811
    data, text, *subject = kind
    read = []
    monkeypatch.setattr(Message, "forward", lambda message, to: read.append((message.text, message["Subject"])))
    client.sendmail(ALICE, [address("postmaster")], data)

    assert read == [(text, *(subject or [None]))]


@pytest.mark.parametrize(
    ("sender", "data"),
    [
        ("", b"Subject: hello\r\n\r\n"),
        ("postmaster@people.example", b"Subject: hello\r\n\r\n"),
        (ALICE, b"From: MAILER-DAEMON <>\r\n\r\n"),
        (ALICE, b"Auto-Submitted : auto-replied\r\n\r\nI am away : back on Monday"),
        (ALICE, b"Subject: =?utf-8?q?Automatic_reply:?=\r\n hello\r\nX-Auto-Response-Suppress: All\r\n\r\n"),
        (ALICE, MIXED % b"report" + b"\r\nNo.\r\n" + REPORT + b"\r\nAction: failed\r\nStatus: 5.7.26\r\n\r\n--b--\r\n"),
    ],
)
def test_machine_is_answered_250_only(client, sent, sender, data):  # noqa: F811
    client.sendmail(sender, [address("news-subscribe")], data)

    assert sent == []
    assert_in_state(START, sender, "news")


def test_bounce_with_a_status_of_today_is_read(client, monkeypatch):  # noqa: F811
    read = []
    monkeypatch.setattr(
        Message, "forward", lambda message, to: read.append((message.is_bounce(), message.bounce.failed))
    )
    data = MIXED % b"report" + b"\r\nNo.\r\n" + REPORT + b"\r\nAction: failed (no)\r\nStatus: 5.7.26\r\n\r\n--b--\r\n"
    client.sendmail("", [address("postmaster")], data)

    assert read == [(True, [("a@b", "5.7.26")])]


def test_person_with_a_batv_tag_and_list_unsubscribe_is_answered(client, sent):  # noqa: F811
    client.sendmail(f"prvs=0123456789={ALICE}", [address("news-subscribe")], b"List-Unsubscribe: <mailto:a@b>\r\n\r\n")

    assert len(sent) == 1
    assert_in_state(CONFIRMING, ALICE, "news")


def test_forwarded_mail_leaves_octet_by_octet(client, sent):  # noqa: F811
    data = (
        b"Date: x\r\nMessage-ID: <1@a.example>\r\nAuto-Submitted: no\r\nX : y\r\n\r\n.A\rB\r\r\n\0\xff\r\n..\r\n"
        + b"x" * 5000
    )
    client.putcmd("NOOP"), client.getreply()
    client.ehlo_or_helo_if_needed()
    client.mail(ALICE)
    client.rcpt(address("postmaster"))
    client.docmd("DATA")
    client.send(re.sub(rb"(?m)^\.", b"..", data) + b"\r\n.\r\n")  # `sendmail` would mend the line ends

    assert client.getreply()[0] == 250
    assert sent[0].data == data + b"\r\n"
