"""Lock a sender among all processes of one machine, so that their mails are handled one at a time.

A lock is that of one byte of a file, chosen by a hash of the sender. The operating system releases it when
its process ends, however that happens. It does not tell the threads of one process apart, so these wait for
each other at `_held`.
"""

import fcntl
import hashlib
import os
import random
import threading
import time
from contextlib import contextmanager

# By path and never closed: closing any descriptor of a file releases all locks that this process has on it
# (POSIX, fcntl), also those of another thread.
_files = {}
_held = set()
_changed = threading.Condition()


class SenderLocks:
    """Locks in the file `path`; a lock is waited for `timeout` seconds."""

    def __init__(self, path, timeout=2.0):
        self.path = os.path.abspath(path)
        self.timeout = timeout

    @contextmanager
    def lock(self, sender):
        """Hold the lock of `sender`; raise `TimeoutError` when it does not get free, `OSError` when the file fails."""
        deadline = time.monotonic() + self.timeout
        byte = lock_number(sender)
        with self._held_in_process(byte, deadline), self._held_in_file(byte, deadline):
            yield

    @contextmanager
    def _held_in_process(self, byte, deadline):
        mine = self.path, byte
        with _changed:
            if not _changed.wait_for(lambda: mine not in _held, deadline - time.monotonic()):
                raise TimeoutError
            _held.add(mine)
        try:
            yield
        finally:
            with _changed:
                _held.discard(mine)
                _changed.notify_all()

    @contextmanager
    def _held_in_file(self, byte, deadline):
        with _changed:
            file = _files.get(self.path)
            if file is None or os.fstat(file).st_nlink == 0:  # it was deleted: other processes create another
                file = _files[self.path] = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600)
        while not _lock(file, byte):
            if time.monotonic() > deadline:
                raise TimeoutError
            time.sleep(random.uniform(0.001, 0.005))
        try:
            yield
        finally:
            fcntl.lockf(file, fcntl.LOCK_UN, 1, byte)


def lock_number(name):
    """Return the number, of 56 bits, of the lock that has this name, for example of a sender."""
    name = repr(name).encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(name, digest_size=7).digest(), "big")


def _lock(file, byte):
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, byte)
    except (BlockingIOError, PermissionError):
        return False
    return True


def _after_fork_in_child():
    _held.clear()
    _changed.release()


os.register_at_fork(before=_changed.acquire, after_in_parent=_changed.release, after_in_child=_after_fork_in_child)
