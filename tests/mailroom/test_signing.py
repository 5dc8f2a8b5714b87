"""The signing key is created once, and tokens fit their name, their sender and their time."""

import stat
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest

from mailroom.signing import HOURS, Tokens, signing_key

NOW = 1_800_000_000
tokens = Tokens("only for tests")


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    """A function: set the clock of the tokens, which stands at `NOW` before."""

    def clock(now):
        monkeypatch.setattr("mailroom.signing.time", SimpleNamespace(time=lambda: now))

    clock(NOW)
    return clock


def test_key_is_created_once_and_only_its_owner_can_read_it(tmp_path):
    path = tmp_path / "run" / "secret_key"
    with ThreadPoolExecutor(8) as pool:
        keys = set(pool.map(lambda _: signing_key(path), range(40)))

    assert len(keys) == 1
    assert len(keys.pop()) == 64
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [file.name for file in path.parent.iterdir()] == ["secret_key"]


@pytest.mark.parametrize("damaged", [b"\n", b"short\n", b"\xff" * 40])
def test_damaged_key_ends_the_start_in_one_line(tmp_path, damaged):
    (tmp_path / "secret_key").write_bytes(damaged)

    with pytest.raises(SystemExit, match="ERROR: SECRET_KEY .*secret_key [^\n]*$"):
        signing_key(tmp_path / "secret_key")


def test_token_of_version_0_1_is_valid():
    """Confirmation addresses that were mailed before an update work after it."""
    assert tokens.is_valid("07a1685513ca18b09c2ca4275b", "news", "a@b.example")


def test_token_is_valid_for_its_name_and_sender():
    token = tokens.make("news", "a@b.example")

    assert tokens.is_valid(token, "news", "a@b.example")
    assert not tokens.is_valid(token, "dev", "a@b.example")
    assert not tokens.is_valid(token, "news", "c@b.example")


def test_token_expires(clock):
    clock(NOW + 1)
    token = tokens.make("news", "a@b.example")

    clock(NOW + 1 + HOURS * 3600)
    assert tokens.is_valid(token, "news", "a@b.example")
    clock(NOW + 1 + (HOURS + 1) * 3600)
    assert not tokens.is_valid(token, "news", "a@b.example")


@pytest.mark.parametrize("position", range(26))
def test_changed_token_is_not_valid(position):
    token = tokens.make("news", "a@b.example")
    changed = token[:position] + ("1" if token[position] == "0" else "0") + token[position + 1 :]

    assert len(token) == 26
    assert not tokens.is_valid(changed, "news", "a@b.example")


@pytest.mark.parametrize("nonsense", ["", "0", "xyz", "f" * 26, "-1", "\ud800"])
def test_any_other_text_is_no_valid_token(nonsense):
    assert not tokens.is_valid(nonsense, "news", "a@b.example")
