"""Lock a sender among all processes of one machine, so that their mails are handled one at a time.

A lock is that of one byte of a file, chosen by a hash of the sender. The operating system releases it when
its process ends, however that happens. It does not tell the threads of one process apart; `_held` does.
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
_held = {}  # the file of each lock, by path and byte
_one_thread = threading.Lock()


class SenderLocks:
    """Locks in the file `path`; a lock is waited for `timeout` seconds."""

    def __init__(self, path, timeout=2.0):
        self.path = os.path.abspath(path)
        self.timeout = timeout

    @contextmanager
    def lock(self, sender):
        """Hold the lock of `sender`; raise `TimeoutError` when it does not get free, `OSError` when the file fails."""
        byte = lock_number(sender)
        deadline = time.monotonic() + self.timeout
        while not _acquire(self.path, byte):
            if time.monotonic() > deadline:
                raise TimeoutError
            time.sleep(random.uniform(0.001, 0.005))
        try:
            yield
        finally:
            with _one_thread:
                file = _held.pop((self.path, byte), None)
                if file is not None:  # as in a child process, which holds no lock of its parent
                    fcntl.lockf(file, fcntl.LOCK_UN, 1, byte)


def lock_number(name):
    """Return the number, of 56 bits, of the lock that has this name, for example of a sender."""
    name = repr(name).encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(name, digest_size=7).digest(), "big")


def _acquire(path, byte):
    with _one_thread:
        if (path, byte) in _held:
            return False
        file = _files.get(path)
        if file is None or os.fstat(file).st_nlink == 0:  # it was deleted: other processes create another
            file = _files[path] = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, byte)
        except (BlockingIOError, PermissionError):
            return False
        _held[path, byte] = file
        return True


def _after_fork_in_child():
    _held.clear()
    _one_thread.release()


os.register_at_fork(
    before=_one_thread.acquire, after_in_parent=_one_thread.release, after_in_child=_after_fork_in_child
)
