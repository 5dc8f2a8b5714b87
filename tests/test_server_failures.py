"""The server of the states is stopped, killed, and its disk full: mail is answered 451, and handled once in the end."""

from email.message import EmailMessage

import pytest

from tests import mariadb, postgresql
from tests.disk import full, small_disk
from tests.waiting import wait_until

ALICE = "alice@people.example"
POSTS = """
import config.boot
from config import settings
with settings.room.transaction() as transaction:
    connection = transaction.connection
    if hasattr(connection, "exec_driver_sql"):
        print(connection.exec_driver_sql("SELECT count(*) FROM posts").scalar())
    else:
        from app.models.posts import Post
        print(Post.objects.count())
"""
OUTBOX = """
import config.boot
from config import settings
from mailroom import outbox
print(outbox.rows(settings.room.storage))
"""
# Where the driver is another one, its user has it under the name that Django asks for.
DRIVER = "import pymysql\npymysql.install_as_MySQLdb()\n"


def post(number):
    """Return the octets of a mail of 40 kB to the list."""
    mail = EmailMessage()
    mail["From"], mail["To"], mail["Message-ID"] = ALICE, "news@example.com", f"<{number}@people.example>"
    mail.set_content(f"{'x' * 70}\n" * 570)
    return mail.as_bytes()


@pytest.fixture
def server(request, tmp_path):
    """A function: a running server of that kind on a disk of its own, and the URL of an empty database there."""
    if request.param != "postgresql" and not mariadb.IS_THERE:
        pytest.skip(mariadb.REASON)
    size = {"postgresql": 100}.get(request.param, 64)
    with small_disk(tmp_path / "disk", size) as disk:
        if request.param == "postgresql":
            with postgresql.Server(disk) as server:
                yield server, server.new_database(), disk
        else:
            with mariadb.Server(disk / "data") as server:
                yield server, server.new_database(request.param), disk


@pytest.mark.parametrize(
    "state_storage, server",
    [("postgresql", "postgresql"), ("postgresql", "mariadb"), ("django", "mysql")],
    indirect=["server"],
    ids=["SQLAlchemy-PostgreSQL", "SQLAlchemy-MariaDB", "Django-MariaDB"],
)
def test_mail_is_451_and_sends_nothing_while_the_server_cannot_write_and_is_handled_once_after(
    application, sink, state_storage, server
):
    server, url, disk = server
    app = application(state_storage=state_storage, STATE_DATABASE=url, SECRET_KEY="x" * 32, REPLIES_PER_HOUR=1000)
    with open(app.folder / "config" / "__init__.py", "a") as package:
        package.write(DRIVER)
    app.start()
    assert app.send(ALICE, "news-subscribe")[0] == 250
    (confirm,) = sink.take()
    assert app.send(ALICE, confirm["Reply-To"])[0] == 250
    sink.take()

    def answer(mail):
        return app.send_data(ALICE, "news", mail)[0]

    def is_taken(mail):
        if server.process.poll() is not None:  # MariaDB ends itself at some writes for which there is no room
            server.start()
        return answer(mail) == 250

    def is_handled_once(mail):
        wait_until(lambda: is_taken(mail), 60)
        assert answer(mail) == 250

    for go_away in (server.stop, server.kill):
        go_away()
        assert [answer(post(go_away.__name__)) for _ in range(3)] == [451] * 3
        server.start()
        is_handled_once(post(go_away.__name__))
    with full(disk):
        count = next(number for number in range(1000) if answer(post(number)) == 451)
        assert [answer(post(count)) for _ in range(10)] == [451] * 10
    is_handled_once(post(count))

    # A server that was killed may have forgotten that a reply was sent; that leaves again with its Message-ID.
    handled = 2 + count + 1
    wait_until(lambda: len({reply["Message-ID"] for reply in list(sink.replies)}) >= handled, 40)
    wait_until(lambda: app.python(OUTBOX).stdout == "[]\n", 60)
    assert len({reply["Message-ID"] for reply in sink.replies}) == handled
    assert app.python(POSTS).stdout == f"{handled}\n"
