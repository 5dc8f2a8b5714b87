"""Sign tokens for confirmation addresses; every worker that has the key knows them at once."""

import hashlib
import hmac
import math
import os
import secrets
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from mailroom.files import make_private
from mailroom.settings import KEY_LENGTH, refuse

HOURS = 72  # an expiry is a whole hour: a token lasts this long, and up to an hour more


class Tokens:
    """Tokens that are signed with `key`, not stored.

    A token is the hour it expires (6 hexadecimal digits) and the beginning of an HMAC-SHA256 of that
    hour, its name and its sender (20 digits, 80 bits). Lower-case digits, because Salmon lower-cases
    addresses; few of them, because a local part has 64 octets (RFC 5321, section 4.5.3.1.1).
    """

    def __init__(self, key: str) -> None:
        self._key = key.encode()

    def make(self, name: str, sender: str, now: float | None = None) -> str:
        """Return the token of `sender` for `name`, such as a list; `now` is in seconds since the epoch."""
        expiry = math.ceil((time.time() if now is None else now) / 3600) + HOURS
        return self._token(expiry, name, sender)

    def is_valid(self, token: str, name: str, sender: str, now: float | None = None) -> bool:
        """Return whether `token` was made for this name and this sender, and has not expired."""
        try:
            expiry = int(token[:6], 16)
        except ValueError:
            return False
        genuine = self._token(expiry, name, sender).encode()
        now = time.time() if now is None else now
        return hmac.compare_digest(token.encode("utf-8", "replace"), genuine) and now < expiry * 3600

    def _token(self, expiry: int, name: str, sender: str) -> str:
        text = repr((expiry, name, sender)).encode("utf-8", "surrogatepass")
        signature = hmac.new(self._key, text, hashlib.sha256).hexdigest()
        return f"{expiry:06x}{signature[:20]}"


def signing_key(path: str | Path) -> str:
    """Return the signing key in the file `path`, which is created at the first call for its owner only.

    Ends the process with one line when the file cannot be read or holds no key.
    """
    path = Path(path)
    make_private(path.parent)
    try:
        if not path.exists():
            _create_key(path)
        key = path.read_text("utf-8").strip()
    except (OSError, UnicodeError) as error:
        refuse("SECRET_KEY", "", f"is not set, and the key in {path} cannot be used: {error}")
    if len(key) < KEY_LENGTH:
        refuse("SECRET_KEY", "", f"is not set, and {path} must hold a key of {KEY_LENGTH} characters or more")
    return key


def _create_key(path: Path) -> None:
    """Create the key file atomically, and once: several workers may start at the same time."""
    with tempfile.NamedTemporaryFile("w", dir=path.parent) as file:  # has mode 0600
        file.write(secrets.token_hex(32) + "\n")
        file.flush()
        os.fsync(file.fileno())
        with suppress(FileExistsError):
            os.link(file.name, path)
    folder = os.open(path.parent, os.O_RDONLY)
    os.fsync(folder)  # so that a power cut does not undo the name
    os.close(folder)
