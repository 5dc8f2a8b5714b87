"""The text of a mail and its attachments are told apart, and a bounce says who failed; whatever the mail holds."""

from email.message import EmailMessage

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from salmon.server import SMTPError

from mailroom import room as rooms
from mailroom.message import read
from tests.mailroom.test_text import ALICE, reading  # noqa: F401  the fixture

PLAIN = "--b\nContent-Type: text/plain\n\nplain\n"
BLANK = "--b\nContent-Type: text/plain\n\n \n"
HTML = "--b\nContent-Type: text/html\n\n<p>html\n"
CSV = "--b\nContent-Type: text/plain\nContent-Disposition: attachment; filename=a.csv\n\n1;2\n"
NAMED = '--b\nContent-Type: text/plain; name="notes.txt"\nContent-Disposition: inline\n\nnotes\n'
MAIL = "--b\nContent-Type: message/rfc822\n\nSubject: attached\n\nattached\n"
PICTURE = "--b\nContent-Type: image/png\nContent-ID: <1>\n\nx\n"
EVENT = "--b\nContent-Type: text/calendar\n\nBEGIN:VCALENDAR\n"
RELATED = f"--b\nContent-Type: multipart/related; boundary=c\n\n{(HTML + PICTURE).replace('--b', '--c')}--c--\n"
SIGNATURE = "--b\nContent-Type: application/pgp-signature; name=signature.asc\n\nx\n"


@pytest.mark.parametrize(
    ("kind", "parts", "text", "files"),
    [
        ("mixed", HTML + CSV, "html\n", ["a.csv"]),
        ("mixed", CSV, "", ["a.csv"]),
        ("mixed", PLAIN + NAMED, "plain\n", ["notes.txt"]),
        ("mixed", PLAIN + MAIL, "plain\n", ["attachment.eml"]),
        ("mixed", MAIL, "", ["attachment.eml"]),
        ("mixed", PLAIN + PICTURE + HTML, "plain\nhtml\n", ["attachment.png"]),
        ("mixed", BLANK + HTML, "html\n", []),
        ("alternative", HTML + PLAIN, "plain\n", []),
        ("alternative", BLANK + HTML, "html\n", []),
        ("alternative", PLAIN + RELATED, "plain\n", ["attachment.png"]),
        ("alternative", BLANK + RELATED, "html\n", ["attachment.png"]),
        ("alternative", PLAIN + EVENT, "plain\n", ["attachment.ics"]),
        ("related", HTML + PICTURE, "html\n", ["attachment.png"]),
        ("signed", PLAIN + SIGNATURE, "plain\n", ["signature.asc"]),
        ("report", PLAIN + MAIL, "plain\n", ["attachment.eml"]),
    ],
)
def test_text_is_distinguished_from_attachments(reading, kind, parts, text, files):  # noqa: F811
    message = reading(f"Content-Type: multipart/{kind}; boundary=b\n\n{parts}--b--\n".encode())

    assert message.text == text
    assert [attachment.name for attachment in message.attachments] == files


def test_attachment_has_type_octets_and_whether_it_is_shown_within_the_text(reading):  # noqa: F811
    mail = EmailMessage()
    mail.set_content("See below.\n")
    mail.add_attachment(b"\x00\xff", "image", "png", filename="gr\xfc\xdfe.png")
    mail.add_attachment(b"\x00", "image", "png", disposition="inline", cid="<1>")
    attached, shown = reading(mail.as_bytes()).attachments

    assert attached == ("gr\xfc\xdfe.png", "image/png", b"\x00\xff", False)
    assert shown == ("attachment.png", "image/png", b"\x00", True)


@pytest.mark.parametrize(
    ("parameter", "name"),
    [
        ('filename="../../etc/passwd"', "passwd"),
        ('filename="C:\\\\Users\\\\a.txt"', "a.txt"),
        ('filename="..\\\\.."', "attachment.png"),
        ('filename=".profile"', "profile"),
        ('filename="a\x07b\u202ec.txt"', "a b c.txt"),
        ('filename="a:b|c?.txt"', "a_b_c_.txt"),
        ('filename="=?utf-8?q?Gr=C3=BC=C3=9Fe.txt?="', "Gr\xfc\xdfe.txt"),
        ("filename*=iso-8859-1'de'Gr%FC%DFe.txt", "Gr\xfc\xdfe.txt"),
        ("filename*=punycode''aaaa", "aaaa"),
        ("filename*0*=utf-8''Gr%C3%BC; filename*1=n.txt", "Gr\xfcn.txt"),
        ('filename="gr\xfc\xdfe.txt"', "gr\xfc\xdfe.txt"),
        (f'filename="{"x" * 300}.txt"', "x" * 196 + ".txt"),
        (f'filename="{"x" * 9000}.txt"', "attachment.png"),
    ],
)
def test_name_of_an_attachment_is_safe_for_a_file(reading, parameter, name):  # noqa: F811
    mail = f"Content-Type: image/png\nContent-Disposition: attachment; {parameter}\n\nx"
    assert [attachment.name for attachment in reading(mail.encode()).attachments] == [name]


