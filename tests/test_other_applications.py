"""Applications whose owners wrote handlers, tables, templates, transcripts and settings, or other names, and nothing else.

`applications` has three in the place of the sample. No file of `mailroom/` or `deploy/` is changed for them.
"""

import re
import shutil
from pathlib import Path

import pytest

APPLICATIONS = Path(__file__).parent / "applications"
SETTINGS = {  # instead of those of the sample
    "helpdesk": "",
    "survey": "",
    "lunch": 'guests = env.list("GUESTS", ["ann@people.example", "ben@people.example"])\n',
}
END_STATES = {"helpdesk": [], "survey": [], "lunch": ["COMES", "DECLINED"]}
MOVES = {
    "helpdesk": [
        "    START --> ASKED : help",
        "    ASKED --> URGENT : help",
        "    ASKED --> RATING : help",
        "    URGENT --> RATING : help",
        "    RATING --> START : help",
        "    RATING --> ASKED : help",
    ],
    "survey": [
        "    START --> WEATHER : survey",
        "    WEATHER --> FOOD : survey",
        "    FOOD --> FOOD : survey",
        "    FOOD --> SLEEP : survey",
        "    SLEEP --> START : survey",
    ],
    "lunch": [
        "    START --> ASKED : lunch",
        "    ASKED --> ASKED : lunch",
        "    ASKED --> COMES : {lunch}, lunch",
        "    COMES --> DECLINED : lunch",
    ],
}
FAULTS = {
    "helpdesk": ('"solved.msg", RATING', '"solved.msg", ASKED', "[RATING]", "[ASKED]"),
    "survey": ("SLEEP if", "FOOD if", "<- Subject: Do you like the sleep?", "<- Subject: Do you like the food?"),
    "lunch": ("return COMES", "return ASKED", "[COMES]", "[ASKED]"),
}


@pytest.fixture(params=sorted(MOVES))
def other(request, application):
    """The application of that name, in the place of the sample: its name, itself, and its file of handlers."""
    name = request.param
    app = application()
    for place, kind in (("app/handlers", "py"), ("app/templates", "msg"), ("tests/conversations", "txt")):
        if kind != "py":
            for sample in (app.folder / place).glob(f"*.{kind}"):
                sample.unlink()
        for file in (APPLICATIONS / name / Path(place).name).glob(f"*.{kind}"):
            shutil.copy(file, app.folder / place)
    for sample in ("app/handlers/subscription.py", "tests/test_subscription.py", "tests/test_archive.py"):
        (app.folder / sample).unlink()
    (handlers,) = (APPLICATIONS / name / "handlers").glob("*.py")
    for model in (APPLICATIONS / name / "models").glob("*.py"):
        shutil.copy(model, app.folder / "app" / "models")
        for config in ("boot.py", "testing.py"):
            config = app.folder / "config" / config
            config.write_text(config.read_text().replace("posts", model.stem))
    settings = app.folder / "config" / "settings.py"
    text, replaced = re.subn(r"^lists = .*?^\)\n", SETTINGS[name], settings.read_text(), flags=re.DOTALL | re.MULTILINE)
    assert replaced == 1
    settings.write_text(text.replace("handlers.subscription", f"handlers.{handlers.stem}"))
    any_order = app.folder / "tests" / "test_any_order.py"
    any_order.write_text(any_order.read_text().replace("end_states=[]", f"end_states={END_STATES[name]}"))
    return name, app, app.folder / "app" / "handlers" / handlers.name


def test_tests_and_check_of_another_application_pass(other):
    name, app, _ = other

    tested = app.run("python", "-m", "pytest", "-q")
    checked = app.run("python", "operate.py", "check")
    drawn = app.run("python", "operate.py", "diagram")

    assert tested.returncode == 0, tested.stdout
    assert checked.returncode == 0, checked.stdout
    assert drawn.returncode == 0, drawn.stderr
    assert [line for line in drawn.stdout.splitlines() if " --> " in line and "[*]" not in line] == MOVES[name]


def test_planted_fault_fails_its_transcript(other):
    name, app, handlers = other
    right, wrong, expected, instead = FAULTS[name]
    assert right in handlers.read_text()
    handlers.write_text(handlers.read_text().replace(right, wrong))

    tested = app.run("python", "-m", "pytest", "-q", "tests/conversations")

    assert tested.returncode == 1
    told = tested.stdout.partition(" does not hold:\n")[2]
    assert told.startswith(f"\n    {expected}\n\nThis came instead:\n")
    assert instead in told
    assert "Traceback" not in tested.stdout and ".py" not in tested.stdout


def test_state_and_list_have_their_names_in_the_sample_and_its_tests_only(application):
    app = application()
    for pattern in ("app/handlers/*.py", "config/settings.py", "tests/test_*.py", "tests/conversations/*.txt"):
        for file in app.folder.glob(pattern):
            file.write_text(file.read_text().replace("CONFIRMING", "ASKED").replace("news", "dev"))

    tested = app.run("python", "-m", "pytest", "-q")

    assert tested.returncode == 0, tested.stdout
