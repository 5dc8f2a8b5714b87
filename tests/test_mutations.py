"""Tests notice when code is wrong: those of a generated application its owner's, those of the package the package's."""

import os
import shutil
import sys
from contextlib import contextmanager

import pytest

from tests import warm
from tests.application import Application
from tests.baking import APPLICATION, TEMPLATE, add_compiled_package, bake, without_pytest

HANDLERS = "app/handlers/subscription.py"
STORAGE = "SQLiteStorage(settings.state_database, protected=True)"
STICKY = """
class Sticky(MemoryStorage):
    def clear(self):
        pass


Router.STATE_STORE = Sticky()
"""


@pytest.fixture(scope="module")
def app(tmp_path_factory):
    """An application that is as it was baked again after each test."""
    return Application(bake(tmp_path_factory.mktemp("baked"))).warmed()


@pytest.mark.parametrize(
    "tests, path, right, wrong",
    [
        ("test_subscription.py", HANDLERS, "        return SUBSCRIBED", "        return CONFIRMING"),
        (
            "test_subscription.py",
            HANDLERS,
            'answer(message, "goodbye", list_name)\n        return START',
            "return START",
        ),
        (
            "test_subscription.py",
            HANDLERS,
            "{module}:{re.match(f'({LISTS})({REQUESTS})@', message.To)[1]}",
            "{module}",
        ),
        ("conversations", HANDLERS, 'answer(message, "goodbye", list_name)', "pass"),
        ("test_archive.py", "app/models/posts.py", "ORDER BY id DESC", "ORDER BY id"),
        ("test_archive.py", "app/models/posts.py", "WHERE list_name = ?", "WHERE list_name <> ?"),
        ("test_archive.py", HANDLERS, "        posts.add(", "        print("),
        ("test_archive.py", "config/testing.py", "    tables=posts.create,\n", ""),
        ("conversations", "app/templates/archive.msg", "{{ text }}", ""),
        ("test_postmaster.py", "app/handlers/postmaster.py", "@stateless\n", ""),
        ("test_boot.py", "config/boot.py", STORAGE, 'SQLiteStorage("elsewhere", protected=True)'),
        ("test_boot.py", "config/boot.py", STORAGE, "type(Router.STATE_STORE)()"),  # MemoryStorage
        ("test_boot.py", "config/boot.py", STORAGE, "SQLiteStorage(settings.state_database)"),
        ("test_boot.py", "config/testing.py", "\nRouter.STATE_STORE = MemoryStorage()\n", STICKY),
        ("test_boot.py", "tests/conftest.py", 'pytest_plugins = ["mailroom.testing.plugin"]', ""),
        ("test_subscription.py", "config/testing.py", "\nRouter.STATE_STORE = MemoryStorage()\n", STICKY),
    ],
)
def test_tests_of_an_application_notice_a_fault_of_its_owner(app, tests, path, right, wrong):
    with planted(app.folder / path, right, wrong):
        result = app.run("python", "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", f"tests/{tests}")

    assert result.returncode == 1, result.stdout


