"""Behind a real Postfix, set up with the files of `deploy/`: the application lives with the outside world."""

import smtplib

import pytest

from tests import baking, postfix
from tests.application import Application
from tests.waiting import wait_until

pytestmark = pytest.mark.skipif(not postfix.IS_THERE, reason=postfix.REASON)

ALICE = "alice@people.test"
BOB = "bob@people.test"
VACATION = "vacation@people.test"
NEWS = "news@example.com"
SUBSCRIBE = "news-subscribe@example.com"

# Put in front of the handlers: where a mail waits as long as the file run/hold is there.
HOLD = """
def hold():
    import pathlib, time
    pathlib.Path("run/handling").touch()
    while pathlib.Path("run/hold").exists():
        time.sleep(0.01)

"""

STATES = """
import config.boot
from salmon.routing import Router
print(list(Router.STATE_STORE))
"""


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = baking.bake(tmp_path_factory.mktemp("deployed"))
    with postfix.Postfix(folder / "deploy") as world:
        yield world


@pytest.fixture
def app(shared, tmp_path, world):
    settings = {"RECEIVER_PORT": world.lmtp_port, "RELAY_HOST": "127.0.0.1", "RELAY_PORT": world.port}
    with Application(baking.copy(shared, tmp_path), POSTMASTER="carol@people.test", **settings).warmed() as app:
        yield app
    world.forget()


def test_conversation_from_subscribing_to_the_welcome(world, app):
    app.start()

    world.send(ALICE, SUBSCRIBE, Subject="Grüße aus Köln", body="Ich möchte bitte.\n")
    (confirmation,) = world.wait_for_mail("alice")
    world.send(ALICE, confirmation["Reply-To"], In_Reply_To=confirmation["Message-ID"])
    (_, welcome) = world.wait_for_mail("alice", 2)

    assert welcome["Subject"] == "Welcome to news"
    assert welcome["Return-Path"] == "<>"
    assert welcome["Auto-Submitted"] == "auto-replied"


def test_unknown_address_is_refused_before_the_mail_is_accepted(world, app):
    app.start()

    with pytest.raises(smtplib.SMTPRecipientsRefused) as refused:
        world.send(ALICE, "nobody@example.com")
    assert refused.value.recipients["nobody@example.com"][0] == 550
    with pytest.raises(smtplib.SMTPRecipientsRefused):
        world.send(ALICE, "somebody@elsewhere.example")  # no open relay


def test_subdomain_is_refused(world, app):
    app.start()

    with pytest.raises(smtplib.SMTPRecipientsRefused) as refused:
        world.send(ALICE, "news@sub.example.com")
    assert "Relay access denied" in str(refused.value)


def test_smtputf8_mail_is_refused_and_not_bounced(world, app):
    app.start()

    with world.client() as client:
        client.ehlo()
        assert client.docmd(f"MAIL FROM:<{ALICE}> SMTPUTF8")[0] >= 500
        client.rset()
        client.sendmail(ALICE, [SUBSCRIBE], f"From: {ALICE}\r\nSubject: Grüße\r\n\r\nHello.\r\n".encode())
    (confirmation,) = world.wait_for_mail("alice")
    assert confirmation["Subject"] == "Please confirm your subscription to news"


def test_mail_to_two_recipients_is_handled_for_each(world, app):
    app.start()

    world.send(ALICE, SUBSCRIBE, "postmaster@example.com")

    world.wait_for_mail("alice")
    (passed_on,) = world.wait_for_mail("carol")
    assert passed_on["From"] == ALICE


def test_bounce_reaches_the_postmaster_and_changes_no_state(world, app):
    app.start()

    # From our own domain to nobody: Postfix bounces it to the sender.
    with world.client(stranger=False) as client:
        client.sendmail(NEWS, ["nowhere@people.test"], "Subject: lost\n\nLost.\n")
    app.wait_for_log("automated mail")
    with world.client(stranger=False) as client:
        client.sendmail("postmaster@example.com", ["nowhere@people.test"], "Subject: lost\n\nLost.\n")
    (bounce,) = world.wait_for_mail("carol")

    assert bounce.get_content_type() == "multipart/report"
    assert app.python(STATES).stdout == "[]\n"


def test_lines_with_dots_arrive_unchanged(world, app):
    app.start()
    body = b".\r\n..\r\n...three\r\n.one\r\nlast.\r\n.\r\n"

    world.send_data(ALICE, ["postmaster@example.com"], b"Subject: dots\r\n\r\n" + body)

    world.wait_for_mail("carol")
    (data,) = world.mailbox("carol")
    assert data.partition(b"\n\n")[2] == body.replace(b"\r\n", b"\n")


def test_eight_bit_text_arrives_unchanged(world, app):
    app.start()
    body = "Käse\r\n".encode()

    with world.client() as client:
        mail = b"Subject: cheese\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\n"
        client.sendmail(ALICE, ["postmaster@example.com"], mail + body, mail_options=["BODY=8BITMIME"])

    world.wait_for_mail("carol")
    (data,) = world.mailbox("carol")
    assert data.endswith(b"\n\n" + "Käse\n".encode())


