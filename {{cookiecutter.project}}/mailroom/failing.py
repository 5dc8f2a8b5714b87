"""The mails that handlers answer 451, a file for each: made at the first failure, touched at each later one."""

import functools
import hashlib
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

FOLDER = Path("run/failing")
MAX_FILES = 100
FORGET = 6 * 3600  # seconds without another try, after which the sending server has given up


def failed(sender: str, recipient: str, data: bytes, handler: str) -> None:
    """Remember that `handler` has answered a mail 451."""
    path = _path(sender, recipient, data)
    with suppress(OSError):  # there is no run/, or the disk is full
        FOLDER.mkdir(mode=0o700, exist_ok=True)
        if path.exists():
            os.utime(path)
        elif len(list(mails())) < MAX_FILES:
            path.write_text(f"{time.time()} {handler}")
    _is_empty.cache_clear()


def handled(sender: str, recipient: str, data: bytes) -> None:
    """Forget a mail that was handled."""
    with suppress(OSError):  # it is not there, or no more files may be open
        if not _is_empty(int(time.monotonic())):
            os.unlink(_path(sender, recipient, data))


@functools.lru_cache(1)
def _is_empty(second: int) -> bool:
    """Look at the folder once a second: that takes 60 µs, and another thread goes on meanwhile."""
    return next(FOLDER.glob("*"), None) is None


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
