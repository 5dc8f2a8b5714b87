"""The storage of an application is changed by hand, as its README says, and every state comes along."""

import re

import pytest

ALICE = "alice@people.example"


def table(folder):
    """Return `{class: (import, expression, state_database)}` from the table in the README."""
    readme = (folder / "README.md").read_text()
    rows = re.findall(r"^\| [^|]+ \| `(from [^`]+)` \| `(\w+)(\([^`]+)` \|[^|]*\| `([^`]+)` \|$", readme, re.MULTILINE)
    return {name: (line, name + arguments, database) for line, name, arguments, database in rows}


def change(folder, old, new):
    """Change the two lines of `config/boot.py` that say which storage there is."""
    boot = folder / "config" / "boot.py"
    text = boot.read_text()
    for before, after in zip(old[:2], new[:2], strict=True):
        assert text.count(before) == 1
        text = text.replace(before, after)
    if new[1].startswith("SQLAlchemyStorage"):  # which has no own tables yet
        text = text.replace("    tables=posts.create,\n", "")
    boot.write_text(text)


@pytest.mark.parametrize(
    "state_storage, old, new",
    [("sqlite", "SQLiteStorage", "SQLAlchemyStorage"), ("shelve", "ShelveStorage", "SQLiteStorage")],
)
def test_storage_is_changed_by_hand(request, application, sink, state_storage, old, new):
    app = application(state_storage=state_storage).start()
    storages = table(app.folder)
    assert app.send(ALICE, "news-subscribe")[0] == 250
    (confirmation,) = sink.take()
    assert app.terminate() == 0

    exported = app.run("python", "operate.py", "states", "export").stdout
    change(app.folder, storages[old], storages[new])
    app.settings["STATE_DATABASE"] = storages[new][2]
    if new == "SQLAlchemyStorage":
        app.settings["STATE_DATABASE"] = request.getfixturevalue("postgresql").new_database()
    imported = app.run("python", "operate.py", "states", "import", input=exported)

    assert imported.stdout == "1 rows: 1 new, 0 overwritten, 0 there already\n", imported.stderr
    app.start()
    assert app.send(ALICE, confirmation["Reply-To"])[0] == 250
    (welcome,) = sink.take()
    assert welcome["Subject"] == "Welcome to news"
    assert new in app.python("import config.boot; print(config.boot.Router.STATE_STORE)").stdout
