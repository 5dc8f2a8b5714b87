"""The key is the setting: several machines cannot share a file."""

import pytest

from app.model.secret_key import signing_key


def test_the_setting_is_the_key():
    assert signing_key("what SECRET_KEY says") == "what SECRET_KEY says"


def test_there_is_no_other():
    with pytest.raises(ValueError, match="must be set"):
        signing_key("")
