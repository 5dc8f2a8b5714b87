"""Automated mail is silent, whoever forwards it; what people write is answered, whatever it looks like."""

import pytest

from mailroom.loops import PARTS, SENDER, SIGNS, Machines
from mailroom.testing import assert_in_state, receive
from tests.mailroom.trial_list import CONFIRMING, START

ALICE = "alice@people.example"
RFC822 = "Content-Type: message/rfc822\n\nSubject: Welcome\n\nHello.\n"
FORWARDED = "Content-Type: multipart/mixed; boundary=B\n\n--B\n" + RFC822 + "--B--\n"
WITH_WORDS = "Content-Type: multipart/mixed; boundary=B\n\n--B\n\nWhat is this?\n--B\n" + RFC822 + "--B--\n"
DSN = "Content-Type: message/delivery-status\n\nReporting-MTA: dns; mx.people.example\n\nAction: failed\n"

AUTOMATED = {
    "bounce of a postmaster": ("postmaster@mx.people.example", "From: postmaster@mx.people.example\n\n"),
    "bounce that an alias forwarded": (ALICE, "From: Mail Delivery <Mailer-Daemon@people.example>\n\n"),
    "bounce with a comment for a name": (ALICE, "From: MAILER-DAEMON@people.example (Mail Delivery)\n\n"),
    "bounce from a bare name": (ALICE, "From: Mailer-Daemon\n\n"),
    "bounce of Exim": (ALICE, "X-Failed-Recipients: bob@people.example\n\n"),
    "null From": (ALICE, "From: <>\n\n"),
    "From that only has a name": (ALICE, "From: Mail System <>\n\n"),
    "null Return-Path and a subject": (ALICE, "Return-Path: <>\nSubject: failure notice\n\n"),
    "bounce in another form": (ALICE, f"Subject: Undeliverable: hello\n{FORWARDED.replace(RFC822, DSN)}"),
    "bounce of an account": (ALICE, "From: System Administrator <sysadmin@a.example>\nSubject: Undeliverable\n\n"),
    "no-reply": ("noreply@av.people.example", "\n"),
    "no-reply with more": ("service.no-reply+1@people.example", "\n"),
    "no-reply in From": (ALICE, "From: Do Not Answer <do-not-reply@people.example>\n\n"),
    "DMARC report": (ALICE, "Subject: Report Domain: example.com Submitter: a.example Report-ID: <1>\n\n"),
    "DMARC report, encoded": (ALICE, "Subject: =?utf-8?Q?Report_domain:_example.com?=\n\n"),
    "ARF report": (ALICE, 'Content-Type: multipart/report; report-type="feedback-report"; boundary=B\n\n--B--\n'),
    "feedback loop of Outlook": (
        "staff@hotmail.example",
        f"From: staff@hotmail.example\nSubject: complaint about message from 192.0.2.1\n{FORWARDED}",
    ),
    "ezmlm": (ALICE, "Mailing-List: contact talk-help@lists.people.example; run by ezmlm\n\n"),
    "LISTSERV": ("owner-talk@lists.people.example", "\n"),
    "LISTSERV, forwarded": (ALICE, "Sender: Talk <owner-talk@lists.people.example>\n\n"),
    "Mailman": ("talk-bounces@lists.people.example", "\n"),
    "Mailman with VERP": ("talk-bounces+news=example.com@lists.people.example", "\n"),
    "request address": ("talk-request@lists.people.example", "\n"),
    "absence note of iCloud": (ALICE, "X-Apple-Action: VACATION\n\n"),
    "absence note of Outlook": (ALICE, "Subject: Automatic reply: hello\nX-Auto-Response-Suppress: All\n\n"),
    "absence note of Outlook in French": (
        ALICE,
        "Subject: =?utf-8?Q?R=C3=A9ponse_automatique_:_hello?=\nX-Auto-Response-Suppress: All\n\n",
    ),
    "absence note of Outlook, not encoded": (
        ALICE,
        "Subject: R\xe9ponse automatique : hello\nX-Auto-Response-Suppress: All\n\n",
    ),
    "absence note of Outlook in Swedish": (ALICE, "Subject: Autosvar: hello\nX-Auto-Response-Suppress: All\n\n"),
    "absence note of Outlook in Italian": (
        ALICE,
        "Subject: Risposta automatica: hello\nX-Auto-Response-Suppress: All\n\n",
    ),
    "absence note of Outlook in Japanese": (
        ALICE,
        "Subject: =?utf-8?b?6Ieq5YuV5b+c562UOiBoZWxsbw==?=\nX-Auto-Response-Suppress: All\n\n",
    ),
    "absence note of old Exchange": (
        ALICE,
        "Subject: Out of Office AutoReply: hello\nX-Auto-Response-Suppress: All\n\n",
    ),
    "absence note of Notes": (ALICE, "Subject: AUTO: Alice is out of the office\n\n"),
    "cron": (ALICE, "X-Cron-Env: <SHELL=/bin/sh>\n\n"),
    "space before the colon": (ALICE, "Auto-Submitted : auto-replied\n\n"),
    "comment before the word": (ALICE, "Precedence: (no (really)) bulk\n\n"),
}

