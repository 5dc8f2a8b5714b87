"""What a receiver says to whom, octet by octet, over a real connection to a running application."""

import itertools
import random
import re
import resource
import selectors
import signal
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from tests import baking
from tests.application import Application, speak_smtp
from tests.raw import Raw
from tests.sink import Sink
from tests.waiting import wait_until

ALICE = "alice@people.example"
MAIL = b"From: alice@people.example\r\nSubject: hello\r\nMessage-ID: <1@people.example>\r\n\r\nHello."

# What no sample handler does: fail after a reply, wait, end the process, refuse in its own words, keep what came.
PROBE = """
import resource
import time
from pathlib import Path

from salmon.routing import route, stateless
from salmon.server import SMTPError


@route("fails@(host)")
def START(message, host):
    message.reply("welcome.msg", sender="news@example.com", list_name="news")
    if Path("broken").exists():
        raise RuntimeError("broken on purpose")
    return DONE


@route("fails@(host)")
def DONE(message, host):
    return DONE


@route("exits@(host)")
@stateless
def EXIT(message, host):
    raise SystemExit(3)


@route("refuses@(host)")
@stateless
def REFUSE(message, host):
    raise SMTPError(550, "5.7.1 Nein, sagte er,\\r\\n250 sch\\u00f6n")


@route("waits@(host)")
@stateless
def WAIT(message, host):
    Path("waiting").touch()
    while not Path("go").exists():
        time.sleep(0.01)
    Path("waited").touch()


@route("keeps@(host)")
@stateless
def KEEP(message, host):
    Path("kept").write_bytes(message.Data)


@route("few-files@(host)")
@stateless
def FEW_FILES(message, host):
    resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))
"""


def probed(folder):
    """Add the handlers of this file to the application in `folder`."""
    (folder / "app" / "handlers" / "probe.py").write_text(PROBE)
    settings = folder / "config" / "settings.py"
    text = settings.read_text()
    assert '"app.handlers.postmaster"]' in text
    settings.write_text(text.replace('"app.handlers.postmaster"]', '"app.handlers.postmaster", "app.handlers.probe"]'))
    return folder


@pytest.fixture(scope="module", params=["lmtp", "smtp"])
def app(request, tmp_path_factory):
    """One application for all tests that leave it as it was, with its sink as `app.sink`."""
    folder = probed(baking.bake(tmp_path_factory.mktemp(request.param)))
    if request.param == "smtp":
        speak_smtp(folder)
    with Sink() as sink:
        settings = {
            "RELAY_HOST": sink.host,
            "RELAY_PORT": sink.port,
            "MAX_MESSAGE_SIZE": 1_000_000,
            "REPLIES_PER_HOUR": 100_000,
        }
        with Application(folder, **settings).warmed() as app:
            app.sink = sink
            app.start()
            yield app
            assert app.process.poll() is None, app.logged()[-2000:]


@pytest.fixture
def raw(app):
    with Raw(app.port, app.protocol) as raw:
        yield raw


@pytest.fixture
def sender():
    """A sender whom nobody has met."""
    return f"{next(_numbers)}.{random.getrandbits(40):x}@people.example"


_numbers = itertools.count()


def kept(app):
    return (app.folder / "kept").read_bytes()


@pytest.mark.parametrize(
    "lines",
    [
        [b".", b"..", b"...", b".a", b"a.", b". "],
        [b"a\n.b", b"\n.", b"tail"],
        [b"a\rb", b"\r", b"c\r\r", b"\rd"],
        [b"", b"", b"."],
        [b"\x00\xff\x80", b"x" * 20_000],
    ],
)
def test_mail_arrives_octet_by_octet(app, raw, lines):
    text = b"\r\n".join(lines)
    stuffed = re.sub(rb"(^|\r\n)\.", rb"\1..", text)

    assert raw.mail(ALICE, "keeps@example.com", b"Subject: dots\r\n\r\n" + stuffed).startswith("250")
    assert kept(app) == b"Subject: dots\r\n\r\n" + text + b"\r\n"


def test_empty_mail_is_answered(app, raw):
    raw.say(b"MAIL FROM:<a@people.example>\r\n")
    raw.say(b"RCPT TO:<keeps@example.com>\r\n")
    raw.say(b"DATA\r\n")

    assert raw.say(b".\r\n").startswith("250")
    assert kept(app).strip() == b""


