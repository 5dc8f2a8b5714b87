"""`operate.py talk --eml` takes a file as a receiver takes a mail, and says in one line what it cannot use."""

import smtplib
import threading

import pytest

from mailroom import LMTPReceiver

ALICE = "alice@people.example"
CRLF = (
    f"From: {ALICE}\r\nTo: news@example.com\r\nMessage-ID: <1@people.example>\r\n"
    "Subject: =?utf-8?B?0JLQsNGI0LUg0YHQ?=\r\n =?utf-8?B?vtC+0LHRidC10L3QuNC1?=\r\n\r\nyes\r\n.no\r\n"
)
HINT = "is no sender's address; give --from, for example --from alice@people.example"


@pytest.fixture
def talk(run, home):
    """A function: run `operate.py talk` with this mail in a file, and return Click's `Result`."""

    def talk(mail, *options):
        (home / "mail.eml").write_bytes(mail.encode("utf-8"))
        return run("talk", "--eml", "mail.eml", *options)

    return talk


@pytest.mark.parametrize("mail", [CRLF, CRLF.replace("\r\n", "\n")], ids=["CRLF", "LF"])
def test_mail_in_a_file_is_delivered_with_the_same_octets_as_over_lmtp(talk, room, monkeypatch, mail):
    came = []
    monkeypatch.setattr(room, "deliver", lambda *mail, waits=True: came.append(mail))

    shown = talk(mail)
    receiver = LMTPReceiver(room, "127.0.0.1", 0)
    receiver.open()
    thread = threading.Thread(target=receiver.run)
    thread.start()
    try:
        with smtplib.LMTP("127.0.0.1", receiver.port, timeout=10) as client:
            client.sendmail(ALICE, ["news@example.com"], CRLF)
    finally:
        receiver.stop()
        thread.join(10)

    assert shown.exit_code == 0, shown.output
    assert [mail[1:] for mail in came] == [came[0][1:]] * 2


@pytest.mark.parametrize("sender", ['From: "', "From: a@", "From: a", "From: \ufffd@b.example", "Subject: no sender"])
def test_mail_without_a_valid_sender_is_refused_in_one_line(talk, sender):
    shown = talk(f"{sender}\nTo: news@example.com\n\nHello.\n")

    assert shown.exit_code == 2
    assert shown.stderr.splitlines()[-1].startswith("Error: --eml mail.eml: '")
    assert shown.stderr.splitlines()[-1].endswith(f"' {HINT}")


@pytest.mark.parametrize("recipient", ["To: (c):", "To: undisclosed-recipients:;", "Subject: no recipient"])
def test_mail_without_a_recipient_is_refused_in_one_line(talk, recipient):
    shown = talk(f"From: {ALICE}\n{recipient}\n\nHello.\n")

    assert shown.exit_code == 2
    assert shown.stderr.splitlines()[-1] == "Error: --eml mail.eml names no recipient; give --to, for example --to news"


@pytest.mark.parametrize("mail", ["Return-Path: <>\nFrom: alice@people.example\n", "From: <>\n"])
def test_null_sender_in_a_file_is_accepted(talk, mail):
    shown = talk(f"{mail}To: news@example.com\n\nHello.\n")

    assert shown.exit_code == 0, shown.output
    assert "<> -> news@example.com" in shown.output
    assert "# automated mail" in shown.output


def test_from_and_to_override_invalid_headers(talk):
    shown = talk('From: "\nTo: (c):\n\nHello.\n', "--from", ALICE, "--to", "news")

    assert shown.exit_code == 0, shown.output
    assert f"{ALICE} -> news@example.com" in shown.output


@pytest.mark.parametrize("reply_to", ["a@", '"', "(c):"])
def test_invalid_reply_to_is_shown_as_it_came(talk, reply_to):
    shown = talk(f"From: {ALICE}\nTo: postmaster@example.com\nReply-To: {reply_to}\n\nHello.\n")

    assert shown.exit_code == 0, shown.output
    assert f"Reply-To: {reply_to}\n" in shown.output
