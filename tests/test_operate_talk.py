"""`operate.py talk` as a person meets it: on a terminal, in a pipe, and against a server that runs."""

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
def test_the_first_conversation_needs_nothing_and_keeps_nothing(application, state_storage):
    app = application(state_storage=state_storage)

    shown = talk(app, "--demo")

    assert shown.returncode == 0, shown.stderr
    for text in [
        f"{ALICE} -> news-subscribe@example.com",
        "handler  START  app/handlers/subscription.py:",
        "state    START -> CONFIRMING",
        "reply    Please confirm your subscription to news",
        "Reply-To: news-confirm-",
        "| If that is right, reply to this mail.",
        "state    SUBSCRIBED -> START",
        "went as tests/conversations/subscribe.txt says",
    ]:
        assert text in shown.stdout
    assert "\033" not in shown.stdout
    assert shown.stderr == ""
    assert [path.name for path in (app.folder / "run").iterdir()] == [".gitkeep"]


def test_a_transcript_in_a_pipe_says_with_its_status_whether_it_holds(application, tmp_path):
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


def test_a_conversation_is_typed_on_a_terminal_and_recorded(application, tmp_path):
    app = application()
    person = pexpect.spawn(
        sys.executable,
        ["operate.py", "talk", "--record", str(tmp_path / "typed.txt")],
        cwd=str(app.folder),
        env={**app.environment, "TERM": "xterm"},
        encoding="utf-8",
        timeout=30,
    )

    def write(*answers):
        for question, answer in zip(["From ", "To ", "Subject ", "Text, "], answers, strict=True):
            person.expect(f"{question}.*: ")
            person.sendline(answer)

    write("", "", "", "")
    person.expect_exact("START -> \033[32mCONFIRMING\033[0m")
    write("", "", "", "")
    person.expect_exact("CONFIRMING -> \033[32mSUBSCRIBED\033[0m")
    write("", "", "Lunch", "Who joins?\n\nI do.\n.")
    person.expect_exact("Your mail to news has arrived")
    write("<>", "news", "", "")
    person.expect_exact("ignored  it comes from a machine")
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


def test_a_mail_from_a_file(application, tmp_path):
    app = application()
    file = tmp_path / "mail.eml"
    file.write_bytes(b"From: Bob <bob@people.example>\r\nTo: news-subscribe@example.com\r\n\r\nHi\r\n")

    taken = talk(app, "--eml", str(file))
    refused = talk(app, "--eml", str(file), "--from", "<>", "--to", "nobody")

    assert taken.returncode == 0, taken.stderr
    assert "bob@people.example -> news-subscribe@example.com" in taken.stdout
    assert "START -> CONFIRMING" in taken.stdout
    assert refused.returncode == 1
    assert "<> -> nobody@example.com" in refused.stdout
    assert "550 5.1.1" in refused.stdout


@pytest.mark.parametrize("state_storage", STORAGES)
def test_the_real_states_are_changed_only_when_told_to(application, state_storage):
    app = application(state_storage=state_storage)
    leave = f"{ALICE} -> news-unsubscribe\n<- Subject: Goodbye from news\n[START]\n"

    def kept():
        return app.run("python", "operate.py", "states", "show", ALICE).stdout

    app.run("python", "operate.py", "states", "set", ALICE, "SUBSCRIBED", check=True)
    stranger = talk(app, input=leave)
    copy = talk(app, "--states", "copy", input=leave)
    between = kept()
    real = talk(app, "--states", "real", input=leave)

    assert stranger.returncode == 1
    assert copy.returncode == 0, copy.stderr
    assert "SUBSCRIBED" in between
    assert real.returncode == 0, real.stderr
    assert "SUBSCRIBED" not in kept()


def test_text_from_a_mail_cannot_move_the_cursor(application):
    app = application()
    template = app.folder / "app" / "templates" / "confirm.msg"
    template.write_text("Hello \033[2J\n\nThere \033[2J\a\n")

    shown = talk(app, input=f"{ALICE} -> news-subscribe\n<-\n")

    assert shown.returncode == 0, shown.stderr
    assert "There" in shown.stdout
    assert not {"\033", "\a"} & set(shown.stdout)


@pytest.mark.parametrize("protocol", ["lmtp", "smtp"])
def test_a_server_that_runs_is_talked_to_over_the_wire(application, sink, protocol):
    app = application(RECEIVER_PROTOCOL=protocol).start()
    address = f"127.0.0.1:{app.port}"
    sink.stop()  # `talk` listens in its place

    right = talk(app, "--against", address, "--sink", input=SUBSCRIBE)
    wrong = talk(app, "--against", address, "--sink", input=f"{ALICE} -> news\n<- Subject: Goodbye\n")
    refused = talk(app, "--against", address, input="eve@people.example -> nobody\n550\n")

    assert right.returncode == 0, right.stderr
    assert "Welcome to news" in right.stdout
    assert wrong.returncode == 1
    assert "<- Subject: Your mail to news has arrived" in wrong.stderr
    assert refused.returncode == 0, refused.stderr


def test_what_is_said_to_a_server_is_recorded_where_no_reply_is_seen(application, tmp_path):
    app = application().start()
    person = pexpect.spawn(
        sys.executable,
        ["operate.py", "talk", "--against", f"127.0.0.1:{app.port}", "--record", str(tmp_path / "typed.txt")],
        cwd=str(app.folder),
        env=app.environment,
        encoding="utf-8",
        timeout=30,
    )
    for question, answer in [("From ", ALICE), ("To ", "news"), ("Subject ", "Lunch"), ("Text, ", "")]:
        person.expect(f"{question}.*: ")
        person.sendline(answer)
    person.expect("From ")
    person.sendeof()
    person.expect(pexpect.EOF)
    person.close()

    assert person.exitstatus == 0
    assert f"{ALICE} -> news\n    Subject: Lunch\n" in (tmp_path / "typed.txt").read_text()


def test_a_demo_whose_transcript_was_deleted(application):
    app = application()
    (app.folder / "tests" / "conversations" / "subscribe.txt").unlink()

    shown = talk(app, "--demo")

    assert shown.returncode == 1
    assert shown.stderr.startswith("Error: ") and "tests/conversations/subscribe.txt" in shown.stderr
    assert shown.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "options, reason",
    [
        (["--demo", "--script", "-"], "--demo and --script do not go together; give one of them"),
        (["--demo", "--record", "new.txt"], "--record writes down what is typed; leave out --demo, --script and --eml"),
        (["--sink"], "--sink needs the server that sends; for example --against 127.0.0.1:8823 --sink"),
        (["--states", "real", "--against", "127.0.0.1:1"], "--states real is for a conversation without --against"),
        (["--eml", "README.md"], "--eml README.md has no To; give --to, for example --to news"),
    ],
)
def test_options_that_would_have_no_effect(application, options, reason):
    app = application()

    refused = talk(app, *options)

    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr.splitlines()[-1] == f"Error: {reason}"
    assert not (app.folder / "new.txt").exists()


def test_a_server_that_does_not_run(application):
    app = application()

    nobody = talk(app, "--against", "127.0.0.1:1", "--demo")
    nonsense = talk(app, "--against", "nonsense", "--demo")

    assert nobody.returncode == 1
    assert nobody.stderr.startswith("Error: --against 127.0.0.1:1 does not talk with us:")
    assert nonsense.returncode == 2
    assert "'nonsense' must be a host and a port; for example 127.0.0.1:8823" in nonsense.stderr
