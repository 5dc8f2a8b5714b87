"""A handler gets another name, and the senders who are in its state move to the new one."""

import pytest

from tests.baking import STORAGES

ALICE = "alice@people.example"


@pytest.mark.parametrize("state_storage", STORAGES)
def test_server_does_not_start_while_stored_states_have_no_handler(application, sink, state_storage):
    app = application(state_storage=state_storage).start()
    assert app.send(ALICE, "news-subscribe")[0] == 250
    (confirmation,) = sink.take()
    app.terminate()
    module = app.folder / "app" / "handlers" / "subscription.py"
    module.write_text(module.read_text().replace("CONFIRMING", "ASKED"))

    refused = app.run("salmon", "start", "--no-daemon")
    checked = app.run("python", "operate.py", "check")

    line = (
        "stored states have no handler: app.handlers.subscription.CONFIRMING (1);"
        " for example renamed_states = {'CONFIRMING': 'START'}"
    )
    assert refused.returncode == 1
    assert refused.stderr.splitlines()[-1] == f"ERROR: {line}"
    assert checked.returncode == 1
    assert line in checked.stdout

    settings = app.folder / "config" / "settings.py"
    settings.write_text(settings.read_text().replace("renamed_states = {}", 'renamed_states = {"CONFIRMING": "ASKED"}'))
    app.start()
    assert app.send(ALICE, confirmation["Reply-To"])[0] == 250
    (welcome,) = sink.take()
    assert welcome["Subject"] == "Welcome to news"
