"""The key that signs the tokens: the setting, or else one of our own, in a file for our user only."""

import os
import secrets
import tempfile
from contextlib import suppress
from pathlib import Path

from config.environment import KEY_LENGTH

PATH = "run/secret_key"


def signing_key(setting):
    """Return `setting`, or where it is empty the key in `PATH`, which is made at the first start."""
    return setting or stored_key(PATH)


def stored_key(path):
    """Return the signing key in the file `path`, made there for its owner only at the first call.

    Raises `ValueError` when what the file holds is too short to be a key.
    """
    path = Path(path)
    if not path.exists():
        _make_key(path)
    key = path.read_text("utf-8").strip()
    if len(key) < KEY_LENGTH:
        raise ValueError(f"{path} holds no key of {KEY_LENGTH} characters or more")
    return key


def _make_key(path):
    """Make the key whole before it has its name, and never twice: several workers may start at once."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=path.parent) as file:  # is made 0600
        file.write(secrets.token_hex(32) + "\n")
        file.flush()
        os.fsync(file.fileno())
        with suppress(FileExistsError):
            os.link(file.name, path)
    folder = os.open(path.parent, os.O_RDONLY)
    os.fsync(folder)  # a power cut must not take the name
    os.close(folder)
