"""What is committed is sent, once, whatever the relay does; the relay is a real server on loopback."""

import os
import smtplib
import time
from email.message import EmailMessage
from threading import Thread
from types import SimpleNamespace

import pytest
from salmon.routing import MemoryStorage, Router

from mailroom import LMTPReceiver, SMTPReceiver, envelope, outbox
from mailroom.outbox import Sending
from mailroom.relay import Answer, Relay
from mailroom.storage import StorageError
from mailroom.storage.sqlalchemy import SQLAlchemyStorage
from mailroom.storage.sqlite import SQLiteStorage
from tests.script import HELLO, ONE_MAIL, Script
from tests.sink import Sink
from tests.waiting import wait_until

ALICE, BOB, CAROL = (f"{name}@people.example" for name in ("alice", "bob", "carol"))


IN_DATABASES = pytest.mark.parametrize("room", ["sqlite", "postgresql"], indirect=True)


@pytest.fixture
def room(request, room, tmp_path, sink, monkeypatch):
    """The `Mailroom` of these tests: an SQLite file or PostgreSQL, and a real relay; it does not wait long."""
    monkeypatch.setattr(outbox, "POLL", 0.05)
    monkeypatch.setattr(outbox, "RESTS", (0.05,))
    if getattr(request, "param", "sqlite") == "postgresql":
        Router.STATE_STORE = SQLAlchemyStorage(request.getfixturevalue("postgresql").new_database())
    else:
        Router.STATE_STORE = SQLiteStorage(tmp_path / "mail.sqlite")
    room.relay = Relay(sink.host, sink.port, timeout=20)
    yield room
    room.stop()
    room.storage.close()


@pytest.fixture
def started(room):
    room.sending.start()
    return room


def mail(text="hello", **headers):
    message = EmailMessage()
    message["From"], message["Subject"] = "news@example.com", text
    message.set_content("Hello.\n")
    return message


def subjects(sink, count, recipient=ALICE):
    wait_until(lambda: sum(recipient in reply.recipients for reply in sink.replies) >= count)
    return [reply["Subject"] for reply in sink.replies if recipient in reply.recipients]


def wait_until_empty(room):
    wait_until(lambda: not outbox.rows(room.storage), 30, lambda: outbox.rows(room.storage))


def test_mail_is_sent_after_its_commit_and_then_forgotten(started, sink):
    with started.transaction():
        started.send(mail(), to=ALICE)
        assert outbox.rows(started.storage) == [] and sink.offered == 0

    assert subjects(sink, 1) == ["hello"]
    wait_until_empty(started)
    assert started.storage.fetch("SELECT count(*) FROM outgoing") == [(0,)]


def test_mail_of_a_transaction_that_fails_is_never_sent(started, sink):
    with pytest.raises(ZeroDivisionError), started.transaction():
        started.send(mail("never"), to=ALICE)
        raise ZeroDivisionError
    started.send(mail("next"), to=ALICE)

    assert subjects(sink, 1) == ["next"]


def test_mail_of_a_process_that_sends_nothing_is_sent_by_one_that_does(room, sink):
    room.send(mail(), to=[ALICE, BOB], sender="bounces@example.com")
    assert [row.recipient for row in outbox.rows(room.storage)] == [ALICE, BOB]
    room.sending.start()

    (sent,) = sink.wait_for()
    assert (sent.sender, sent.recipients) == ("bounces@example.com", (ALICE, BOB))
    assert sent["Auto-Submitted"] == "auto-generated" and sent["Date"] and sent["Message-ID"]


@IN_DATABASES
def test_refusal_for_one_recipient_sets_back_that_one_alone_and_others_overtake_it(started, sink, monkeypatch, caplog):
    monkeypatch.setattr(outbox, "RETRIES", (0.5,))
    sink.answers[BOB] = "450 4.2.0 greylisted"
    started.send(mail("first"), to=[ALICE, BOB, CAROL])
    started.send(mail("second"), to=[ALICE, CAROL])

    assert subjects(sink, 2) == subjects(sink, 2, CAROL) == ["first", "second"]
    (row,) = wait_until(lambda: [row for row in outbox.rows(started.storage) if row.tries])
    assert (row.recipient, row.answer) == (BOB, "450 4.2.0 greylisted")
    sink.answers.clear()
    assert subjects(sink, 1, BOB) == ["first"]
    wait_until_empty(started)
    assert len(sink.replies) == 3


