"""How a handler answers: one function, and mail that no machine will answer in turn."""

import hashlib
import re
from email.charset import QP, Charset
from email.header import Header
from email.mime.text import MIMEText
from email.utils import formataddr, formatdate, parseaddr

from salmon import view

from app.mail.manners import header, is_from_machine, reply_limit
from config import settings

MESSAGE_ID = re.compile(r"<[!-;=?-~]{3,248}>")
REFERENCES = 20
LONGEST_LINE = 900  # octets; RFC 5322, section 2.1.1, allows 998
PLAIN = re.compile(r"(?:[\t -~]{0,900}\n)*")
UTF_8 = Charset("utf-8")
UTF_8.body_encoding = QP


def reply(message, template, From, Reply_To=None, **variables):
    """Answer the `salmon.mail.MailRequest` that a handler got.

    `template` names a file in `app/templates`: its first line is the subject, its text begins
    after the first empty line. `From` and `Reply_To` are addresses, the rest are variables of
    the template. The answer goes to the envelope sender, with the null sender as its own, and
    leaves when the mail has been handled. Machines are not answered (RFC 3834, section 2), nor is
    anybody more often than `settings.replies_per_hour`.
    """
    if is_from_machine(message) or reply_limit.is_reached(message.From):
        return
    subject, _, text = view.render(variables, template).partition("\n\n")
    text = _without_surrogates(text).rstrip("\n") + "\n"
    answer = MIMEText(text, _charset="us-ascii" if PLAIN.fullmatch(text) else UTF_8)
    answer["From"] = _mailbox(From)
    answer["To"] = message.From
    if Reply_To:
        answer["Reply-To"] = _mailbox(Reply_To)
    answer["Subject"] = _subject(one_line(subject))
    answer["Date"] = formatdate()
    answer["Message-ID"] = _own_id(message, template)
    answer["Auto-Submitted"] = "auto-replied"
    answered = MESSAGE_ID.findall(header(message, "Message-ID"))[:1]
    if answered:
        answer["In-Reply-To"] = answered[0]
        thread = MESSAGE_ID.findall(header(message, "References"))[-REFERENCES:]
        answer["References"] = " ".join([*thread, *answered])
    settings.relay.deliver(answer, To=message.From, From="<>")


def one_line(text):
    """Return `text` fit for a header: no line ends, no other control characters, no lone surrogates."""
    text = _without_surrogates(text)
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def _without_surrogates(text):
    return text.encode("utf-8", "replace").decode()


def _subject(text):
    """Return a subject, encoded as RFC 2047 asks where it must be."""
    if text.isascii() and len(text) <= LONGEST_LINE:
        return text
    return Header(text, "utf-8", header_name="Subject")


def _mailbox(text):
    """Return an address with or without a name, the name encoded as RFC 2047 asks."""
    name, address = parseaddr(one_line(text))
    if name.isascii():
        return formataddr((name, address))
    mailbox = Header(name, "utf-8", header_name="Reply-To")
    mailbox.append(f"<{address}>", "us-ascii")
    return mailbox


def _own_id(message, template):
    """Return the Message-ID of the answer: the same again when the same mail is answered again."""
    answered = header(message, "Message-ID") or message.Data
    text = repr((answered, message.From, message.To, template))
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
    return f"<{digest[:40]}@{settings.mail_domain}>"
