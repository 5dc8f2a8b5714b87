"""Mail that is made to be hard to read, and mail that only looks like it."""

import pytest
from salmon.server import SMTPError

from app.mail.request import read
from tests.conversation import receive_data

ALICE = "alice@people.example"
NESTED = b"Content-Type: multipart/mixed; boundary=b%d%s\n\n--b%d\n"


def reading(data):
    return read(("127.0.0.1", 0), ALICE, "news@example.com", data)


@pytest.mark.parametrize(
    "data",
    [
        b"Content-Type: message/delivery-status\n\n" + b"\n" * 300_000,
        b"Content-Type: multipart/mixed; boundary=b\n\n" + b"--b\r\r" * 100_000,
        b"".join(NESTED % (level, b'; a="' + b";" * 50_000, level) for level in range(2)),
        b"".join(NESTED % (level, b"", level) for level in range(90)) + b"x\n" * 600_000,
        b"a:\n" * 500_000,
        b"Subject: hello\n\n" + b"\r" * 5_000_000,
    ],
    ids=["reports", "lone CR", "parameters", "nested", "headers", "lines"],
)
def test_what_would_take_minutes_to_read_is_refused(data):
    with pytest.raises(SMTPError) as refused:
        reading(data)
    assert refused.value.code == 554


@pytest.mark.parametrize("line", [b"-- a comment in SQL", b"Content-Type: multipart/mixed", b"; a=b", b"--b"])
def test_a_text_may_have_any_lines(line):
    text = (line + b"\n") * 2000
    assert reading(b"Subject: hello\n\n" + text).body().encode() == text


@pytest.mark.parametrize(
    "header", ["Auto-Submitted : auto-replied", "Subject\t: hello\nList-Id: <x>", "X : y\r\nPrecedence: bulk"]
)
def test_space_before_a_colon_hides_no_machine(trial_list, header):
    assert receive_data(ALICE, "news-subscribe", f"{header}\n\nHello.\n".encode()) == []


@pytest.mark.parametrize(
    "line, text",
    [
        ("Subject: =?utf-8?q?Gr=C3=BC=C3=9Fe?=", "Gr\xfc\xdfe"),
        ("Subject: folded\n here", "folded here"),
        ("Subject: =?utf-8?q?one=0A=0Atwo?=", "one two"),
        ("Subject: =?utf-8?b?broken", "=?utf-8?b?broken"),
        ("Subject: =?utf-8?b?abc?=", "=?utf-8?b?abc?="),
        ("Comments: none", None),
    ],
)
def test_a_header_is_one_line_of_text_however_broken(line, text):
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
        (b"Content-Type: text/html\n\n<p>Hi", "<p>Hi"),
        (b"Content-Type: multipart/mixed; boundary=b\n\n" + PICTURE + TEXTS + b"--b--\n", "Hi"),
        (b"Content-Type: multipart/mixed; boundary=b\n\n" + PICTURE + b"--b--\n", ""),
        (b"Content-Type: text/plain; charset=latin-1\n\nGr\xfc\xdfe", "Gr\xfc\xdfe"),
        (b"Content-Type: text/plain; charset=nonsense\n\nHi \xfc", "Hi \ufffd"),
        (b"Content-Type: text/plain; charset*=us-ascii'en'utf-8\n\nHi", "Hi"),
        (b"Content-Type: text/plain; charset=ascii\n\nHi \xfc", "Hi \ufffd"),
    ],
)
def test_the_body_is_text_whatever_stands_around_it(data, text):
    assert reading(data).body() == text