def test_refusal_for_good_is_logged_and_marked_and_the_others_get_the_mail(started, sink, caplog):
    sink.answers[BOB] = "550 5.1.1 no such user"
    message = mail()
    message["Message-ID"] = "<1@example.com>"
    started.send(message, to=[ALICE, BOB, CAROL])

    assert subjects(sink, 1) == subjects(sink, 1, CAROL) == ["hello"]
    (row,) = wait_until(lambda: [row for row in outbox.rows(started.storage) if row.due is None])
    assert (row.recipient, row.tries, row.answer) == (BOB, 1, "550 5.1.1 no such user")
    (line,) = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert "<1@example.com>" in line and BOB in line and "550 5.1.1 no such user" in line


def test_mail_of_five_days_is_given_up_at_its_next_refusal(started, sink, monkeypatch):
    monkeypatch.setattr(outbox, "GIVE_UP", -1)
    sink.answers["RCPT"] = "450 4.2.0 later"
    started.send(mail(), to=ALICE)

    assert wait_until(lambda: [row for row in outbox.rows(started.storage) if row.due is None])


def test_mail_of_five_days_is_given_up_without_a_relay_too(room, sink, monkeypatch, caplog):
    monkeypatch.setattr(outbox, "GIVE_UP", -1)
    sink.stop()
    room.send(mail(), to=ALICE)
    room.sending.start()

    assert wait_until(lambda: [row for row in outbox.rows(room.storage) if row.due is None])


def test_waiting_mail_goes_out_in_order_for_each_recipient_when_the_relay_is_back(started, sink):
    sink.stop()
    for number in range(30):
        started.send(mail(str(number)), to=[ALICE, BOB] if number % 2 else CAROL)
        if number == 10:
            wait_until(lambda: started.sending._failures)
    assert len({row.mail for row in outbox.rows(started.storage)}) == 30
    assert all(row.tries == 0 for row in outbox.rows(started.storage)), "a relay that is down sets back nothing"
    sink.start()

    assert subjects(sink, 15, ALICE) == subjects(sink, 15, BOB) == [str(number) for number in range(1, 30, 2)]
    assert subjects(sink, 15, CAROL) == [str(number) for number in range(0, 30, 2)]
    wait_until_empty(started)


def test_mail_of_a_sender_whom_the_relay_turns_away_holds_up_others_for_a_while_only(started, sink):
    sink.answers["MAIL news@example.com"] = "421 4.7.0 too much mail of this sender"
    started.send(mail("turned away"), to=ALICE)
    started.send(mail("another"), to=BOB, sender="other@example.com")

    assert subjects(sink, 1, BOB) == ["another"]
    wait_until(lambda: [row.recipient for row in outbox.rows(started.storage)] == [ALICE])


def test_relay_that_answers_421_to_new_connections_sets_back_no_mail_and_gets_all_when_it_is_well(started, sink):
    sink.answers["MAIL"] = "421 4.7.0 not now"
    for number in range(30):
        started.send(mail(str(number)), to=ALICE)
    wait_until(lambda: started.sending._failures > 1)
    assert [row.tries for row in outbox.rows(started.storage)] == [0] * 30
    sink.answers.clear()

    assert subjects(sink, 30) == [str(number) for number in range(30)]


