"""What people write is read as their mail programs show it: charsets, encoded words, HTML, paragraphs, quoting."""

import time

import pytest

from mailroom.message import read
from mailroom.parts import decoded, decoded_header, unflowed, unquoted

ALICE = "alice@people.example"


@pytest.fixture
def reading(room):
    """A function: return the `Message` in these octets."""
    return lambda data: read(room, ("127.0.0.1", 0), ALICE, "news@example.com", data)


@pytest.mark.parametrize(
    ("text", "written_in", "charset"),
    [
        ("\u6731\u9555\u57fa", "gbk", "gb2312"),
        ("\u2460\u30c6\u30b9\u30c8", "cp932", "Shift_JIS"),
        ("\uac13\ub2d8", "cp949", "ks_c_5601-1987"),
        ("\u201cGr\xfc\xdfe\u201d", "cp1252", "iso_8859-1"),
        ("Gr\xfc\xdfe", "cp1252", "us-ascii"),
        ("Gr\xfc\xdfe", "utf-8", "us-ascii"),
        ("Gr\xfc\xdfe", "utf-8", None),
        ("Gr\xfc\xdfe", "utf-8", "x-unknown"),
        ("Gr\xfc\xdfe", "utf-8-sig", "utf-8"),
        ("caf\xe9", "cp1252", None),
        (
            "\u041f\u0440\u0438\u0432\u0435\u0442, \u043f\u043e\u0434\u043f\u0438\u0448\u0438\u0442\u0435",
            "koi8-r",
            None,
        ),
        ("\u8cfc\u8aad\u3092\u304a\u9858\u3044\u3057\u307e\u3059", "euc_jp", None),
        ("\u0456\u0457", "koi8-u", "KOI8-U"),
        ("\u0e1b\u0e25\u0e32", "cp874", "windows-874"),
        ("\u05e9\u05dc\u05d5\u05dd", "iso8859_8", "iso-8859-8-i"),
        ("Gr\xfc\xdfe", "utf-16", "utf-16"),
    ],
)
def test_text_is_decoded_as_mail_programs_do(text, written_in, charset):
    assert decoded(text.encode(written_in), charset) == text


@pytest.mark.parametrize(
    ("octets", "charset", "text"),
    [
        (b"Gr\xc3\xbc\xff\xc3\x9fe", "utf-8", "Gr\xfc\ufffd\xdfe"),
        (b"\x1b$B-!%F%9%H\x1b(B", "iso-2022-jp", "\u2460\u30c6\u30b9\u30c8"),
        (b"\x1b$B%F%9%H\x1b(B", None, "\u30c6\u30b9\u30c8"),
        (b"\x1b$B%F\xff%9%H\x1b(B", "iso-2022-jp", "\u30c6\ufffd\u30b9\u30c8"),
        (b"+2AA-", "utf-7", "?"),
    ],
)
def test_one_wrong_character_is_replaced_and_no_other(octets, charset, text):
    assert decoded(octets, charset) == text


@pytest.mark.parametrize(
    "charset", ["punycode", "idna", "rot13", "zlib", "uu", "base64", "unicode_escape", "undefined"]
)
def test_only_charsets_of_texts_are_decoded(charset):
    assert decoded(b"\\x61" + b"a" * 1_000_000, charset) == "\\x61" + "a" * 1_000_000