@pytest.mark.parametrize(
    "command",
    [
        b"MAIL FROM:<>",
        b"MAIL FROM:<a@b.example> SIZE=1 BODY=8BITMIME",
        b"MAIL FROM:<a@b.example> RET=HDRS ENVID=x",
        b"mail from: <a@b.example>",
        b"MAIL FROM:<@relay.example,@other.example:a@b.example>",
        b'MAIL FROM:<"a b"@b.example>',
        b"MAIL FROM:<a@[192.0.2.1]>",
    ],
)
def test_sender_syntax_is_accepted(raw, command):
    assert raw.say(command + b"\r\n").startswith("250")


@pytest.mark.parametrize(
    "command, answer",
    [
        (b"MAIL FROM:<j\xc3\xb6rg@b.example>", "553 5.6.7"),
        (b"MAIL FROM:<a\x01@b.example>", "553 5.1.7"),
        (b"MAIL FROM:<a\x00@b.example>", "553 5.1.7"),
        (b"MAIL FROM:<" + b"a" * 250 + b"@b.example>", "553 5.1.7"),
        (b"MAIL FROM:<a@b.example> SIZE=1000001", "552 5.3.4"),
        (b"MAIL FROM:<a@b.example", "501 5.5.4"),
        (b"MAIL FROM:<@relay.example:>", "553 5.1.7"),
        (b"MAIL FROM:<a@b.example>SIZE=1", "501 5.5.4"),
        (b"MAIL", "501 5.5.4"),
        (b"MAIL FROM:<" + b"a" * 5000 + b"@b.example>", "500 5.5.2"),
        (b"\xff\xfe\x00", "500 5.5.2"),
        (b"NOSUCHTHING", "50"),
        (b"VRFY <!\\@[->", "252"),
        (b"EXPN @", "50"),
    ],
)
def test_bad_command_is_refused_and_the_connection_stays_open(raw, command, answer):
    assert raw.say(command + b"\r\n").startswith(answer)
    assert raw.say(b"NOOP\r\n").startswith("250")


@pytest.mark.parametrize(
    "recipient, answer",
    [
        (b"<nobody@example.com>", "550 5.1.1"),
        (b"<news@example.org>", "550 5.1.1"),
        (b"<news@example.com.evil.example>", "550 5.1.1"),
        (b"<n\xc3\xa9ws@example.com>", "553 5.6.7"),
        (b"<>", "550 5.1.1"),
        (b"<news@example.com> NOTIFY=NEVER ORCPT=rfc822;news@example.com", "250"),
        (b"<NEWS@Example.COM>", "250"),
        (b"<postmaster>", "250"),
        (b"<Postmaster@example.com>", "250"),
        (b"<abuse@example.com>", "250"),
        (b"<news@example.com\n>", "550"),
        (b"<news@example.com>\nDATA", "501"),
        (b"\n<news@example.com>", "501"),
    ],
)
def test_recipient_is_accepted_or_refused_at_rcpt(raw, recipient, answer):
    raw.say(b"MAIL FROM:<a@b.example>\r\n")

    assert raw.say(b"RCPT TO:" + recipient + b"\r\n").startswith(answer)


def test_encoded_word_in_a_sender_is_not_decoded(app, raw):
    logged = len(app.logged())
    for word in ("=?utf-8?q?alice?=@people.example", "=?utf-8?q?a=0d=0ab?=@people.example"):
        assert raw.mail(word, "keeps@example.com", MAIL).startswith("250")
        assert f"mail from '{word}'" in app.logged()[logged:]


def test_oversized_mail_costs_no_memory_and_no_connection(app, raw):
    before = memory(app)
    raw.begin("a@b.example", "keeps@example.com")
    for _ in range(500):
        raw.socket.sendall(b"x" * 99_998 + b"\r\n")

    assert raw.say(b".\r\n").startswith("552 5.3.4")
    assert memory(app) < before + 20_000_000
    assert raw.mail(ALICE, "keeps@example.com", MAIL).startswith("250")


def test_mail_of_the_maximum_size_is_accepted(app, raw):
    head = b"Subject: big\r\n\r\n"
    dots = b"..\r\n" * 1000  # RFC 1870, section 5: doubled dots do not count
    body = dots + b"x" * (1_000_000 - len(head) - 3000 - 2)

    assert raw.mail(ALICE, "keeps@example.com", head + body).startswith("250")
    assert raw.mail(ALICE, "keeps@example.com", head + body + b"x").startswith("552")