@IN_DATABASES
def test_mail_waits_for_an_earlier_one_that_another_worker_is_sending(room, sink):
    other = another_worker(room)
    with sink.held():
        other.start()
        with room.storage.transaction(sending=other) as transaction:
            transaction.send(mail("first"), ALICE)
        wait_until(lambda: sink.offered == 1)
        room.sending.start()
        room.send(mail("second"), to=ALICE)
        room.send(mail("another"), to=BOB)
        assert [row.due <= time.time() for row in outbox.rows(room.storage, "tries = 0")] == [False, True, False]

    assert subjects(sink, 2) == ["first", "second"]
    assert subjects(sink, 1, BOB) == ["another"]
    other.stop(5)


@IN_DATABASES
def test_mail_that_a_worker_is_sending_is_not_sent_by_another_one_when_the_clock_is_set_forward(
    room, sink, monkeypatch
):
    other, clock = another_worker(room), time.time
    other.start()
    room.sending.start()
    with sink.held():
        with room.storage.transaction(sending=other) as transaction:
            transaction.send(mail(), ALICE)
        wait_until(lambda: sink.offered == 1)
        monkeypatch.setattr(time, "time", lambda: clock() + 3600)
        before = time.monotonic()
        wait_until(lambda: sink.offered > 1 or room.sending._next_poll > before + 0.5)

    wait_until_empty(room)
    assert sink.offered == 1
    other.stop(5)


@IN_DATABASES
def test_mails_that_wait_for_an_earlier_one_to_their_recipient_hold_up_nobody_else(room, sink):
    other = another_worker(room)
    other.start()
    with sink.held(), Sink() as another_sink:
        with room.storage.transaction(sending=other) as transaction:
            transaction.send(mail("first"), ALICE)
        wait_until(lambda: sink.offered == 1)
        with room.transaction():
            for _ in range(120):
                room.send(mail("later"), to=ALICE)
            room.send(mail("to Bob"), to=BOB)
        room.relay = Relay(another_sink.host, another_sink.port)
        room.sending.start()

        assert [reply["Subject"] for reply in another_sink.wait_for(1, 10)] == ["to Bob"]
        room.stop()
    other.stop(5)


def another_worker(room):
    """Return the `Sending` of another worker with the same storage and relay."""
    return Sending(SimpleNamespace(storage=room.storage, relay=Relay(room.relay.hostname, room.relay.port)))


@IN_DATABASES
def test_two_workers_send_each_of_many_waiting_mails_once(room, sink):
    many = 1000 if isinstance(room.storage, SQLiteStorage) else 500
    with room.transaction():
        for number in range(many):
            room.send(mail(str(number)), to=f"{number % 7}@people.example")
    other = another_worker(room)
    other.start()
    room.sending.start()
    sink.wait_for(many, 120)
    wait_until_empty(room)
    other.stop(5)

    assert sorted(int(reply["Subject"]) for reply in sink.replies) == list(range(many))
    for name in range(7):
        numbers = [int(reply["Subject"]) for reply in sink.replies if reply.recipients == (f"{name}@people.example",)]
        assert numbers == sorted(numbers)


@IN_DATABASES
def test_mail_that_a_dead_worker_has_claimed_is_sent_when_its_claim_has_ended(room, sink, monkeypatch):
    monkeypatch.setattr(outbox, "QUEUED", -outbox.seconds_for(0) - outbox.MARGIN + 0.5)
    claim_and_die(room)
    (row,) = outbox.rows(room.storage)
    assert row.due > time.time()
    room.sending.start()

    assert subjects(sink, 1) == ["hello"]
    assert time.time() >= row.due


def test_refusal_of_a_mail_whose_claim_has_ended_is_nothing_to_the_worker_that_has_it_now(room):
    room.send(mail(), to=ALICE)
    (parcel,) = outbox.claim_due(room.storage)
    with room.storage.transaction() as here:
        here.connection.execute("UPDATE outbox SET due = due + 1")  # as that other worker does
    due = parcel.due
    outbox.renew(room.storage, parcel)
    parcel.answers = {ALICE: Answer(451, "later")}
    outbox.settle(room.storage, [parcel])

    assert [(row.due, row.tries) for row in outbox.rows(room.storage)] == [(due + 1, 0)]


