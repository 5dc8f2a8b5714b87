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
def test_space_before_a_colon_hides_no_machine(header):
    assert receive_data(ALICE, "news-subscribe", f"{header}\n\nHello.\n".encode()) == []