def test_each_recipient_gets_an_answer(app, raw, sender):
    raw.say(f"MAIL FROM:<{sender}>\r\n".encode())
    raw.say(b"RCPT TO:<news-subscribe@example.com>\r\n")
    second = raw.say(b"RCPT TO:<refuses@example.com>\r\n")
    raw.say(b"DATA\r\n")
    first = raw.say(MAIL + b"\r\n.\r\n")

    assert first.startswith("250")
    wait_until(lambda: any(sender in reply.recipients for reply in app.sink.replies))
    if app.protocol == "lmtp":
        assert second.startswith("250")
        assert raw.answer().startswith("550 5.7.1")
    else:
        assert second.startswith("452 4.5.3")


def test_answer_of_a_handler_is_sent_as_one_line(raw):
    assert raw.mail(ALICE, "refuses@example.com", MAIL) == "550 5.7.1 Nein, sagte er, 250 sch?n"
    assert raw.say(b"NOOP\r\n").startswith("250")


def test_handler_that_exits_does_not_end_the_server(raw):
    assert raw.mail(ALICE, "exits@example.com", MAIL).startswith("451 4.3.0")


def test_handler_that_fails_after_its_reply_changes_and_sends_nothing(app, raw, sender):
    (app.folder / "broken").touch()
    logged = len(app.logged())
    for _ in range(3):
        assert raw.mail(sender, "fails@example.com", MAIL).startswith("451 4.3.0")
    log = app.logged()[logged:]

    assert to(app, sender) == []
    assert log.count("RuntimeError: broken on purpose\n") == log.count("Traceback") == 3
    assert sender in log and "fails@example.com" in log and "<1@people.example>" in log

    (app.folder / "broken").unlink()
    assert raw.mail(sender, "fails@example.com", MAIL).startswith("250")
    wait_until(lambda: to(app, sender))
    assert len(to(app, sender)) == 1


@pytest.mark.parametrize(
    "command, relay, log",
    [
        ("MAIL", "451 4.7.1 later", "WARNING mailroom.outbox: set back"),
        ("RCPT", "550 5.1.1 unknown", "ERROR mailroom.outbox: refused for good"),
        ("RCPT", "450 4.2.0 greylisted", "WARNING mailroom.outbox: set back"),
        ("DATA", "554 5.7.1 spam", "ERROR mailroom.outbox: refused for good"),
        ("DATA", "452 4.3.1 disk", "WARNING mailroom.outbox: set back"),
        ("MAIL", "530 5.7.0 login first", "WARNING mailroom.outbox: outgoing mail waits"),
    ],
)
def test_refusal_of_the_relay_is_logged_and_keeps_no_mail_away(app, raw, sender, command, relay, log):
    logged = len(app.logged())
    app.sink.answers[command] = relay
    assert raw.mail(sender, "news-subscribe@example.com", MAIL).startswith("250")
    whose = "outgoing mail waits" if "login" in relay else f"@example.com> to {sender}: {relay}"
    wait_until(lambda: any(log in line and whose in line for line in app.logged()[logged:].splitlines()))
    app.sink.answers.clear()
    app.sink.replies.clear()
    assert raw.mail(sender, "news@example.com", MAIL).startswith("250")
    wait_until(lambda: app.sink.replies and app.sink.replies[-1]["Subject"].endswith("news is not confirmed yet"))


def test_reply_waits_for_a_relay_that_is_missing(app, raw, sender):
    app.sink.stop()
    assert raw.mail(sender, "news-subscribe@example.com", MAIL).startswith("250")
    app.wait_for_log("outgoing mail waits")
    app.sink.replies.clear()
    app.sink.start()

    (confirmation,) = app.sink.take()
    assert confirmation.sender == "<>"
    assert confirmation["Auto-Submitted"] == "auto-replied"


def to(app, address):
    """Return what the relay has got for an address; what tests before have left waiting may come at any time."""
    return [mail for mail in app.sink.replies if mail.recipients == (address,)]


