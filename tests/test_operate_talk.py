"""`operate.py talk` as a person meets it: on a terminal and in a pipe."""

import subprocess
import sys

import pexpect
import pytest

from tests.baking import STORAGES

ALICE = "alice@people.example"
SUBSCRIBE = f"""\
# Alice joins.
{ALICE} -> news-subscribe
<- Subject: Please confirm your subscription to news
   Reply-To: {{confirm}}
[CONFIRMING]

{ALICE} -> {{confirm}}
<- Subject: Welcome to news
[SUBSCRIBED]
"""


def talk(application, *options, **more):
    return application.run("python", "operate.py", "talk", *options, **more)


@pytest.mark.parametrize("state_storage", STORAGES)
def test_first_conversation_needs_nothing_and_keeps_nothing(application, state_storage):
    app = application(state_storage=state_storage)

    shown = talk(app, "--demo")

    assert shown.returncode == 0, shown.stderr
    for text in [
        f"{ALICE} -> news-subscribe@example.com",
        "# START, app/handlers/subscription.py:",
        "<- Subject: Please confirm your subscription to news\n   Reply-To: news-confirm-",
        "\n\n   Somebody, hopefully you, wants to subscribe this address to news@example.com.\n   If that is right,",
        "[CONFIRMING]\n",
        "[START]\n",
        "went as tests/conversations/subscribe.txt says",
    ]:
        assert text in shown.stdout
    assert "\033" not in shown.stdout
    assert shown.stderr == ""
    assert [path.name for path in (app.folder / "run").iterdir()] == [".gitkeep"]


def test_exit_status_of_talk_tells_whether_a_transcript_holds(application, tmp_path):
    app = application()

    right = talk(app, input=SUBSCRIBE)
    wrong = talk(app, "--script", "-", input=SUBSCRIBE.replace("[SUBSCRIBED]", "[START]"))
    (tmp_path / "elsewhere.txt").write_text(SUBSCRIBE + "nonsense\n")
    program = [sys.executable, str(app.folder / "operate.py"), "talk", "--script", "elsewhere.txt"]
    broken = subprocess.run(program, cwd=tmp_path, env=app.environment, capture_output=True, text=True)

    assert right.returncode == 0, right.stderr
    assert "Alice joins." in right.stdout
    assert wrong.returncode == 1
    assert "line 9 does not hold:\n\n    [START]\n\nThis came instead:" in wrong.stderr
    assert wrong.stderr.rstrip().endswith("[SUBSCRIBED]")
    assert broken.returncode == 1
    assert "elsewhere.txt, line 10: 'nonsense'" in broken.stderr


def test_conversation_is_typed_on_a_terminal_and_recorded(application, tmp_path):
    app = application()
    person = pexpect.spawn(
        sys.executable,
        [str(app.folder / "operate.py"), "talk", "--record", "typed.txt"],
        cwd=str(tmp_path),
        env={**app.environment, "TERM": "xterm"},
        encoding="utf-8",
        timeout=30,
    )

    def write(*answers):
        for question, answer in zip(["From ", "To ", "Subject ", "Text, "], answers, strict=True):
            person.expect(f"{question}.*: ")
            person.sendline(answer)

    write("", "news-subscribe", "", "")
    person.expect_exact("\033[32m[CONFIRMING]\033[0m")
    write("", "", "", "")
    person.expect_exact("\033[32m[SUBSCRIBED]\033[0m")
    write("", "", "Lunch", "Who joins?\n\nI do.\n.")
    person.expect_exact("Your mail to news has arrived")
    write("<>", "news", "", "")
    person.expect_exact("# automated mail")
    write("alice@", "news", "", "")
    person.expect_exact("Error: From: 'alice@' cannot be written in a mail; for example alice@people.example")
    write("eve@people.example", "nobody", "", "")
    person.expect_exact("550 5.1.1")
    person.expect("From ")
    person.sendeof()
    person.expect(pexpect.EOF)
    person.close()

    assert person.exitstatus == 0
    typed = (tmp_path / "typed.txt").read_text()
    assert f"{ALICE} -> {{reply_to_1}}\n<- Subject: Welcome to news\n[SUBSCRIBED]\n" in typed
    assert "    Subject: Lunch\n\n    Who joins?\n\n    I do.\n" in typed
    again = talk(app, "--script", str(tmp_path / "typed.txt"))
    assert again.returncode == 0, again.stderr


def test_mail_in_a_file_is_delivered(application, tmp_path):
    app = application()
    file = tmp_path / "mail.eml"
    file.write_bytes(b"From: Bob <bob@people.example>\r\nTo: news-subscribe@example.com\r\n\r\nHi\r\n")

    taken = talk(app, "--eml", str(file))
    refused = talk(app, "--eml", str(file), "--from", "<>", "--to", "nobody")

    assert taken.returncode == 0, taken.stderr
    assert "bob@people.example -> news-subscribe@example.com" in taken.stdout
    assert "[CONFIRMING]" in taken.stdout
    assert refused.returncode == 1
    assert "<> -> nobody@example.com" in refused.stdout
    assert "550 5.1.1" in refused.stdout