REPORT = """Content-Type: multipart/report; report-type=delivery-status; boundary=b

--b

No.
--b
Content-Type: message/delivery-status

Reporting-MTA: dns; mx.people.example

Final-Recipient: rfc822; bob@people.example
Action: {action}
Status: {status}
Diagnostic-Code: smtp; 550 no

Final-Recipient: rfc822; <carol@people.example>
Action: delayed
Status: 4.4.1
--b--
"""


@pytest.mark.parametrize(
    ("action", "status", "hard", "failed"),
    [
        ("failed", "5.1.1", True, [("bob@people.example", "5.1.1")]),
        ("failed", "5.7.26 (unauthenticated)", True, [("bob@people.example", "5.7.26")]),
        ("Failed", "5.999.999", True, [("bob@people.example", "5.999.999")]),
        ("failed", "9.9", False, [("bob@people.example", "")]),
        ("failed", "", False, [("bob@people.example", "")]),
        ("delayed", "4.9.99", False, []),
    ],
)
def test_bounce_says_who_failed_and_why(reading, action, status, hard, failed):  # noqa: F811
    message = reading(REPORT.format(action=action, status=status).encode())

    assert message.is_bounce()
    assert (message.bounce.is_hard(), message.bounce.is_soft()) == (hard, not hard)
    assert message.bounce.failed == failed
    assert message.bounce.error_for_humans()


def test_bounce_of_exim_says_who_failed(reading):  # noqa: F811
    message = reading(b"X-Failed-Recipients: bob@people.example, carol@people.example\n\nNo.\n")
    message.is_bounce()

    assert message.bounce.failed == [("bob@people.example", ""), ("carol@people.example", "")]
    assert not message.bounce.is_hard()


NAMES = [
    "Subject",
    "Content-Type",
    "Content-Transfer-Encoding",
    "Content-Disposition",
    "Status",
    "Final-Recipient",
    "Date",
]
VALUES = [
    "multipart/mixed; boundary=b",
    "multipart/alternative; boundary=b",
    "message/rfc822",
    "message/delivery-status",
]
VALUES += ["text/html; charset*0*=punycode''a; charset*1=%", "text/plain; format=flowed", "base64", "x-uuencode"]
VALUES += [
    "quoted-printable",
    "=?utf-8?b?=?=",
    "attachment; filename*=a'b'%ff",
    "5.7.26",
    "rfc822; a",
    "multipart/report",
]
HEADER = st.builds("{}: {}\n".format, st.sampled_from(NAMES), st.sampled_from(VALUES) | st.text()).map(str.encode)
PIECES = HEADER | st.sampled_from([b"\n", b"--b\n", b"--b--\n", b"<p>", b"> ", b"-- \n"]) | st.binary(max_size=50)


@settings(deadline=None)
@given(st.lists(PIECES, max_size=20).map(b"".join))
def test_nothing_that_a_handler_reads_raises(data):
    try:
        message = read(rooms.current(), ("127.0.0.1", 0), ALICE, "news@example.com", data)
    except SMTPError:
        return
    texts = [
        message.text,
        message.body(),
        message.unquoted_text,
        message["Subject"] or "",
        message["Content-Type"] or "",
    ]
    texts += [text for pair in message.items() for text in pair] + [file.name for file in message.attachments]
    "".join(texts).encode()  # without lone surrogates
    assert all(file.name and isinstance(file.data, bytes) for file in message.attachments)
    assert all(isinstance(part.body, (str, bytes)) for part in message.walk())
    message.is_bounce()
    assert not (message.bounce.is_hard() and message.bounce.is_soft())
    assert message.is_automated in (True, False)