def test_automated_mail_gets_no_reply(app, raw, sender):
    for header in (b"Auto-Submitted: auto-replied", b"Precedence: bulk", b"List-Id: <x.example>"):
        assert raw.mail(sender, "news-subscribe@example.com", header + b"\r\n" + MAIL).startswith("250")
    assert raw.mail("", "news-subscribe@example.com", MAIL).startswith("250")

    before = len(to(app, "root@localhost"))
    assert raw.mail("", "postmaster@example.com", MAIL).startswith("250")
    wait_until(lambda: len(to(app, "root@localhost")) > before)
    assert to(app, sender) == []


def test_pipelined_mails_are_answered_one_by_one(app, raw):
    mail = b"MAIL FROM:<a@b.example>\r\nRCPT TO:<keeps@example.com>\r\nDATA\r\n" + MAIL + b"\r\n.\r\n"
    sending = threading.Thread(target=raw.socket.sendall, args=(mail * 200,))
    sending.start()
    answers = [raw.answer()[:3] for _ in range(800)]
    sending.join(30)

    assert answers == ["250", "250", "354", "250"] * 200


def test_many_clients_at_once_are_all_served(app):
    sockets = [socket.create_connection(("127.0.0.1", app.port), 60) for _ in range(300)]

    def serve(connection):
        lines = connection.makefile("rb")
        greeting = lines.readline()
        connection.sendall(b"QUIT\r\n")
        return greeting[:3], lines.readline()[:3]

    with ThreadPoolExecutor(20) as pool:
        answers = set(pool.map(serve, sockets))
    for connection in sockets:
        connection.close()

    assert answers == {(b"220", b"221")}


def test_mail_cut_off_in_the_middle_is_not_handled(app, raw):
    (app.folder / "kept").unlink(missing_ok=True)
    other = Raw(app.port, app.protocol)
    other.say(b"MAIL FROM:<a@b.example>\r\n")
    other.say(b"RCPT TO:<keeps@example.com>\r\n")
    other.say(b"DATA\r\n")
    other.socket.sendall(MAIL)
    other.close()

    assert raw.say(b"NOOP\r\n").startswith("250")
    assert not (app.folder / "kept").exists()


REAL = b"""Received: from mx.people.example (mx.people.example [192.0.2.1])
\tby mx.example.com (Postfix) with ESMTPS id 1; Mon, 24 Nov 2025 10:00:00 +0000
From: =?utf-8?q?J=C3=B6rg?= <joerg@people.example>
To: news@example.com
Subject: =?utf-8?b?R3LDvMOfZQ==?=
Message-ID: <2@people.example>
References: <1@people.example>
MIME-Version: 1.0
Content-Type: multipart/mixed; boundary="b"

--b
Content-Type: text/plain; charset=utf-8
Content-Transfer-Encoding: quoted-printable

Gr=C3=BC=C3=9Fe
--b
Content-Type: application/octet-stream; name="x.bin"
Content-Transfer-Encoding: base64

AAECAwQ=
--b--
""".replace(b"\n", b"\r\n")
RUBBISH = [
    b"\x00",
    b"\xff\xfe",
    b"\xc3",
    b"=?x?q?",
    b"=?utf-8?b?!!!?=",
    b"charset=nonsense",
    b"multipart/mixed",
    b"message/rfc822",
    b"\r\n\r\n",
    b"\n",
    b"x" * 3000,
    b"Content-Type: multipart/mixed; boundary=\r\n",
    b"From: \r\n",
    b"Message-ID: \xe4\r\n",
    b":",
    b";",
    b'"',
    b"<",
]


def mutated(seed):
    """Return a real mail with some of it cut out, doubled, or with rubbish put in."""
    chance = random.Random(seed)
    data = REAL
    for _ in range(chance.randint(1, 6)):
        start = chance.randrange(len(data))
        end = min(len(data), start + chance.randint(0, 60))
        data = data[:start] + chance.choice([b"", data[start:end] * 2, chance.choice(RUBBISH)]) + data[end:]
    return data.replace(b"\r\n.", b"\r\n..")


def test_mutated_mails_are_handled_or_refused(app):
    recipients = itertools.cycle(["news@example.com", "keeps@example.com", "postmaster@example.com"])
    before = None
    with Raw(app.port, app.protocol) as raw:
        for seed, recipient in zip(range(500), recipients, strict=False):
            answer = raw.mail(f"m{seed % 50}@people.example", recipient, mutated(seed))
            # What goes on to the postmaster as it came may be too much for the relay: aiosmtpd takes no long lines.
            honest = ("250", "554", "550") if recipient.startswith("postmaster") else ("250", "554")
            assert answer[:3] in honest, (seed, answer)
            if seed == 100:
                before = memory(app)
    assert memory(app) < before + 15_000_000


