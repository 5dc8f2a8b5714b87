"""Real life over loopback: a baked application runs, is spoken to, is killed, and goes on."""

import pytest

from tests.baking import STORAGES

ALICE = "alice@people.example"


@pytest.mark.parametrize("protocol", ["lmtp", "smtp"])
@pytest.mark.parametrize("state_storage", STORAGES)
def test_a_conversation_goes_on_after_a_crash(application, sink, state_storage, protocol):
    app = application(state_storage=state_storage, RECEIVER_PROTOCOL=protocol).start()
    assert app.send(ALICE, "news-subscribe")[0] == 250
    (confirmation,) = sink.take()

    app.kill()
    app.start()

    assert app.send(ALICE, confirmation["Reply-To"])[0] == 250
    (welcome,) = sink.take()
    assert welcome["Subject"] == "Welcome to news"
    assert welcome.recipients == (ALICE,)
    assert app.terminate() == 0