def claim_and_die(room):
    """Commit a mail as a worker does that claims it, and dies before it sends it."""

    class Dead(Sending):
        def has_room(self, *_):
            return True

        uses_outbox = has_room

        def committed(self, *_):
            pass

    with room.storage.transaction(sending=Dead(room)) as transaction:
        transaction.send(mail(), ALICE)


def test_mail_that_dead_workers_have_claimed_is_sent_at_once_when_no_worker_was_left(room, sink):
    claim_and_die(room)
    room.storage.close()
    Router.STATE_STORE = SQLiteStorage(room.storage.path)  # as a new process opens it
    room.sending.start()

    sink.wait_for(seconds=10)
    wait_until_empty(room)


def test_mail_is_sent_once_when_the_storage_cannot_be_written_after_it(started, sink):
    started.storage.write_timeout = 0.1
    with sink.held():
        started.send(mail(), to=ALICE)
        wait_until(lambda: sink.offered == 1)
        blocker = SQLiteStorage(started.storage.path)
        block = blocker.transaction()
        block.__enter__().connection.execute("SELECT 1")
    wait_until(lambda: started.sending._failures > 2)
    with pytest.raises(StorageError):
        started.send(mail("no"), to=ALICE)
    block.__exit__(None, None, None)
    blocker.close()
    wait_until_empty(started)

    assert subjects(sink, 1) == ["hello"]


@pytest.mark.parametrize("step", range(1, len(ONE_MAIL) + 2))
def test_relay_that_hangs_up_at_any_step_gets_the_mail_when_it_is_well_again(room, monkeypatch, step):
    monkeypatch.setattr(outbox, "RETRIES", (0.05,))
    dialog = [HELLO, *ONE_MAIL]
    broken = [*dialog[: step - 1], (dialog[step - 1][0], None)]
    with Script(broken, broken, [HELLO, *ONE_MAIL, *ONE_MAIL]) as script:
        room.relay = Relay(script.host, script.port)
        room.sending.start()
        room.send(mail("first"), to=ALICE)
        room.send(mail("second"), to=BOB)
        wait_until_empty(room)
        room.relay.close()

    taken = script.contents
    copies = 2 if step == len(dialog) else 0  # their answers got lost
    assert len(taken) == 2 + copies
    assert len({content.partition(b"Message-ID: ")[2][:60] for content in taken}) == 2


def test_silent_relay_holds_up_no_stop_for_long_and_its_mail_is_left_to_others(room, sink, monkeypatch):
    with Script([]) as script:  # it greets, and says nothing more
        room.relay = Relay(script.host, script.port, timeout=2)
        room.sending.start()
        for number in range(3):
            room.send(mail(str(number)), to=ALICE)
        wait_until(lambda: script.heard)
        before = time.monotonic()
        room.sending.stop(0.5)
        assert time.monotonic() < before + 5
        assert [row.due <= time.time() for row in outbox.rows(room.storage)] == [False, True, True]


def test_stop_sends_what_is_ready(started, sink):
    for number in range(20):
        started.send(mail(str(number)), to=ALICE)
    started.stop()

    assert [reply["Subject"] for reply in sink.replies] == [str(number) for number in range(20)]
    assert outbox.rows(started.storage) == []