@pytest.mark.parametrize(
    "data, answer",
    [
        (b"Received: by mx.example\r\n" * 101 + MAIL, "554 5.4.6"),  # it goes round in circles
        (b"Content-Type: message/rfc822\r\n\r\n" * 3000, "554 5.6.0"),  # it is nested beyond reading
        (b"Content-Type: multipart/mixed; boundary=b\r\n" + MAIL + b"\r\n--b\r\n\r\n" * 31_000, "554 5.6.0"),
    ],
)
def test_mail_that_cannot_be_read_is_refused(raw, data, answer):
    assert raw.mail(ALICE, "news@example.com", data).startswith(answer)
    assert raw.mail(ALICE, "news@example.com", MAIL).startswith("250")


def test_answer_to_the_greeting_lists_the_extensions(app):
    with socket.create_connection(("127.0.0.1", app.port), 60) as connection, connection.makefile("rb") as lines:
        lines.readline()
        connection.sendall(b"LHLO probe.example\r\n" if app.protocol == "lmtp" else b"EHLO probe.example\r\n")
        answer = [lines.readline()]
        while answer[-1][3:4] == b"-":
            answer.append(lines.readline())
    offered = {line[4:].strip() for line in answer}

    assert {b"8BITMIME", b"SIZE 1000000"} < offered
    assert app.protocol == "smtp" or {b"PIPELINING", b"ENHANCEDSTATUSCODES"} < offered


def test_urgent_data_closes_the_connection(app, raw):
    """No mail client sends any, and it would be reported for ever."""
    raw.socket.send(b"!", socket.MSG_OOB)

    with suppress(ConnectionResetError):
        assert raw.answer() == ""
    assert "uncaptured" not in app.logged() and "unhandled" not in app.logged()


def set_in_receiver(app, name, value):
    """Give a constant of `mailroom/receiver.py` another value."""
    set_in(app, "receiver", name, value)


def set_in(app, module, name, value):
    """Give a constant of a module of the package another value."""
    module = app.folder / "mailroom" / f"{module}.py"
    text, changed = re.subn(rf"^{name} = \d+", f"{name} = {value}", module.read_text(), flags=re.MULTILINE)
    assert changed == 1
    module.unlink()  # other applications have the same file; see `baking.copy`
    module.write_text(text)


@pytest.mark.parametrize("protocol", ["lmtp", "smtp"])
def test_silent_client_is_closed_with_421(application, protocol):
    """And who does speak stays."""
    app = application(protocol=protocol)
    set_in_receiver(app, "IDLE_SECONDS", 2)
    app.start()
    with Raw(app.port, protocol) as silent, Raw(app.port, protocol) as in_mail, Raw(app.port, protocol) as busy:
        in_mail.begin("a@b.example", "news@example.com")
        in_mail.socket.sendall(b"Subject: half a ma")
        waiting = selectors.DefaultSelector()
        for raw in (silent, in_mail):
            waiting.register(raw.socket, selectors.EVENT_READ, raw)
        deadline = time.monotonic() + 30
        while waiting.get_map():
            assert time.monotonic() < deadline, "nobody got 421"
            for key, _ in waiting.select(0.1):
                assert key.data.answer().startswith("421 4.4.2")
                assert key.data.answer() == ""
                waiting.unregister(key.fileobj)
            assert busy.say(b"NOOP\r\n").startswith("250")
    assert app.terminate() == 0


def test_connection_over_the_limit_takes_the_place_of_the_one_that_has_finished_nothing_for_longest(application):
    app = application()
    set_in_receiver(app, "CONNECTIONS", 4)
    app.start()
    first, in_command, in_mail, busy = taken = [Raw(app.port, "lmtp") for _ in range(4)]
    in_mail.begin(ALICE, "news@example.com")
    for raw in (first, busy):
        assert raw.say(b"NOOP\r\n").startswith("250")
    for octet in b"NOOP":  # no command before its end
        in_command.socket.sendall(bytes([octet]))
    in_mail.socket.sendall(b"Subject: h")
    for expelled in (in_command, in_mail):
        taken.append(Raw(app.port, "lmtp"))
        assert expelled.answer().startswith("421 4.3.2")
        assert all(raw.say(b"NOOP\r\n").startswith("250") for raw in (first, busy, *taken[4:]))
    for raw in taken:
        raw.close()


