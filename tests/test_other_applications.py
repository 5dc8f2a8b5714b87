"""Applications whose owners wrote handlers, texts and transcripts, or other names, and nothing else.

`applications` has two in the place of the sample. Whatever was generated beside the sample goes on as it is.
"""

import shutil
from pathlib import Path

import pytest

APPLICATIONS = Path(__file__).parent / "applications"
MACHINES = {
    "helpdesk": [
        "    [*] --> START : help@(host)",
        "    START --> URGENT : says(message, 'urgent')",
        "    START --> ASKED : otherwise",
        "    ASKED --> RATING : says(message, 'solved')",
        "    ASKED --> URGENT : says(message, 'urgent')",
        "    ASKED --> ASKED",
        "    URGENT --> RATING : says(message, 'solved')",
        "    URGENT --> URGENT",
        "    RATING --> URGENT : says(message, 'urgent')",
        "    RATING --> ASKED : otherwise",
        "    RATING --> START",
    ],
    "survey": [
        "    [*] --> START : survey@(host)",
        "    START --> WEATHER",
        "    WEATHER --> FOOD : is_answer(message)",
        "    WEATHER --> WEATHER",
        "    FOOD --> SLEEP : is_answer(message)",
        "    FOOD --> FOOD",
        "    SLEEP --> SLEEP",
        "    SLEEP --> START",
    ],
}
FAULTS = {
    "helpdesk": ('"solved.msg", RATING', '"solved.msg", ASKED', "[RATING]", "[ASKED]"),
    "survey": ("SLEEP if", "FOOD if", "<- Subject: Do you like the sleep?", "<- Subject: Do you like the food?"),
}


@pytest.fixture(params=sorted(MACHINES))
def other(request, application):
    """The application of that name, in the place of the sample; with its name."""
    app = application()
    for place, kind in (("app/handlers", "py"), ("app/templates", "msg"), ("tests/conversations", "txt")):
        if kind != "py":
            for sample in (app.folder / place).glob(f"*.{kind}"):
                sample.unlink()
        for file in (APPLICATIONS / request.param / Path(place).name).glob(f"*.{kind}"):
            shutil.copy(file, app.folder / place)
    for sample in ("app/handlers/subscription.py", "tests/handlers/test_subscription.py"):
        (app.folder / sample).unlink()
    (handlers,) = (APPLICATIONS / request.param / "handlers").glob("*.py")
    settings = app.folder / "config" / "settings.py"
    settings.write_text(settings.read_text().replace("handlers.subscription", f"handlers.{handlers.stem}"))
    return request.param, app, app.folder / "app" / "handlers" / handlers.name


def test_its_transcripts_hold_and_so_do_all_tests_that_were_generated(other):
    name, app, _ = other
    app.run("python", "operate.py", "diagram", "--write", check=True)

    tested = app.run("python", "-m", "pytest", "-q")
    checked = app.run("python", "operate.py", "check")

    assert tested.returncode == 0, tested.stdout
    assert checked.returncode == 0, checked.stdout
    drawn = (app.folder / "states.mmd").read_text().splitlines()
    assert [line for line in drawn if line in MACHINES[name]] == MACHINES[name]


def test_a_planted_fault_is_told_by_the_transcript(other):
    name, app, handlers = other
    right, wrong, expected, came = FAULTS[name]
    assert right in handlers.read_text()
    handlers.write_text(handlers.read_text().replace(right, wrong))

    tested = app.run("python", "-m", "pytest", "-q", "tests/conversations/test_conversations.py")

    assert tested.returncode == 1
    told = tested.stdout.partition(" does not hold:\n")[2]
    assert told.startswith(f"\n    {expected}\n\nThis came instead:\n")
    assert came in told


@pytest.mark.parametrize("old, new", [("CONFIRMING", "ASKED"), ("news", "dev")])
def test_a_state_or_a_list_has_its_name_in_the_sample_and_its_tests_only(application, old, new):
    app = application()
    for pattern in ("app/handlers/*.py", "config/settings.py", "tests/handlers/*.py", "tests/conversations/*.txt"):
        for file in app.folder.glob(pattern):
            file.write_text(file.read_text().replace(old, new))
    app.run("python", "operate.py", "diagram", "--write", check=True)

    tested = app.run("python", "-m", "pytest", "-q")

    assert tested.returncode == 0, tested.stdout
