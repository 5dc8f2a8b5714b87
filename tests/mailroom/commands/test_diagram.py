"""`operate.py diagram` draws what was seen while the conversations played."""

import sys

import pytest
from salmon.routing import Router

MODULE = "tests.mailroom.trial_list"
JOIN = "alice@people.example -> news-subscribe\n<-\n   Reply-To: {confirm}\n[CONFIRMING]\n\n"
DESK = """
from salmon.routing import route, route_like, stateless

@route("help-(number)@(host)", number="[0-9]")
def START(message, number, host):
    return URGENT if message["Subject"] == "urgent" else CLOSED

@route_like(START)
def URGENT(message, number, host):
    return START

@route("closed@(host)")
def CLOSED(message, host):
    return None

@route(".+(?<!;)@(host)")
@stateless
def COUNT(message, host):
    return None
"""


@pytest.fixture
def diagram(run, home):
    """A function: run `operate.py diagram` with these conversations, and return Click's `Result`."""

    def diagram(**conversations):
        (home / "tests" / "conversations").mkdir(parents=True)
        for name, text in conversations.items():
            (home / "tests" / "conversations" / f"{name}.txt").write_text(text)
        return run("diagram")

    return diagram


def test_moves_are_labelled_with_the_addresses_that_led_there(diagram):
    drawn = diagram(
        joins=f"{JOIN}alice@people.example -> {{confirm}}\n<-\n\nalice@people.example -> news\n<-\n",
        loses_the_mail=(
            f"{JOIN}alice@people.example -> news-confirm-0123456789abcdef@{{domain}}\n<-\n\n"
            "alice@people.example -> news-unsubscribe\n<-\n\nalice@people.example -> postmaster\nroot@localhost <-\n"
        ),
        machine="alice@people.example -> news\n    Auto-Submitted: auto-replied\n\nalice@people.example -> nobody\n550\n",
    )

    assert drawn.exit_code == 0, drawn.stderr
    assert drawn.stderr == ""
    assert drawn.stdout.splitlines() == [
        "stateDiagram-v2",
        "    [*] --> START : (list_name)(request)@(host)",
        "    START --> CONFIRMING : news-subscribe",
        "    CONFIRMING --> SUBSCRIBED : {confirm}, news-confirm-...",
        "    SUBSCRIBED --> START : news-unsubscribe",
        "    SUBSCRIBED --> SUBSCRIBED : news",
        "    [*] --> FORWARD : postmaster@(host)",
        "    FORWARD --> [*]",
    ]


def test_handlers_that_no_mail_reaches_are_named(diagram):
    drawn = diagram(joins=JOIN)

    assert drawn.exit_code == 0
    assert drawn.stderr.splitlines() == [
        f"No mail in tests/conversations/ reaches {MODULE}.SUBSCRIBED",
        f"No mail in tests/conversations/ reaches {MODULE}.FORWARD",
    ]


def test_transcript_that_does_not_hold_is_refused(diagram):
    drawn = diagram(joins=JOIN.replace("[CONFIRMING]", "[SUBSCRIBED]"))

    assert drawn.exit_code == 1
    assert drawn.stdout == ""
    assert drawn.stderr.startswith("Error: joins.txt, line 4 does not hold:\n")


def test_address_that_leads_to_several_states_labels_them_all(diagram, home, room):
    (home / "desk.py").write_text(DESK)
    Router.clear_routes()
    room.load(["desk"])
    mails = ["    Subject: urgent", "", "\n    Is it 1 < 2; or not?"]

    drawn = diagram(desk="".join(f"bob@people.example -> help-1\n{mail}\n\n" for mail in mails))
    del sys.modules["desk"]

    assert drawn.stdout.splitlines() == [
        "stateDiagram-v2",
        "    [*] --> START : help-(number)@(host)",
        "    START --> URGENT : help-1",
        "    START --> CLOSED : help-1",
        "    URGENT --> START : help-1",
        "    [*] --> COUNT : .+(?\u2039!,)@(host)",
        "    COUNT --> [*]",
    ]
    assert drawn.stderr == ""


def test_states_with_the_same_name_in_two_modules_are_distinguished(diagram, home, room):
    (home / "desk.py").write_text(DESK.replace(".+(?<!;)@", "count@"))
    room.load(["desk"])

    drawn = diagram(joins=JOIN, desk="bob@people.example -> help-1\n    Subject: urgent; very <b>\n")
    del sys.modules["desk"]

    assert "    trial_list_START --> CONFIRMING : news-subscribe" in drawn.stdout.splitlines()
    assert "    desk_START --> CLOSED : help-1" in drawn.stdout.splitlines()
    assert "No mail in tests/conversations/ reaches desk.URGENT" in drawn.stderr.splitlines()


def test_diagram_without_conversations_has_the_routes(run, home):
    drawn = run("diagram")

    assert drawn.exit_code == 0
    assert drawn.stdout.startswith("stateDiagram-v2\n    [*] --> START : ")
    assert len(drawn.stderr.splitlines()) == 4