@pytest.mark.parametrize("clients, drips", [(600, True), (1000, False)])
def test_crowd_that_finishes_nothing_keeps_no_client_out_and_only_512_of_it_stay(app, sender, clients, drips):
    with ExitStack() as stack:
        crowd = [stack.enter_context(socket.create_connection(("127.0.0.1", app.port), 60)) for _ in range(clients)]
        for _ in range(3):
            for one in crowd if drips else ():
                with suppress(OSError):
                    one.sendall(b"N")
            assert_keeps_mail_within_ten_seconds(app, sender)
        wait_until(lambda: sum(map(is_open, crowd)) <= 512, 30)


def test_crowd_that_is_larger_than_the_number_of_files_keeps_no_client_out(application):
    app = application()
    probed(app.folder)
    app.start(preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (100, 100)))
    with ExitStack() as stack:
        for _ in range(150):
            stack.enter_context(socket.create_connection(("127.0.0.1", app.port), 60))
        assert_keeps_mail_within_ten_seconds(app, ALICE)
    assert "cannot take a connection now" not in app.logged()


def assert_keeps_mail_within_ten_seconds(app, sender):
    began = time.monotonic()
    with Raw(app.port, app.protocol) as client:
        assert client.mail(sender, "keeps@example.com", MAIL).startswith("250")
    assert time.monotonic() - began < 10


def is_open(client):
    """Read all that has come; return whether the other side has not hung up."""
    client.setblocking(False)
    try:
        while client.recv(4096):
            pass
    except BlockingIOError:
        return True
    except ConnectionResetError:
        pass
    return False


def test_slow_client_that_sends_its_mail_steadily_is_not_closed(application):
    app = application()
    set_in_receiver(app, "IDLE_SECONDS", 1)
    app.start()
    with Raw(app.port, "lmtp") as raw:
        assert raw.begin(ALICE, "news@example.com").startswith("354")
        began = time.monotonic()
        while time.monotonic() < began + 3:  # longer than silence is borne
            raw.socket.sendall(b"X: " + b"x" * 1000 + b"\r\n")
            time.sleep(0.1)
        assert raw.say(b"\r\nHello.\r\n.\r\n").startswith("250")


def test_clients_wait_when_file_descriptors_run_out(application):
    app = application()
    probed(app.folder)
    app.start()
    assert app.send(ALICE, "few-files")[0] == 250
    waiting = [socket.create_connection(("127.0.0.1", app.port), 60) for _ in range(50)]
    app.wait_for_log("cannot take a connection now")
    for client in waiting:
        client.close()

    with Raw(app.port, "lmtp") as raw:
        assert raw.say(b"NOOP\r\n").startswith("250")
    assert app.terminate() == 0


@pytest.mark.parametrize("protocol", ["lmtp", "smtp"])
def test_client_that_reads_no_answers_is_closed(application, protocol):
    app = application(protocol=protocol)
    set_in_receiver(app, "IDLE_SECONDS", 2)
    app.start()
    before = memory(app)
    with socket.socket() as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)  # fewer answers fit on the way
        deaf.settimeout(1)
        deaf.connect(("127.0.0.1", app.port))
        with pytest.raises(TimeoutError):
            for _ in range(10_000):
                deaf.sendall(b"MAIL\r\n" * 1000)  # the answer is ten times as long
        assert memory(app) < before + 20_000_000
        wait_until(lambda: not has_clients(app.port), 60)
    assert app.terminate() == 0


def has_clients(port):
    """Tell whether a connection to the port is established."""
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return any(line[1].endswith(f":{port:04X}") and line[3] == "01" for line in lines)


@pytest.mark.parametrize("protocol", ["lmtp", "smtp"])
def test_client_that_waited_for_a_busy_handler_is_not_closed(application, protocol):
    app = application(protocol=protocol)
    probed(app.folder)
    set_in_receiver(app, "IDLE_SECONDS", 1)
    app.start()
    with Raw(app.port, protocol) as first, Raw(app.port, protocol) as patient:
        first.begin("a@b.example", "waits@example.com")
        first.socket.sendall(MAIL + b"\r\n.\r\n")
        wait_until((app.folder / "waiting").exists)
        patient.socket.sendall(b"NOOP\r\n")
        time.sleep(2)  # longer than silence is borne
        (app.folder / "go").touch()

        assert first.answer().startswith("250")
        assert first.say(b"NOOP\r\n").startswith("250")
        assert patient.answer().startswith("250")


