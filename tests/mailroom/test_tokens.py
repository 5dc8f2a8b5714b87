"""Tokens fit their list, their sender and their time."""

import pytest

from app.model import tokens

NOW = 1_800_000_000


def test_a_token_is_valid_for_its_list_and_sender():
    token = tokens.make("news", "a@b.example", NOW)

    assert tokens.is_valid(token, "news", "a@b.example", NOW)
    assert not tokens.is_valid(token, "dev", "a@b.example", NOW)
    assert not tokens.is_valid(token, "news", "c@b.example", NOW)


def test_a_token_expires():
    made = NOW + 1
    token = tokens.make("news", "a@b.example", made)

    assert tokens.is_valid(token, "news", "a@b.example", made + tokens.HOURS * 3600)
    assert not tokens.is_valid(token, "news", "a@b.example", made + (tokens.HOURS + 1) * 3600)


@pytest.mark.parametrize("position", range(26))
def test_a_token_cannot_be_changed(position):
    token = tokens.make("news", "a@b.example", NOW)
    changed = token[:position] + ("1" if token[position] == "0" else "0") + token[position + 1 :]

    assert len(token) == 26
    assert not tokens.is_valid(changed, "news", "a@b.example", NOW)


@pytest.mark.parametrize("nonsense", ["", "0", "xyz", "f" * 26, "-1", "\ud800"])
def test_nonsense_is_not_valid(nonsense):
    assert not tokens.is_valid(nonsense, "news", "a@b.example", NOW)