def test_mail_waits_until_a_broken_handler_is_mended(world, app):
    handlers = app.folder / "app" / "handlers" / "subscription.py"
    code = handlers.read_text()
    handlers.write_text(code + "\n\ndef answer(*arguments, **options):\n    raise ZeroDivisionError\n")
    app.start()

    world.send(ALICE, SUBSCRIBE)
    world.wait_until_deferred()
    assert "451 4.3.0" in world.log()
    assert world.mailbox("alice") == []

    app.terminate()
    handlers.write_text(code)
    app.start()
    world.flush()
    (confirmation,) = world.wait_for_mail("alice")
    world.wait_until_empty()
    assert confirmation["Subject"] == "Please confirm your subscription to news"


def test_mail_waits_while_the_application_is_down(world, app):
    app.start()
    world.send(ALICE, SUBSCRIBE)  # Postfix knows the address from now on
    world.wait_for_mail("alice")

    assert app.terminate() == 0
    world.send(BOB, SUBSCRIBE)
    world.wait_until_deferred()
    with pytest.raises(smtplib.SMTPRecipientsRefused) as refused:
        world.send(BOB, "news-unsubscribe@example.com")
    assert refused.value.recipients["news-unsubscribe@example.com"][0] == 450  # not known yet

    app.start()
    world.flush()
    world.wait_for_mail("bob")


def test_kill_in_a_handler_loses_no_mail_and_no_state(world, app):
    """Twenty times, before the reply and after it in turn."""
    handlers = app.folder / "app" / "handlers" / "subscription.py"
    code = handlers.read_text()
    before_reply = code.replace("    token = message.token(", "    hold()\n    token = message.token(")
    after_reply = code.replace(
        "    return CONFIRMING\n\n\ndef answer", "    hold()\n    return CONFIRMING\n\n\ndef answer"
    )
    held = [
        text.replace("@state_key_generator", HOLD + "\n@state_key_generator") for text in (before_reply, after_reply)
    ]
    assert len({code, *held}) == 3
    handling, hold = app.folder / "run" / "handling", app.folder / "run" / "hold"
    app.start()
    world.send(BOB, SUBSCRIBE)  # so that Postfix knows the address while the application is down
    world.wait_for_mail("bob")
    app.terminate()

    hold.touch()
    world.send(ALICE, SUBSCRIBE)

    for number in range(20):
        handlers.write_text(held[number % 2])
        handling.unlink(missing_ok=True)
        app.start()
        world.wait_until_deferred()
        world.flush()
        wait_until(handling.exists, 60, world.log)
        app.kill()
    assert world.mailbox("alice") == []

    hold.unlink()
    app.start()
    world.wait_until_deferred()
    world.flush()
    (confirmation,) = world.wait_for_mail("alice")
    world.wait_until_empty()
    world.send(ALICE, confirmation["Reply-To"])
    assert [mail["Subject"] for mail in world.wait_for_mail("alice", 2)][1] == "Welcome to news"


def test_marked_auto_responder_gets_one_reply(world, app):
    app.start()
    world.send(VACATION, NEWS)
    (reply,) = world.wait_for_mail("vacation")

    world.send(VACATION, reply["From"], Subject="I am away", Auto_Submitted="auto-replied")

    app.wait_for_log("automated mail")
    world.wait_until_empty()
    assert len(world.mailbox("vacation")) == 1


def test_auto_responder_finds_no_return_path(world, app):
    app.start()
    world.send(VACATION, NEWS)

    (reply,) = world.wait_for_mail("vacation")

    assert reply["Return-Path"] == "<>"


def test_unmarked_auto_responder_gets_replies_per_hour(world, app):
    app.settings["REPLIES_PER_HOUR"] = 4
    app.start()
    world.send(VACATION, NEWS)

    for number in range(1, 5):
        reply = world.wait_for_mail("vacation", number)[-1]
        world.send(VACATION, reply["From"], Subject="I am away")

    app.wait_for_log("replies_per_hour is reached")
    world.wait_until_empty()
    assert len(world.mailbox("vacation")) == 4


def test_mail_loop_through_postfix_ends(world, app):
    """By an alias of Postfix's, which the application cannot see."""
    app.settings["POSTMASTER"] = "root@people.test"
    app.start()

    world.send(ALICE, "postmaster@example.com")

    wait_until(lambda: "hopcount exceeded" in world.log(), 60, world.log)
    world.wait_until_empty()


ASK = """
import os
import time

from salmon.routing import nolocking, route, stateless


@route("ask@(host)")
@stateless
@nolocking
def ASK(message, host):
    while not os.path.exists("run/go"):
        time.sleep(0.01)
"""


def test_twenty_slow_handlers_at_once_hold_up_no_ordinary_mail(world, app):
    (app.folder / "app" / "handlers" / "ask.py").write_text(ASK)
    app.settings["HANDLERS"] = "app.handlers.subscription,app.handlers.ask"
    app.start()

    for number in range(19):
        world.send(f"{number}@people.test", "ask@example.com")
    wait_until(lambda: world.queued() == world.queued("active") == 19, 60, world.log)
    world.send(ALICE, SUBSCRIBE)
    world.wait_for_mail("alice")
    assert world.queued("active") >= 19

    (app.folder / "run" / "go").touch()
    world.wait_until_empty()
    assert app.logged().count("to 'ask@example.com'") == 19
    assert " refused " not in app.logged()