def test_commands_after_quit_are_not_handled(app, raw, sender):
    commands = [b"QUIT", b"MAIL FROM:<" + sender.encode() + b">", b"RCPT TO:<keeps@example.com>", b"DATA"]
    (app.folder / "kept").unlink(missing_ok=True)
    raw.socket.sendall(b"\r\n".join([*commands, MAIL, b".", b""]))

    assert raw.answer().startswith("221")
    with suppress(ConnectionResetError):
        assert raw.answer() == ""
    assert not (app.folder / "kept").exists()


def test_commands_that_a_web_page_lets_a_browser_post_are_not_obeyed(app, raw, sender):
    post = [b"POST / HTTP/1.1", b"Host: 127.0.0.1", b"", b"LHLO page.example"]
    commands = [b"MAIL FROM:<" + sender.encode() + b">", b"RCPT TO:<keeps@example.com>", b"DATA"]
    (app.folder / "kept").unlink(missing_ok=True)
    raw.socket.sendall(b"\r\n".join([*post, *commands, MAIL, b".", b""]))

    assert raw.answer().startswith("421")
    with suppress(ConnectionResetError):
        assert raw.answer() == ""
    assert not (app.folder / "kept").exists()


@pytest.mark.parametrize("protocol", ["lmtp", "smtp"])
def test_mail_that_ends_after_the_stop_gets_421_and_is_not_handled(application, protocol):
    """It hears 421 and tries again: handled now, the mail would be handled twice."""
    app = application(protocol=protocol)
    probed(app.folder)
    app.start()
    with Raw(app.port, protocol) as first, Raw(app.port, protocol) as late:
        first.begin("a@b.example", "waits@example.com")
        late.begin("a@b.example", "keeps@example.com")
        late.socket.sendall(MAIL)
        first.socket.sendall(MAIL + b"\r\n.\r\n")
        wait_until((app.folder / "waiting").exists)

        app.process.send_signal(signal.SIGTERM)
        wait_until(lambda: not caught(app.process.pid, signal.SIGTERM))
        late.socket.sendall(b"\r\n.\r\n")
        (app.folder / "go").touch()

        assert first.answer().startswith("250")
        with suppress(ConnectionResetError):
            assert late.answer().startswith("421 4.3.2")
    assert app.process.wait(30) == 0
    assert not (app.folder / "kept").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_stop_signal_finishes_the_mail_in_progress(application, number):
    app = application()
    probed(app.folder)
    app.start()
    raw = Raw(app.port, "lmtp")
    raw.begin("a@b.example", "waits@example.com")
    raw.socket.sendall(MAIL + b"\r\n.\r\nMAIL FROM:<next@b.example>\r\n")
    wait_until((app.folder / "waiting").exists)

    app.process.send_signal(number)
    (app.folder / "go").touch()

    assert raw.answer().startswith("250")
    assert raw.answer().startswith("421 4.3.2")
    assert app.process.wait(30) == 0
    raw.close()


def test_second_stop_signal_ends_it_at_once(application):
    app = application()
    probed(app.folder)
    app.start()
    raw = Raw(app.port, "lmtp")
    raw.begin("a@b.example", "waits@example.com")
    raw.socket.sendall(MAIL + b"\r\n.\r\n")
    wait_until((app.folder / "waiting").exists)

    app.process.send_signal(signal.SIGTERM)
    wait_until(lambda: not caught(app.process.pid, signal.SIGTERM))
    app.process.send_signal(signal.SIGTERM)

    assert app.process.wait(30) == -signal.SIGTERM
    assert not (app.folder / "waited").exists()
    raw.close()


def memory(app):
    """Return what the application's process has in memory, in octets."""
    with open(f"/proc/{app.process.pid}/statm") as file:
        return int(file.read().split()[1]) * 4096


def caught(process, number):
    """Tell whether a process has a handler of its own for a signal."""
    with open(f"/proc/{process}/status") as file:
        mask = next(line for line in file if line.startswith("SigCgt:")).split()[1]
    return bool(int(mask, 16) >> (number - 1) & 1)
