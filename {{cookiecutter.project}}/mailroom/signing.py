"""Sign tokens for confirmation addresses, which every worker with the same key accepts."""

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

HOURS = 72  # a token is valid for this long, and until the hour is full


class Tokens:
    """Make and verify tokens that are signed with `key` and stored nowhere.

    A token is the hour in which it expires (6 hexadecimal digits) and the beginning of an HMAC-SHA256 of that hour, a
    name and a sender (20 digits, 80 bits). It has lower-case digits, because Salmon lower-cases addresses, and few of
    them, because a local part has at most 64 octets (RFC 5321, section 4.5.3.1.1).
    """

    def __init__(self, key: str) -> None:
        self._key = key.encode()

    def make(self, name: str, sender: str, now: float | None = None) -> str:
        """Return the token of `sender` for `name`, for example a list; a test makes one of another time, `now`."""
        return self._token(math.ceil((time.time() if now is None else now) / 3600) + HOURS, name, sender)

    def is_valid(self, token: str, name: str, sender: str) -> bool:
        """Return whether `token` was made for this name and this sender, and has not expired."""
        try:
            expiry = int(token[:6], 16)
        except ValueError:
            return False
        genuine = self._token(expiry, name, sender).encode()
        return hmac.compare_digest(token.encode("utf-8", "replace"), genuine) and time.time() < expiry * 3600

    def _token(self, expiry: int, name: str, sender: str) -> str:
        text = repr((expiry, name, sender)).encode("utf-8", "surrogatepass")
        signature = hmac.new(self._key, text, hashlib.sha256).hexdigest()
        return f"{expiry:06x}{signature[:20]}"


def signing_key(path: str | Path) -> str:
    """Return the signing key in the file `path`. The first call creates the file, which only its owner can read.

    Ends the process with one line when the file cannot be read or holds no key.
    """
    path = Path(path)
    make_private(path.parent)
    try:
        if not path.exists():
            # Atomically, unless another worker that starts has created it.
            with tempfile.NamedTemporaryFile("w", dir=path.parent) as file:  # has mode 0600
                file.write(secrets.token_hex(32) + "\n")
                file.flush()
                os.fsync(file.fileno())
                with suppress(FileExistsError):
                    os.link(file.name, path)
            folder = os.open(path.parent, os.O_RDONLY)
            os.fsync(folder)  # or a power cut removes the new name
            os.close(folder)
        key = path.read_text("utf-8").strip()
    except (OSError, UnicodeError) as error:
        refuse("SECRET_KEY", "", f"is not set, and the key in {path} cannot be used: {error}")
    if len(key) < KEY_LENGTH:
        refuse("SECRET_KEY", "", f"is not set, and {path} must hold a key of {KEY_LENGTH} characters or more")
    return key
