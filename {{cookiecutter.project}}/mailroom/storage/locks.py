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
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

PATIENCE = 0.1  # seconds for which the thread that reads the sockets waits for somebody's commit

# By path and never closed: closing any descriptor of a file releases all locks that this process has on it
# (POSIX, fcntl), also those of another thread.
_files: dict[str, int] = {}
_held: dict[tuple[str, int], int] = {}  # the file of each lock, by path and byte
_one_thread = threading.RLock()


class FileLocks:
    """Locks in the file `path`, each on a byte; a lock is waited for `timeout` seconds."""

    def __init__(self, path: str, timeout: float = 2.0) -> None:
        self.path = os.path.abspath(path)
        self.timeout = timeout

    def file(self) -> int:
        """Return the descriptor of the file, which is created for its owner only."""
        with _one_thread:
            file = _files.get(self.path)
            if file is None or os.fstat(file).st_nlink == 0:  # it was deleted: other processes create another
                file = _files[self.path] = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600)
            return file

    @contextmanager
    def lock(self, byte: int) -> Iterator[None]:
        """Hold a lock within the block; raise what `wait` raises."""
        self.wait(byte)
        try:
            yield
        finally:
            self.release(byte)

    def wait(self, byte: int, waits: bool = True) -> None:
        """Acquire a lock; raise `TimeoutError` when it does not get free, `OSError` when the file fails."""
        deadline = time.monotonic() + self.timeout if waits else 0.0
        while not self.acquire(byte):
            if time.monotonic() > deadline:
                raise TimeoutError
            time.sleep(random.uniform(0.001, 0.005))

    def acquire(self, byte: int) -> bool:
        """Return whether the lock was free and is now held."""
        with _one_thread:
            if (self.path, byte) in _held:
                return False
            file = self.file()
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, byte)
            except (BlockingIOError, PermissionError):
                return False
            _held[self.path, byte] = file
            return True

    def release(self, byte: int) -> None:
        """Release a lock; in a child process, which holds none of its parent, do nothing."""
        with _one_thread:
            file = _held.pop((self.path, byte), None)
            if file is not None:
                fcntl.lockf(file, fcntl.LOCK_UN, 1, byte)


class FairLock:
    """A lock among the threads of a process, passed to the one that has waited longest."""

    def __init__(self) -> None:
        self._one_thread = threading.Lock()
        self._waiting: deque[threading.Event] = deque()
        self._is_held = False

    def acquire(self, timeout: float) -> bool:
        """Return whether the lock is held now; wait `timeout` seconds at most."""
        with self._one_thread:
            if not self._is_held:
                self._is_held = True
                return True
            my_turn = threading.Event()
            self._waiting.append(my_turn)
        if my_turn.wait(timeout):
            return True
        with self._one_thread:
            if my_turn.is_set():  # just now
                return True
            self._waiting.remove(my_turn)
            return False

    def release(self) -> None:
        """Pass the lock on."""
        with self._one_thread:
            if self._waiting:
                self._waiting.popleft().set()
            else:
                self._is_held = False


def lock_number(name: object) -> int:
    """Return the number, of 56 bits, of the lock that has this name, for example of a sender."""
    octets = repr(name).encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(octets, digest_size=7).digest(), "big")


def _after_fork_in_child() -> None:
    global _one_thread
    _one_thread = threading.RLock()  # a thread of the parent may have held it
    _held.clear()


os.register_at_fork(after_in_child=_after_fork_in_child)
