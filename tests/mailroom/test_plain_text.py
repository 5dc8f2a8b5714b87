"""A mail of plain text is read as it was written, whatever text and headers are."""

import email
from email.policy import default

import pytest

from mailroom.message import plain_text
from mailroom.parts import one_line


def read(headers, text="Hello.\n"):
    """Return the mail as its reader sees it."""
    return email.message_from_bytes(plain_text(headers, text), policy=default)


@pytest.mark.parametrize(
    "text",
    [
        "Hello.\n",
        "",
        "no line end",
        "Grüße aus Köln, 你好\n",
        "x" * 2000 + "\n",
        "trailing space \n.\n..\n",
        "tab\tand NUL\0\n",
    ],
)
def test_text_arrives_as_it_was_written(text):
    mail = read({"Subject": "hello"}, text)

    assert mail.get_content().replace("\r\n", "\n") == text


def test_lines_are_ascii_and_short_enough_for_smtp():
    octets = plain_text({"Subject": "hello", "To": "alice@people.example"}, "one\r\ntwo\n" + "ü" * 2000)

    lines = octets.split(b"\r\n")
    assert octets.isascii()
    assert not {b"\r", b"\n"} & {line[place : place + 1] for line in lines for place in range(len(line))}
    assert max(map(len, lines)) <= 998


def test_empty_header_is_left_out():
    assert "Reply-To" not in read({"Subject": "hello", "Reply-To": None})


@pytest.mark.parametrize("text", ["a\r\nBcc: eve@evil.example", "a\nb", "a\0b", "a\x1cb", "a\x0bb\x0cc"])
def test_line_end_in_a_header_starts_no_other_header(text):
    assert read({"Subject": text}).keys()[:2] == ["Subject", "MIME-Version"]


@pytest.mark.parametrize("text", ["a\r\nBcc: eve@evil.example", "a\nb", "a\0b", "a\x85b\u2028c", "\ud800"])
def test_one_line_has_no_line_ends_and_no_surrogates(text):
    line = one_line(text)

    assert line.isprintable() and line.splitlines() == [line]
    line.encode()
