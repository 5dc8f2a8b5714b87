"""postmaster@ and abuse@ reach a person, also from automated senders."""

import pytest
from salmon.server import SMTPError

from config import settings
from mailroom.testing import receive

MAIL = b"From: carol@people.example\nSubject: help\n\n.a line with a dot\nK\xc3\xb6ln\n"


@pytest.mark.parametrize("role", ["postmaster", "abuse", "Postmaster"])
@pytest.mark.parametrize("sender", ["carol@people.example", ""])
def test_mail_to_a_role_is_forwarded_unchanged(role, sender):
    receive(sender, role, MAIL)

    (sent,) = settings.relay.sent
    assert sent.recipients == (settings.postmaster,)
    assert sent.sender == "<>"
    assert sent.data.endswith(b"\r\n" + MAIL.replace(b"\n", b"\r\n"))


def test_postmaster_needs_no_domain():
    assert settings.room.is_routed("postmaster")


@pytest.mark.parametrize("address", ["nobody", "postmaster2", "news-", "news-foo", "xnews", "news@other.example"])
def test_unknown_address_is_refused(address):
    with pytest.raises(SMTPError) as refused:
        receive("carol@people.example", address)

    assert refused.value.code == 550
