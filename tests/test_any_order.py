"""The model check of a generated application finds the faults that its owner might plant."""

import pytest

FAULTS = {
    "a function that is no state": (
        "        answer(message, 'received.msg', list_name)\n        return ask_to_confirm\n",
        "a mail was not handled, without any trouble",
    ),
    "an exception": ("        raise KeyError(request)\n", "a mail was not handled, without any trouble"),
    "a change outside of the conversation": (
        "        from salmon.routing import Router\n"
        "        Router.STATE_STORE.storage.set(f'{__name__}:{list_name}', 'eve@people.example', 'SUBSCRIBED')\n",
        "the stored states are not those that the handlers returned",
    ),
    "a mail that does not wait": (
        "        from app.mail.relay import Envelope\n"
        "        settings.relay.send_now(Envelope('<>', ('eve@people.example',), b'Subject: hi\\r\\n\\r\\n'))\n",
        "a mail that failed sent something",
    ),
}


def check(application):
    """Run the model check; return its output, or None when all is well."""
    ran = application.run(
        "python", "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/conversations/test_any_order.py"
    )
    return ran.stdout if ran.returncode else None


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_found_and_told_as_a_transcript(application, fault):
    planted, broken = FAULTS[fault]
    app = application()
    module = app.folder / "app" / "handlers" / "subscription.py"
    line = "        # Your own business begins here: the subscriber wrote to the list.\n"
    code = module.read_text()
    assert line in code
    module.write_text(code.replace(line, planted))

    found = check(app)

    assert found and broken in found
    transcript = found.partition(f"{broken}:\n")[2]
    assert "@people.example -> news-subscribe\n" in transcript
    assert "@people.example -> {reply_to_1}\n" in transcript
    assert transcript.count(" -> ") <= 6


def test_a_handler_that_answers_machines_is_found(application):
    app = application()
    module = app.folder / "app" / "handlers" / "postmaster.py"
    module.write_text(module.read_text() + "    settings.relay.deliver(message, To=message.From, From='<>')\n")

    assert "a machine was answered:" in check(app)


def test_a_state_without_a_way_out_is_found(application):
    app = application()
    module = app.folder / "app" / "handlers" / "subscription.py"
    goodbye = '        answer(message, "goodbye.msg", list_name)\n        return '
    module.write_text(module.read_text().replace(f"{goodbye}START\n", f"{goodbye}SUBSCRIBED\n"))

    assert "in app.handlers.subscription, no way leads from CONFIRMING, SUBSCRIBED to START" in check(app)