@pytest.mark.parametrize("state_storage", STORAGES)
def test_talk_changes_stored_states_only_with_states_real(application, state_storage):
    app = application(state_storage=state_storage)
    leave = f"{ALICE} -> news-unsubscribe\n<- Subject: Goodbye from news\n[START]\n"

    def kept():
        return app.run("python", "operate.py", "states", "show", ALICE).stdout

    app.run("python", "operate.py", "states", "set", ALICE, "SUBSCRIBED", "--to", "news", check=True)
    stranger = talk(app, input=leave)
    copy = talk(app, "--states", "copy", input=leave)
    between = kept()
    real = talk(app, "--states", "real", input=leave)

    assert stranger.returncode == 1
    assert copy.returncode == 0, copy.stderr
    assert "SUBSCRIBED" in between
    assert real.returncode == 0, real.stderr
    assert "SUBSCRIBED" not in kept()


@pytest.mark.parametrize("state_storage", STORAGES)
def test_talk_changes_own_tables_only_with_states_real(application, state_storage):
    app = application(state_storage=state_storage)
    app.run("python", "operate.py", "states", "set", ALICE, "SUBSCRIBED", "--to", "news", check=True)
    write = f"{ALICE} -> news\n    Subject: Lunch\n<-\n[SUBSCRIBED]\n\n"
    archive = f"{ALICE} -> news-archive\n<-\n\n   From: {ALICE}\n   Subject: Lunch\n   Hello.\n"
    empty = f"{ALICE} -> news-archive\n<-\n\n   Nobody has written to news yet.\n"

    def goes(states, script):
        shown = talk(app, "--states", states, input=script)
        assert shown.returncode == 0, shown.stdout + shown.stderr

    talk(app, input=SUBSCRIBE + "\n" + write)
    goes("copy", empty + "\n" + write + archive)
    goes("copy", empty)
    goes("real", empty + "\n" + write + archive)
    if state_storage == "sqlite":  # with a shelf, own tables end with the process
        goes("copy", archive)
        goes("real", archive)


def test_mail_that_was_handled_before_is_handled_again_in_a_copy(application, tmp_path):
    app = application()
    (tmp_path / "mail.eml").write_text(f"From: {ALICE}\nTo: news\nMessage-ID: <1@people.example>\n\nHello.\n")
    app.run("python", "operate.py", "states", "set", ALICE, "SUBSCRIBED", "--to", "news", check=True)
    mail = "--eml", str(tmp_path / "mail.eml"), "--states"

    assert "# SUBSCRIBED, app/" in talk(app, *mail, "real").stdout
    assert "# handled before" in talk(app, *mail, "real").stdout
    assert "# SUBSCRIBED, app/" in talk(app, *mail, "copy").stdout


def test_reply_over_the_limit_is_noted(application):
    app = application(REPLIES_PER_HOUR="1")

    shown = talk(app, "--states", "copy", input=f"{ALICE} -> news-subscribe\n<-\n\n{ALICE} -> news\n[CONFIRMING]\n")

    assert shown.returncode == 0, shown.stdout + shown.stderr
    assert "[CONFIRMING]\n# replies_per_hour is reached\n" in shown.stdout


def test_text_from_a_mail_cannot_move_the_cursor(application):
    app = application()
    template = app.folder / "app" / "templates" / "confirm.msg"
    template.write_text("Hello \033[2J\n\nThere \033[2J\a\n")

    shown = talk(app, input=f"{ALICE} -> news-subscribe\n<-\n")

    assert shown.returncode == 0, shown.stderr
    assert "There" in shown.stdout
    assert not {"\033", "\a"} & set(shown.stdout)


def test_demo_without_its_transcript_names_the_missing_file(application):
    app = application()
    (app.folder / "tests" / "conversations" / "subscribe.txt").unlink()

    shown = talk(app, "--demo")

    assert shown.returncode == 2
    refusal = "Error: Invalid value: 'tests/conversations/subscribe.txt': No such file or directory"
    assert shown.stderr.splitlines()[-1] == refusal


@pytest.mark.parametrize(
    "options, reason",
    [
        (["--demo", "--script", "-"], "--demo and --script do not go together; give one of them"),
        (["--demo", "--record", "new.txt"], "--record is for mails that you type; --demo does not go with it"),
        (["--eml", "README.md"], "--eml README.md names no recipient; give --to, for example --to news"),
    ],
)
def test_options_without_effect_are_refused(application, options, reason):
    app = application()

    refused = talk(app, *options)

    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr.splitlines()[-1] == f"Error: {reason}"
    assert not (app.folder / "new.txt").exists()


def test_terminal_that_cannot_show_a_letter_shows_a_question_mark(application, tmp_path):
    app = application()
    (tmp_path / "mail.eml").write_text(f"From: {ALICE}\nTo: postmaster@example.com\n\nSnow ☃\n", encoding="utf-8")
    program = [sys.executable, str(app.folder / "operate.py"), "talk", "--eml", str(tmp_path / "mail.eml")]
    environment = {**app.environment, "PYTHONIOENCODING": "latin-1"}

    shown = subprocess.run(program, cwd=app.folder, env=environment, capture_output=True, text=True)

    assert shown.returncode == 0, shown.stderr
    assert "   Snow ?\n" in shown.stdout
