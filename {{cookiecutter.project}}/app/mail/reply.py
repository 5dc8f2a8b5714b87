"""How a handler answers: one function, and mail that no machine will answer in turn."""

import hashlib
import re
from email.header import Header
from email.utils import formataddr, formatdate, parseaddr

from salmon import view

from app.mail.manners import header, is_from_machine, reply_limit
from app.mail.plain_text import one_line, plain_text
from config import settings

MESSAGE_ID = re.compile(r"<[!-;=?-~]{3,248}>")
EMPTY_LINE = re.compile(r"\n[ \t]*\n")
REFERENCES = 20
REFERENCES_OCTETS = 600  # with the mail that is answered, they fit on one line
LONGEST_LINE = 900  # octets; RFC 5322, section 2.1.1, allows 998


def reply(message, template, From, Reply_To=None, **variables):
    """Answer the `salmon.mail.MailRequest` that a handler got.

    `template` names a file in `app/templates`: its first line is the subject, its text begins
    after the first empty line. `From` and `Reply_To` are addresses, the rest are variables of
    the template. Raises `ValueError` for a template or an address that is none. The answer goes to the envelope sender, with the null sender as its own, and
    leaves when the mail has been handled. Machines are not answered (RFC 3834, section 2), nor is
    anybody more often than `settings.replies_per_hour`.
    """
    if is_from_machine(message) or reply_limit.is_reached(message.From):
        return
    subject, empty_line, text = EMPTY_LINE.sub("\n\n", view.render(variables, template), count=1).partition("\n\n")
    if not empty_line:
        raise ValueError(f"{template} has no empty line between its subject and its text")
    message.replies += 1
    answered = MESSAGE_ID.findall(header(message, "Message-ID"))[:1]
    headers = {
        "From": _mailbox(From),
        "To": message.envelope_sender,
        "Reply-To": Reply_To and _mailbox(Reply_To),
        "Subject": _subject(one_line(subject)),
        "Date": formatdate(),
        "Message-ID": _own_id(message, template),
        "Auto-Submitted": "auto-replied",
        "In-Reply-To": " ".join(answered),
        "References": " ".join([*_thread(message), *answered]),
    }
    settings.relay.deliver(plain_text(headers, text.rstrip("\n") + "\n"), To=message.envelope_sender, From="<>")


def _thread(message):
    """Return the last of the mails that the mail itself refers to."""
    thread = MESSAGE_ID.findall(header(message, "References"))[-REFERENCES:]
    if not thread:  # RFC 5322, section 3.6.4: then the one mail that it answers
        answered = MESSAGE_ID.findall(header(message, "In-Reply-To"))
        thread = answered if len(answered) == 1 else []
    while sum(map(len, thread)) + len(thread) > REFERENCES_OCTETS:
        del thread[0]
    return thread


def _subject(text):
    """Return a subject, encoded as RFC 2047 asks where it must be."""
    if text.isascii() and len(text) <= LONGEST_LINE:
        return text
    return Header(text, "utf-8", header_name="Subject")


def _mailbox(text):
    """Return an address with or without a name, the name encoded as RFC 2047 asks."""
    text = one_line(text)
    if text.isascii() and "<" not in text:
        return text
    name, address = parseaddr(text)
    if "@" not in address:
        raise ValueError(f"no address in {text!r}; a name with other characters than letters needs quotes")
    if name.isascii():
        return formataddr((name, address))
    mailbox = Header(name, "utf-8", header_name="Reply-To")
    mailbox.append(f"<{address}>", "us-ascii")
    return mailbox


def _own_id(message, template):
    """Return the Message-ID of an answer: the same again when the same mail is answered again."""
    answered = MESSAGE_ID.findall(header(message, "Message-ID")) or message.Data
    text = repr((answered, message.From, message.To, template, message.replies))
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
    return f"<{digest[:40]}@{settings.mail_domain}>"
