"""The key is the setting, or a file that nobody else reads."""

import stat
from concurrent.futures import ThreadPoolExecutor

import pytest

from app.model.secret_key import signing_key, stored_key


def test_the_setting_goes_before():
    assert signing_key("what SECRET_KEY says") == "what SECRET_KEY says"


def test_the_key_is_made_once_for_its_owner_only(tmp_path):
    path = tmp_path / "run" / "secret_key"
    with ThreadPoolExecutor(8) as pool:
        keys = set(pool.map(lambda _: stored_key(path), range(40)))

    assert len(keys) == 1
    assert len(keys.pop()) == 64
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [file.name for file in path.parent.iterdir()] == ["secret_key"]


def test_a_damaged_key_is_not_used(tmp_path):
    (tmp_path / "secret_key").write_text("\n")

    with pytest.raises(ValueError):
        stored_key(tmp_path / "secret_key")
