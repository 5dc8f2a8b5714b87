"""`operate.py diagram` in a generated application draws its conversations."""

import sys

import pytest

from tests import warm
from tests.baking import STORAGES

SAMPLE = """\
stateDiagram-v2
    [*] --> START : (list_name)(request)@(host)
    START --> START : news-archive, news, {of_alice}
    START --> CONFIRMING : news-subscribe
    CONFIRMING --> CONFIRMING : news-confirm-...
    CONFIRMING --> SUBSCRIBED : {of_alice}, {confirm}
    SUBSCRIBED --> START : news-unsubscribe
    SUBSCRIBED --> SUBSCRIBED : news-archive, news, {confirm}
    [*] --> FORWARD : (?:postmaster|(?:postmaster|abuse)@(host))
    FORWARD --> [*]
"""


@pytest.mark.parametrize("state_storage", STORAGES)
def test_sample_is_drawn_from_any_folder_and_nothing_is_kept(application, state_storage, tmp_path):
    app = application(state_storage=state_storage)

    drawn = warm.run([sys.executable, str(app.folder / "operate.py"), "diagram"], tmp_path, app.environment)

    assert drawn.returncode == 0
    assert drawn.stderr == ""
    assert drawn.stdout == SAMPLE
    assert [path.name for path in (app.folder / "run").iterdir()] == [".gitkeep"]


def test_states_without_a_conversation_are_named(application):
    app = application()
    for name in ("archive.txt", "machines.txt", "subscribe.txt", "wrong_token.txt"):
        (app.folder / "tests" / "conversations" / name).unlink()

    drawn = app.run("python", "operate.py", "diagram")

    assert drawn.returncode == 0
    assert "SUBSCRIBED" not in drawn.stdout
    assert drawn.stderr.splitlines() == [
        "No mail in tests/conversations/ reaches app.handlers.subscription.SUBSCRIBED",
        "No mail in tests/conversations/ reaches app.handlers.postmaster.FORWARD",
    ]
