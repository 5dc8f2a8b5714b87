"""`operate.py diagram` reads any handlers that a person may write."""

import sys
from xml.etree import ElementTree

import pytest

DESK = """
from salmon.routing import route, route_like, stateless

import app.handlers.subscription
from app.handlers.subscription import SUBSCRIBED


@route("help-(number)@(host)", number="[0-9]+")
def START(message, number, host):
    if message["Subject"] == "urgent":
        return URGENT
    elif int(number) < 5:
        return ASKED
    return ask(message, otherwise=ANSWERED)


@route_like(START)
def URGENT(message, number, host):
    if number:
        raise ValueError
    state = ANSWERED
    if host:
        state = CLOSED
    return state


@route_like(START)
def ASKED(message, number, host):
    return NEXT.get(number, CLOSED) or START


@route_like(START)
def ANSWERED(message, number, host):
    match message["Subject"]:
        case "close":
            return CLOSED
        case "join":
            return SUBSCRIBED
        case "leave":
            return app.handlers.subscription.START
        case _:
            return app.handlers.subscription.whatever(message)


@route("help-closed@(host)")
def CLOSED(message, host):
    try:
        if (number := message["X-Number"]) and number:
            return {"a": START, "b": ASKED}[number]
        with open(number):
            return START if number == "1" else None
    except OSError:
        return "START"
    except ValueError:
        return True
    finally:
        print("done")
    return ask


@route(".+@(host)")
@stateless
def COUNT(message, host):
    return COUNT


def ask(message, otherwise):
    return otherwise if message.all_parts() else ask(message, ASKED)


NEXT = {"1": ANSWERED, "2": CLOSED}
"""


def diagram(application, *options, **more):
    return application.run("python", "operate.py", "diagram", *options, **more)


def with_desk(application, **settings):
    app = application(**settings)
    (app.folder / "app" / "handlers" / "desk.py").write_text(DESK)
    choices = app.folder / "config" / "settings.py"
    choices.write_text(choices.read_text().replace('"app.handlers.postmaster"', '"app.handlers.desk"'))
    return app


def test_a_diagram_is_drawn_from_the_code(application):
    drawn = diagram(with_desk(application))

    assert drawn.returncode == 0, drawn.stderr
    _, desk = drawn.stdout.split("    %% app.handlers.desk\n")
    assert desk.splitlines() == [
        "    desk_START : desk.START",
        "    [*] --> desk_START : help-(number)@(host)",
        "    desk_START --> URGENT : message['Subject'] == 'urgent'",
        "    desk_START --> ASKED : int(number) \u2039 5",
        "    desk_START --> ANSWERED : message.all_parts()",
        "    URGENT --> ANSWERED",
        "    URGENT --> CLOSED",
        "    ASKED --> ANSWERED : '1'",
        "    ASKED --> CLOSED",
        "    ASKED --> desk_START",
        "    ANSWERED --> CLOSED : 'close'",
        "    ANSWERED --> SUBSCRIBED : 'join'",
        "    ANSWERED --> subscription_START : 'leave'",
        "    [*] --> CLOSED : help-closed@(host)",
        "    CLOSED --> desk_START : 'a' or number == '1'",
        "    CLOSED --> ASKED : 'b'",
        "    CLOSED --> CLOSED",
        "    [*] --> COUNT : .+@(host)",
        "    COUNT --> [*]",
    ]
    assert drawn.stderr.splitlines() == [
        not_drawn('        return "START"', "CLOSED returns 'START', and not a handler"),
        not_drawn("        return True", "CLOSED returns True, and not a handler"),
        not_drawn("    return ask", "CLOSED returns ask, which has no route"),
        not_drawn(
            "            return app.handlers.subscription.whatever(message)",
            "ANSWERED returns app.handlers.subscription.whatever(...)",
        ),
    ]


def not_drawn(line, why):
    return f"not drawn: app/handlers/desk.py:{DESK.splitlines().index(line) + 1}: {why}"


def test_it_is_also_drawn_without_any_other_program(application):
    app = with_desk(application)
    app.run("python", "operate.py", "states", "set", "a@b.example", "CLOSED", check=True)

    drawn = diagram(app, "--svg", "--counts", env={**app.environment, "PATH": ""})

    assert drawn.returncode == 0, drawn.stderr
    picture = ElementTree.fromstring(drawn.stdout)
    texts = [element.text for element in picture.iter("{http://www.w3.org/2000/svg}text")]
    assert texts.count("START") == 2
    assert {"app.handlers.desk", "CLOSED (1)", "SUBSCRIBED (0)", "int(number) < 5"} <= set(texts)
    names = [element for element in picture.iter("{http://www.w3.org/2000/svg}rect") if element.get("class")]
    boxes = [[float(box.get(side)) for side in ("x", "y", "width", "height")] for box in names]
    assert len(boxes) == 9
    for number, (x, y, width, height) in enumerate(boxes):
        assert 0 <= x < x + width <= float(picture.get("width"))
        assert 0 <= y < y + height <= float(picture.get("height"))
        for x2, y2, width2, height2 in boxes[:number]:
            assert x + width <= x2 or x2 + width2 <= x or y + height <= y2 or y2 + height2 <= y


def test_the_kept_pictures_are_drawn_again(application):
    app = with_desk(application)
    before = app.run("python", "-m", "pytest", "-q", "tests/operations/test_diagram.py", "-k", "kept or readme")

    assert diagram(app, "--write").returncode == 0
    after = app.run("python", "-m", "pytest", "-q", "tests/operations/test_diagram.py", "-k", "kept or readme")

    assert "2 failed" in before.stdout
    assert "2 passed" in after.stdout
    assert "CLOSED --> CLOSED" in (app.folder / "README.md").read_text()


@pytest.mark.parametrize("option", ["--svg", "--counts"])
def test_what_is_kept_has_no_other_forms(application, option):
    app = application()
    before = (app.folder / "states.mmd").read_text()

    refused = app.run("python", "operate.py", "diagram", "--write", option)

    assert refused.returncode == 2
    assert refused.stderr.splitlines()[-1].startswith("Error: --write keeps the picture as Mermaid")
    assert (app.folder / "states.mmd").read_text() == before


def test_a_picture_that_cannot_be_written_leaves_the_old_one(application):
    app = application()
    readme = app.folder / "README.md"
    before = readme.read_text()

    refused = app.run("sh", "-c", f"ulimit -f 4; exec {sys.executable} operate.py diagram --write")

    assert refused.returncode == 1
    assert refused.stderr.startswith("Error: --write cannot write the picture: ")
    assert "Traceback" not in refused.stderr
    assert readme.read_text() == before
    assert not list(app.folder.glob("*.new"))
