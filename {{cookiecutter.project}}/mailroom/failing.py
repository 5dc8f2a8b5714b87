"""The mails that handlers answer 451, a file for each: made at the first failure, touched at each later one."""

import hashlib
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

FOLDER = Path("run/failing")
MAX_FILES = 100
FORGET = 6 * 3600  # seconds without another try, after which the sending server has given up

# For each mail that is handled, a look at the folder takes 60 µs: another thread goes on meanwhile.
LOOK = 1  # second
_next_look, _is_empty = 0.0, True


def failed(sender: str, recipient: str, data: bytes, handler: str) -> None:
    """Remember that `handler` has answered a mail 451."""
    global _next_look
    _next_look = 0.0
    path = _path(sender, recipient, data)
    with suppress(OSError):  # there is no run/, or the disk is full
        FOLDER.mkdir(mode=0o700, exist_ok=True)
        if path.exists():
            os.utime(path)
        elif len(list(mails())) < MAX_FILES:
            path.write_text(f"{time.time()} {handler}")


def handled(sender: str, recipient: str, data: bytes) -> None:
    """Forget a mail that was handled."""
    global _next_look, _is_empty
    with suppress(OSError):  # it is not there, or no more files may be open
        if time.monotonic() > _next_look:
            _next_look, _is_empty = time.monotonic() + LOOK, next(FOLDER.glob("*"), None) is None
        if not _is_empty:
            os.unlink(_path(sender, recipient, data))


def mails() -> Iterator[tuple[float, float, str]]:
    """Yield when each mail has failed first and last, and its handler; forget those that do not come again."""
    for path in FOLDER.glob("*"):
        with suppress(OSError, ValueError):
            first, handler = path.read_text().split(" ", 1)
            last = path.stat().st_mtime
            if last > time.time() - FORGET:
                yield float(first), last, handler
            else:
                path.unlink()


def _path(sender: str, recipient: str, data: bytes) -> Path:
    envelope = repr((sender, recipient)).encode("utf-8", "surrogatepass")
    return FOLDER / hashlib.blake2b(envelope + data, digest_size=16).hexdigest()