@pytest.mark.parametrize(
    ("header", "text"),
    [
        ("=?utf-8?B?0JLQsNGI0LUg0YHQ?=\n =?utf-8?B?vtC+0LHRidC10L3QuNC1?=", "Ваше сообщение"),
        ("=?Shift_JIS?B?g2WDWINn?=", "\u30c6\u30b9\u30c8"),
        ("=?iso-2022-jp?b?GyRCJUYlOSVIGyhC=?=", "\u30c6\u30b9\u30c8"),
        ("=?utf-8*de?Q?Gr=C3=BC=C3=9Fe?=", "Gr\xfc\xdfe"),
        ("=?utf-8?q?with space?=", "with space"),
        ("=?utf-8?q?one?==?utf-8?q?two?= three =?utf-8?q?four?=", "onetwo three four"),
        ("=?utf-8?q?one?=  =?iso-8859-1?q?=93two=94?=", "one\u201ctwo\u201d"),
        ('"=?utf-8?q?J=C3=B6rg?=" <joerg@people.example>', '"J\xf6rg" <joerg@people.example>'),
        ("Gr\udcc3\udcbc\udcc3\udc9fe", "Gr\xfc\xdfe"),
        ("Gr\udcfc\udcdfe", "Gr\xfc\xdfe"),
        ("=?utf-8?b?YWJj", "=?utf-8?b?YWJj"),
        ("=?utf-8?x?abc?=", "=?utf-8?x?abc?="),
        ("=?utf-8?b?a?=", ""),
        ("=?utf-8?b?YQ= =?utf-8?q?two?=", "=?utf-8?b?YQ= two"),
    ],
)
def test_header_is_decoded_as_real_senders_break_it(header, text):
    assert decoded_header(header) == text


def test_headers_that_salmon_reads_are_decoded_as_well(reading):
    message = reading(b"Subject: =?utf-8*de?q?Gr=C3=BC=C3=9Fe?=\nTo: =?punycode?q?" + b"a" * 100_000 + b"?=\n\n")

    assert message.base["subject"] == dict(message.items())["Subject"] == "Gr\xfc\xdfe"
    assert message["To"] == "a" * 100_000


@pytest.mark.parametrize(
    ("flowed", "text"),
    [
        ("one \ntwo\nthree\n", "one two\nthree\n"),
        ("> one \n> two\nthree \n\nfour", "> one two\nthree \nfour"),
        (" From me\n >no quote\n", "From me\n>no quote\n"),
        ("one \n-- \nAlice\n", "one \n-- \nAlice\n"),
        (">> one \n> two\n", "> > one \n> two\n"),
    ],
)
def test_flowed_lines_are_joined_to_paragraphs(flowed, text):
    assert unflowed(flowed) == text


def test_flowed_lines_of_japanese_are_joined_without_a_space(reading):
    header = "Content-Type: text/plain; charset=utf-8; format=Flowed; DelSp=Yes\n\n"
    assert reading(f"{header}\u8cfc \n\u8aad\n".encode()).text == "\u8cfc\u8aad\n"


@pytest.mark.parametrize(
    ("html", "text"),
    [
        (b"<p>Please <b>unsubscribe</b> me.<br>Alice &amp; Bob</p>", "Please unsubscribe me.\nAlice & Bob"),
        (b"<style>p {}</style><script>x()</script><p>yes</p><!-- no -->", "yes"),
        (b"<meta charset=koi8-r><p>\xf0\xd2\xc9\xd7\xc5\xd4", "\u041f\u0440\u0438\u0432\u0435\u0442"),
        (b"<div>" * 300 + b"deep &amp; down", "deep & down"),
        (b"<img src='data:image/png;base64," + b"A" * 1_500_000 + b"'>yes", "yes"),
        (b"<style>p {}</style>y\x01e\0s\x0c", "yes"),
        (b"<p>no</p><script></script>y&#1;es", "no   yes"),
        (b"", ""),
    ],
)
def test_html_is_turned_into_the_text_that_it_shows(reading, html, text):
    assert reading(b"Content-Type: text/html\n\n" + html).text == (f"{text}\n" if text else "")