PEOPLE = {
    "List-Unsubscribe alone": "List-Unsubscribe: <mailto:leave@people.example>\n\n",
    "List-Unsubscribe of one click": "List-Unsubscribe: <https://a.example>\nList-Unsubscribe-Post: yes\n\n",
    "Precedence: normal": "Precedence: normal\n\n",
    "X-Auto-Response-Suppress of Exchange": "X-Auto-Response-Suppress: All\n\n",
    "X-Auto-Response-Suppress and a subject": "X-Auto-Response-Suppress: All\nSubject: automatic doors\n\n",
    "X-Auto-Response-Suppress and a vacation": "X-Auto-Response-Suppress: All\nSubject: Vacation: who is in?\n\n",
    "X-Auto-Response-Suppress and a lost mail": "X-Auto-Response-Suppress: All\nSubject: Failed message to Bob\n\n",
    "X-Auto-Response-Suppress of an admin": "X-Auto-Response-Suppress: All\nFrom: admin@people.example\n\n",
    "X-Auto-Response-Suppress and a car": "X-Auto-Response-Suppress: All\nSubject: Auto: neue Reifen\n\n",
    "X-Auto-Response-Suppress and automation": "X-Auto-Response-Suppress: All\nSubject: Home automation: how?\n\n",
    "X-Auto-Response-Suppress and an absence": "X-Auto-Response-Suppress: All\nSubject: Out of office on Friday\n\n",
    "Auto-Submitted: no": "Auto-Submitted: No (a person)\n\n",
    "Auto-Submitted: no with a parameter": "Auto-Submitted: no; a=b\n\n",
    "subject about absence": "Subject: Out of office on Friday\n\n",
    "subject about a bounce": "Subject: Undeliverable: hello\n\n",
    "answer to an absence note": "Subject: Re: Automatic reply: hello\nX-Auto-Response-Suppress: All\n\n",
    "bounce forwarded inline": "Subject: Fwd: Undelivered Mail Returned to Sender\n\nWhat is this?\n",
    "bounce forwarded with words": f"Subject: Fwd: failure notice\n{WITH_WORDS}",
    "mail forwarded without words": f"Subject: Fwd: hello\n{FORWARDED}",
    "root": "From: root <root@people.example>\n\n",
    "name like a program's": 'From: "Mailer-Daemon" <alice@people.example>\n\n',
    "address like a program's": "From: ano-replay@people.example, postmasters@people.example\n\n",
    "null Return-Path alone": "Return-Path: <>\n\n",
}


@pytest.mark.parametrize(("sender", "mail"), AUTOMATED.values(), ids=list(AUTOMATED))
def test_machine_gets_no_reply_and_no_state(sender, mail):
    assert receive(sender, "news-subscribe", mail.encode()) == []
    assert_in_state(START, sender, "news")


@pytest.mark.parametrize("mail", PEOPLE.values(), ids=list(PEOPLE))
def test_person_gets_an_answer(mail):
    assert len(receive(ALICE, "news-subscribe", mail.encode())) == 1
    assert_in_state(CONFIRMING, ALICE, "news")


def test_owner_adds_signs(room):
    room.machines = Machines([("X-Our-Monitor", "", "our monitoring"), ("X-Bot", "^yes$", "ours", 0.75)])

    assert receive(ALICE, "news-subscribe", X_Our_Monitor="disk") == []
    assert len(receive(ALICE, "news-subscribe", X_Bot="yes")) == 1
    assert receive(ALICE, "news-subscribe", X_Bot="yes", X_Auto_Response_Suppress="All") == []


def test_every_sign_names_its_source():
    assert all(sign.source for sign in SIGNS)
    assert {SENDER, PARTS} < {sign.headers for sign in SIGNS}


def test_hostile_headers_take_no_time():
    value = "noreply-" * 100_000 + "<" + "(" * 100_000
    names = ("From", "Sender", "Subject", "Auto-Submitted", "X-Auto-Response-Suppress")
    mail = "".join(f"{name}: {value}\n" for name in names) + "\n"

    assert receive(ALICE, "news", mail.encode()) == []
