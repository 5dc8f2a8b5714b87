"""The outbox of a running application: killed workers, large mail, a script, and what the operator sees."""

import sys

import pytest

from tests.raw import Raw
from tests.waiting import wait_until

ALICE = "alice@people.example"


def written(app):
    """Return how many octets the server has written to files."""
    with open(f"/proc/{app.process.pid}/io") as counters:
        return int(dict(line.split(": ") for line in counters)["wchar"])


@pytest.mark.skipif(sys.platform != "linux", reason="counts octets in /proc")
def test_forward_of_ten_megabytes_is_written_to_the_disk_twice_at_most(application, sink):
    app = application(MAX_MESSAGE_SIZE="11000000").start()
    mail = b"Subject: large\r\n\r\n" + (b"x" * 98 + b"\r\n") * 100_000
    before = written(app)
    for number in range(3):
        with Raw(app.port, "lmtp") as raw:
            assert raw.mail(ALICE, app.address("postmaster"), b"Message-ID: <%d@a>\r\n" % number + mail).startswith(
                "250"
            )
        sink.take()
    wait_until(lambda: "0 in all" in app.run("python", "operate.py", "outbox").stdout)

    assert written(app) - before <= 3 * 25_000_000


SCRIPT = """
from email.message import EmailMessage
import config.boot
from config import settings

mail = EmailMessage()
mail["From"], mail["Subject"] = "news@example.com", "The news"
mail.set_content("Here they are.")
mail.add_attachment(bytes(range(256)) * 1000, "application", "octet-stream", filename="news.bin")
settings.room.send(mail, to=["alice@people.example", "bob@people.example"], sender="bounces@example.com")
"""


@pytest.mark.parametrize("state_storage", ["sqlite", "postgresql", "django"])
def test_mail_of_a_script_is_sent_by_the_running_server(application, sink, state_storage):
    app = application(state_storage=state_storage).start()
    assert app.run("python", "-c", SCRIPT).returncode == 0

    (sent,) = sink.take()
    assert (sent.sender, sent.recipients) == ("bounces@example.com", (ALICE, "bob@people.example"))
    assert next(sent.message.iter_attachments()).get_content() == bytes(range(256)) * 1000
    assert sent["Date"] and sent["Message-ID"] and sent["Auto-Submitted"] == "auto-generated"


def test_mail_of_a_script_waits_until_a_server_starts(application, sink):
    app = application()
    assert app.run("python", "-c", SCRIPT).returncode == 0
    listed = app.run("python", "operate.py", "outbox").stdout
    assert ALICE in listed and "2 in all" in listed and sink.offered == 0
    app.start()

    sink.take()


def test_slow_relay_delays_no_mail_and_no_stop(application, sink):
    app = application().start()
    with sink.held():
        for number in range(5):
            assert app.send(f"{number}@people.example", "news-subscribe")[0] == 250
        wait_until(lambda: sink.offered == 1)
        assert app.terminate(seconds=15) == 0
    app.start()

    wait_until(lambda: len({reply.recipients for reply in sink.replies}) == 5)