# Each fault with a test that notices it, a quick one, or with the quick tests of a storage.
MEMORY, SQLITE = "storage/test_memory.py", "storage/test_sqlite.py"
TRANSACTIONS = "storage/test_transactions.py::test_{}"
CLEARED = "testing/test_plugin.py::test_everything_is_cleared_before_every_test_and_before_every_transcript"
ANY_ORDER = "testing/test_any_order.py::test_fault_in_a_handler_is_found_and_shown_as_a_short_transcript[{}]"
COUNTED_TOO_EARLY = """replies = self._limit_replies(message)
            self.reply_limit.count(message.From, replies)
"""
COMMITTED_ANYWAY = """                here.connected.execute("COMMIT")
"""
PACKAGE = [
    (
        "test_receiver.py::test_mail_over_max_message_size_is_refused[LMTPReceiver]",
        "receiver.py",
        "append(TOO_BIG if is_too_big",
        "append(OK if is_too_big",
    ),
    (
        "test_receiver.py::test_mail_whose_handler_fails_is_answered_451_and_the_log_names_the_handler[LMTPReceiver-None]",
        "receiver.py",
        'answer = "451 4.3.0 The mail',
        'answer = "250 2.0.0 The mail',
    ),
    (
        "test_receiver.py::test_ordinary_mail_is_answered_while_a_slow_handler_runs[LMTPReceiver]",
        "receiver.py",
        "if not is_slow and is_free",
        "if is_free",
    ),
    (
        "test_pool.py::test_mails_of_a_sender_come_one_after_the_other_and_those_that_wait_hold_no_thread",
        "pool.py",
        "if len(queue) == 1:",
        "if True:",
    ),
    (
        "test_pool.py::test_at_most_as_many_slow_mails_at_a_time_as_were_asked_for",
        "pool.py",
        "self._slow + is_slow <= self.size",
        "True",
    ),
    (
        "test_pool.py::test_mail_that_was_cancelled_is_not_handled_and_holds_up_nothing",
        "pool.py",
        "future.set_running_or_notify_cancel()",
        "True",
    ),
    (
        "test_room.py::test_mail_to_an_address_that_does_not_handle_the_state_is_answered_550",
        "room.py",
        "SMTPError(550, ",
        "SMTPError(450, ",
    ),
    (
        "test_room.py::test_domain_in_a_route_is_taken_literally",
        "room.py",
        "host=re.escape(self.domain)",
        "host=self.domain",
    ),
    (
        "test_room.py::test_returning_something_that_is_no_handler_is_an_error[function]",
        "room.py",
        "in message.transaction.changes()",
        "in ()",
    ),
    (
        "test_room.py::test_same_mail_is_handled_once",
        "room.py",
        "message.transaction.handled(_digest(message))",
        "False",
    ),
    ("test_room.py::test_address_gets_at_most_replies_per_hour", "room.py", "if can_come_twice and", "if"),
    (
        "test_room.py::test_address_gets_at_most_replies_per_hour",
        "room.py",
        "message.transaction.mail.remove(envelope)",
        "pass",
    ),
    (
        "test_room.py::test_reply_to_a_mail_that_failed_is_not_counted",
        "room.py",
        "replies = self._limit_replies(message)\n",
        COUNTED_TOO_EARLY,
    ),
    (
        "test_room.py::test_automated_mail_gets_no_reply_and_changes_no_state",
        "loops.py",
        "(bulk|list|junk|auto",
        "(bulk|list|auto",
    ),
    ("test_room.py::test_report_gets_no_reply_whoever_sends_it", "loops.py", "multipart/report", "multipart/nothing"),
    (
        "test_machines.py::test_machine_gets_no_reply_and_no_state",
        "loops.py",
        "sign.weight for sign in found) >= 1",
        "sign.weight for sign in found) > 1",
    ),
    (
        "test_machines.py::test_person_gets_an_answer",
        "loops.py",
        "sign.weight for sign in found) >= 1",
        "sign.weight for sign in found) > 0.5",
    ),
    (
        "test_reply.py::test_two_replies_to_one_mail_have_two_message_ids",
        "message.py",
        "make_msgid(domain=room.domain)",
        "'<1@example.com>'",
    ),
    (
        "test_relay.py::test_mail_goes_to_all_recipients_and_hides_bcc[bare]",
        "envelope.py",
        '("To", "Cc", "Bcc")',
        '("To", "Cc")',
    ),
    (
        "test_signing.py::test_token_is_valid_for_its_name_and_sender",
        "signing.py",
        "and time.time() < expiry",
        "or time.time() < expiry",
    ),
    (SQLITE, "storage/sqlite.py", "if value is None", "if not value"),
    (SQLITE, "storage/tables.py", "if state == ROUTE_FIRST_STATE", "if state == None"),
    (MEMORY, "storage/__init__.py", "return self.storage.is_handled(digest)", "return False"),
    (MEMORY, "storage/__init__.py", "                self.rollback(here)\n", ""),
    (MEMORY, "storage/joined.py", "self.database.commit(here)", "self.database.rollback(here)"),
    (MEMORY, "storage/joined.py", "            here.has_written |= bool(changes)\n", ""),
    (MEMORY, "storage/tables.py", "outbox.store(here)", "pass"),
    (MEMORY, "outbox.py", "if answer.is_yes", "if not answer.is_yes"),
    (MEMORY, "outbox.py", "return answer.is_final or ", "return "),
    (SQLITE, "storage/tables.py", "if here.note and", "if False and"),
    (SQLITE, "storage/sqlite.py", "here.connected.total_changes != here.changes_before", "True"),
    (SQLITE, "storage/tables.py", "self.write(here, here.changes())\n", "pass\n"),
    (SQLITE, "storage/sqlite.py", "            connection.protect()\n", ""),
    (SQLITE, "storage/sqlite.py", "                here.connected.rollback()\n", COMMITTED_ANYWAY),
    (
        TRANSACTIONS.format("unfinished_cursors_are_closed_and_the_wal_stays_short"),
        "storage/sqlite.py",
        "cursor.close()",
        "pass",
    ),
    (TRANSACTIONS.format("note_is_forgotten_after_a_week"), "storage/tables.py", "now - HANDLED_KEPT", "0"),
    (
        TRANSACTIONS.format("handler_that_ends_the_transaction_itself_keeps_no_half_of_a_mail"),
        "storage/joined.py",
        "            self._store(before)\n",
        "",
    ),
    (CLEARED, "testing/plugin.py", "    Router.clear_states()\n", ""),
    (CLEARED, "storage/joined.py", "            self.database.clear()\n", ""),
    (ANY_ORDER.format("row that does not wait for the mail"), "testing/any_order.py", "self.own == own", "True"),
    (ANY_ORDER.format("mail without a note"), "testing/any_order.py", "(result.handlers and data", "(False and data"),
    (
        "testing/test_transcript.py::test_line_that_does_not_hold_is_named_with_what_came_instead",
        "testing/transcript.py",
        "if sent or (",
        "if (",
    ),
    (
        "testing/test_helpers.py::test_assert_in_state_names_the_expected_and_the_actual_state",
        "testing/__init__.py",
        "assert actual == state.__name__,",
        "assert actual,",
    ),
]


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """The folder of a copy of the package and its tests."""
    copy = tmp_path_factory.mktemp("package")
    for folder in (APPLICATION / "mailroom", TEMPLATE / "tests"):
        shutil.copytree(folder, copy / folder.relative_to(TEMPLATE))
    for name in ("cookiecutter.json", "pyproject.toml"):
        shutil.copy(TEMPLATE / name, copy)
    add_compiled_package(copy / APPLICATION.name)
    return copy


@pytest.mark.parametrize("tests, path, right, wrong", PACKAGE, ids=[f"{path}-{wrong}" for _, path, _, wrong in PACKAGE])
def test_tests_of_the_package_notice_a_fault_in_it(package, tests, path, right, wrong):
    with planted(package / APPLICATION.name / "mailroom" / path, right, wrong):
        result = run(package, tests)

    assert result.returncode == 1, result.stdout


def test_tests_of_the_package_pass_in_a_copy_without_a_fault(package):
    result = run(package, *dict.fromkeys(tests for tests, *_ in PACKAGE))

    assert result.returncode == 0, result.stdout


def run(package, *tests):
    """Run tests of the package in the copy at `package`; return the `CompletedProcess`."""
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-n", "0", "-p", "no:cacheprovider"]
    command += [f"tests/mailroom/{name}" for name in tests]
    return warm.run(command, package, without_pytest(os.environ))


@contextmanager
def planted(source, right, wrong):
    """Write `wrong` where `right` stands in a file, which must have it; undo that after the block."""
    text = source.read_text()
    assert right in text
    source.write_text(text.replace(right, wrong))
    try:
        yield
    finally:
        source.write_text(text)