REPLIES = {
    "Gmail": "Yes.\n\nOn Mon, Jan 6, 2025 at 9:00 AM News <news@example.com> wrote:\n\n> Do you want to join?\n",
    "Gmail, wrapped": "Yes.\n\nOn Mon, Jan 6, 2025 at 9:00 AM The News <\nnews@example.com> wrote:\n\n> Do you?\n",
    "Outlook": "Yes.\n\n________________________________\nFrom: News <news@example.com>\nSent: Monday, January 6, 2025"
    "\nTo: Alice\nSubject: Do you want to join?\n\nDo you?\n",
    "German": "Yes.\n\nAm 06.01.2025 um 09:00 schrieb News:\n> Willst du?\n",
    "French": "Yes.\n\nLe 6 janv. 2025 09:00, News <news@example.com> a \xe9crit :\n> Veux-tu ?\n",
    "Polish": 'Yes.\n\n6 sty 2025 09:00 "News" <news@example.com> napisa\u0142(a):\n\n> Chcesz?\n',
    "telephone": "Yes.\n\nSent from my iPhone\n\n> On Jan 6, 2025, at 9:00, News <news@example.com> wrote:\n> \n> Do you?\n",
    "Outlook in Italian": "Yes.\n\nDa: News <news@example.com>\nInviato: luned\xec 6 gennaio 2025 09:00\nA: Alice\n"
    "Oggetto: Vuoi?\n\nVuoi?\n",
    "Yahoo": "Yes.\nOn Monday, January 6, 2025 at 09:00:00 AM GMT+1, News <news@example.com> wrote:\nDo you?\n",
    "Gmail in Italian, of HTML": "Yes.\nIl giorno lun 6 gen 2025 alle ore 09:00 News < news@example.com > ha scritto:\nVuoi?\n",
    "Gmail in Japanese, without marks": "Yes.\n\n2025\u5e741\u67086\u65e5 9:00 News <news@example.com>:\n\nDo you?\n",
    "Zoho": "Yes.\n\n---- On Mon, 06 Jan 2025 09:00:00 +0100 News<news@example.com> wrote ---\n\nDo you?\n",
    "French, below": "Le 6 janv. 2025 09:00, News a \xe9crit\xa0:\n> Veux-tu ?\n\nYes.\n",
    "below": "On Mon, Jan 6, 2025 at 9:00 AM News <news@example.com> wrote:\n> Do you?\n\nYes.\n",
    "between": "> Hello.\n> Do you?\n\nYes.\n\n> Bye.\n",
    "signature": "Yes.\n\n-- \nAlice\n+1 555 0100\n",
    "nothing": "Yes.\n",
}


@pytest.mark.parametrize("text", REPLIES.values(), ids=list(REPLIES))
def test_unquoted_text_is_what_the_person_wrote(reading, text):
    message = reading(b"Content-Type: text/plain; charset=utf-8\n\n" + text.encode())

    assert message.text == text
    assert message.unquoted_text == "Yes."


def test_answers_above_and_below_a_quoted_mail_are_kept():
    text = "Hello.\n\nOn Mon, Jan 6, 2025 at 9:00 AM News <news@example.com> wrote:\n> One?\n\nYes.\n\n> Two?\n\nNo.\n"
    assert unquoted(text).split() == ["Hello.", "Yes.", "No."]


@pytest.mark.parametrize(
    "text",
    [
        "Three things:\n\n- at 12:30\n- a@b.example\n",
        "\U0001f44d",
        "I wrote this: 1 > 2\n\nand more",
        "Od: 12.05.2025\nDo: 15.05.2025\n\nYes.",
    ],
)
def test_text_that_only_looks_like_a_quote_is_kept(text):
    assert unquoted(text) == text.strip()


@pytest.mark.parametrize(
    "line",
    [
        "From: a@b.example\n",
        ":1 \n",
        ">\n",
        "\n",
        "--\n",
        "On 1 wrote:\n",
        "> x \n",
        ":" * 299 + "1\n",
        "1:\n\n\n",
        "<p>",
    ],
)
@pytest.mark.parametrize("kind", ["text/plain; format=flowed", "text/html"])
def test_hostile_text_takes_seconds(reading, line, kind):
    data = f"Content-Type: {kind}\n\n" + line * (450_000 // len(line)) + "x"
    begun = time.process_time()
    reading(data.encode()).unquoted_text  # noqa: B018

    assert time.process_time() - begun < 8  # minutes, when the time grows with the square
