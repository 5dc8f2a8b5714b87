"""Tokens for confirmation addresses: signed, not stored, so every worker knows them at once.

A token is the hour it expires (6 hexadecimal digits) and the beginning of an HMAC-SHA256 of that
hour, the list and the sender (20 digits, 80 bits). Lower-case digits, because Salmon lower-cases
addresses; few of them, because a local part has 64 octets (RFC 5321, section 4.5.3.1.1).
"""

import hashlib
import hmac
import math
import time

from config import settings

HOURS = 72  # an expiry is a whole hour: a token lasts this long, and up to an hour more


def make(list_name, sender, now=None):
    """Return the token with which `sender` joins `list_name`; `now` is in seconds since the epoch."""
    expiry = math.ceil((time.time() if now is None else now) / 3600) + HOURS
    return _token(expiry, list_name, sender)


def is_valid(token, list_name, sender, now=None):
    """Tell whether `token` was made for this list and this sender, and has not expired."""
    try:
        expiry = int(token[:6], 16)
    except ValueError:
        return False
    genuine = _token(expiry, list_name, sender).encode()
    now = time.time() if now is None else now
    return hmac.compare_digest(token.encode("utf-8", "replace"), genuine) and now < expiry * 3600


def _token(expiry, list_name, sender):
    text = repr((expiry, list_name, sender)).encode("utf-8", "surrogatepass")
    signature = hmac.new(settings.secret_key.encode(), text, hashlib.sha256).hexdigest()
    return f"{expiry:06x}{signature[:20]}"