def test_receiver_that_stops_leaves_the_outbox_to_the_other_one_of_its_process(room, sink, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    receivers = [kind(room, "127.0.0.1", 0) for kind in (LMTPReceiver, SMTPReceiver)]
    threads = [Thread(target=receiver.start, daemon=True) for receiver in receivers]
    for receiver, thread, kind in zip(receivers, threads, (smtplib.LMTP, smtplib.SMTP), strict=True):
        thread.start()
        with kind("127.0.0.1", wait_until(lambda it=receiver: it.port), timeout=10) as client:
            assert client.noop()[0] == 250
    receivers[0].stop()
    threads[0].join()
    with smtplib.SMTP("127.0.0.1", receivers[1].port, timeout=10) as client:
        client.sendmail(ALICE, ["news-subscribe@example.com"], "Subject: hello\r\n\r\nHello.\r\n")

    sink.wait_for(1, 10)
    receivers[1].stop()
    threads[1].join()
    assert not room.sending.is_running()


def test_large_mails_wait_in_the_database_and_not_in_memory(started, sink, monkeypatch):
    monkeypatch.setattr(outbox, "MAX_OCTETS", 10_000)
    with sink.held():
        for number in range(5):
            message = mail(str(number))
            message.set_content(("x" * 70 + "\n") * 60)
            started.send(message, to=ALICE)
        assert started.sending._octets <= 10_000

    assert subjects(sink, 5) == list("01234")


def test_forked_child_sends_nothing_of_its_parent(started, sink):
    with sink.held():
        started.send(mail(), to=ALICE)
        wait_until(lambda: sink.offered == 1)
        child = os.fork()
        if not child:
            os._exit(started.sending.is_running())
        assert os.waitpid(child, 0)[1] == 0

    assert subjects(sink, 1) == ["hello"]
    wait_until_empty(started)


def test_script_with_an_outbox_in_memory_sends_at_once(room, sink):
    Router.STATE_STORE = MemoryStorage()
    room.send(mail(), to=ALICE)

    assert [reply["Subject"] for reply in sink.replies] == ["hello"]


def test_script_with_an_outbox_in_memory_sends_nothing_when_its_states_cannot_be_stored(room, sink, monkeypatch):
    Router.STATE_STORE = MemoryStorage()
    with pytest.raises(StorageError), room.transaction():
        room.storage.set("key", ALICE, "SUBSCRIBED")
        room.send(mail(), to=ALICE)
        monkeypatch.setattr(room.storage.states, "set", lambda *row: int("a fault"))

    assert sink.offered == 0


def test_relay_that_answers_late_to_a_content_gets_it_once(room, sink, monkeypatch):
    monkeypatch.setattr(envelope, "SECONDS", 0.5)
    room.sending.start()
    with sink.held():
        room.send(mail(), to=ALICE)
        wait_until(lambda: [row for row in outbox.rows(room.storage) if row.due > time.time() + 500])

    wait_until_empty(room)
    assert sink.offered == 1


def test_login_that_the_relay_wants_for_one_recipient_holds_up_nobody(started, sink):
    sink.answers[BOB] = "530 5.7.0 log in first"
    started.send(mail("first"), to=[ALICE, BOB])
    started.send(mail("second"), to=CAROL)

    assert subjects(sink, 1) == ["first"] and subjects(sink, 1, CAROL) == ["second"]


def test_mail_waits_for_an_earlier_one_to_more_recipients_than_fit_a_transaction(room, sink):
    crowd = [f"{number:02}@people.example" for number in range(60)]
    room.send(mail("first"), to=crowd)
    room.send(mail("second"), to=crowd[55])
    room.sending.start()

    assert subjects(sink, 2, crowd[55]) == ["first", "second"]
    wait_until_empty(room)


def test_mail_to_1500_recipients_reaches_each_once_and_soon_at_a_relay_that_takes_100_at_once(started, sink):
    sink.most_recipients = 100
    crowd = [f"{number:04}@people.example" for number in range(1500)]
    started.send(mail(), to=crowd)

    wait_until(lambda: sum(len(reply.recipients) for reply in sink.replies) >= 1500)
    wait_until_empty(started)
    assert sorted(recipient for reply in sink.replies for recipient in reply.recipients) == crowd


def test_stop_while_the_relay_is_busy_leaves_only_what_it_has_not_answered(started, sink, monkeypatch):
    monkeypatch.setattr(outbox, "SETTLE_SECONDS", 60)
    started.send(mail("taken"), to=ALICE)
    subjects(sink, 1)
    with sink.held():
        started.send(mail("offered"), to=BOB)
        wait_until(lambda: sink.offered == 2)
        started.sending.stop(0.1)
        assert [row.recipient for row in outbox.rows(started.storage)] == [BOB]
