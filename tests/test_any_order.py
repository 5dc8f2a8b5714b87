"""The any-order test of a generated application finds the faults that its owner might plant."""

import pytest

BUSINESS = "        # Your own business begins here: the subscriber wrote to the list.\n"
GOODBYE = '        answer(message, "goodbye", list_name)\n        return '
NO_STATE = '        answer(message, "received", list_name)\n        return ask_to_confirm\n'


@pytest.fixture
def run(application):
    """A function: run the test in an application whose `subscription.py` has `wrong` for `right`."""

    def run(right, wrong):
        app = application()
        module = app.folder / "app" / "handlers" / "subscription.py"
        code = module.read_text()
        assert right in code
        module.write_text(code.replace(right, wrong))
        test = app.folder / "tests" / "test_any_order.py"
        test.write_text(test.read_text().replace("end_states=[]", "conversations=3"))
        return app.run("python", "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/test_any_order.py")

    return run


def test_planted_fault_is_shown_as_a_transcript(run):
    """`tests/mailroom/testing/test_any_order.py` plants others."""
    ran = run(BUSINESS, NO_STATE)

    assert ran.returncode == 1
    transcript = ran.stdout.partition("a mail was not handled although nothing else failed:\n\n")[2]
    assert "@people.example -> news-subscribe\n" in transcript
    assert "@people.example -> {reply_to_1}\n" in transcript
    assert transcript.count(" -> ") <= 6
    assert "Traceback" not in ran.stdout and "def test_" not in ran.stdout


def test_state_without_a_way_out_is_found_and_may_be_declared(run):
    ran = run(f"{GOODBYE}START\n", f"{GOODBYE}SUBSCRIBED\n")

    assert ran.returncode == 1
    assert "app.handlers.subscription.SUBSCRIBED back to START" in ran.stdout
    assert "play_in_any_order(end_states=['CONFIRMING', 'SUBSCRIBED'])" in ran.stdout


@pytest.mark.cold_start  # in which nothing is imported yet
def test_any_order_test_can_be_deleted_and_rstr_with_it(application):
    app = application()
    (app.folder / "tests" / "test_any_order.py").unlink()
    (app.folder / "rstr.py").write_text("raise ImportError('rstr is not installed')\n")

    ran = app.run("python", "-m", "pytest", "-q", "-p", "no:cacheprovider")

    assert ran.returncode == 0, ran.stdout + ran.stderr
