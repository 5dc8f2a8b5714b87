"""Notice that somebody moved or deleted the files of an SQLite database while it is in use; and copy them whole.

SQLite does not notice: it writes into a file that has no name any more, and plays the -wal of one file into another
(https://sqlite.org/howtocorrupt.html, sections 1.4 and 2). So each process that has the database open holds a
shared lock on a byte of the lock file. The first one writes down there which files it opened, and everybody compares
before a mail is handled and before it is committed.

A copy over the same file shows by a random mark, SQLite's `application_id`. It changes in the -wal before each
checkpoint, which moves it into the file. So a file with another mark is of another time, and does not belong to this
-wal. One with the same mark does, be it a copy.
"""

import fcntl
import os
import secrets
import sqlite3
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from urllib.parse import quote

from mailroom.storage.locks import FileLocks

# Bytes of the lock file. Its first ones hold the record; the locks of the senders begin at `SENDERS`.
OPENING, IN_USE, CHECKPOINT, SENDERS = 1024, 1025, 1026, 4096

# The mark that the file has, the one that it gets at the checkpoint that is running, and the inodes of the
# database, its -wal and its -shm.
RECORD = struct.Struct("=IIQQQ")
MARK_AT = 68  # in an SQLite file: https://sqlite.org/fileformat2.html, section 1.3
# In a -shm: frames in the -wal, and how many of them were moved (https://sqlite.org/walformat.html, section 2.1).
FRAMES_AT, WAITING = 16, struct.Struct("=I76xI")
BUSY = 5  # of SQLite
MAX_FRAMES = 1000  # after which a checkpoint is due, as SQLite's own is

# By inode and never closed: closing a descriptor of a database releases SQLite's own locks in this process.
_descriptors: dict[tuple[int, int], int] = {}
_users: Counter[str] = Counter()  # storages of this process, by path: a process does not lock itself out


class FilesMoved(OSError):
    """The files of the database are not those that were opened; the text says what to do."""


class FileWatch:
    """Watch the database at `path`, with locks and a record in `locks`, a `FileLocks`."""

    def __init__(self, path: str, locks: FileLocks) -> None:
        self.path = path
        self.locks = locks
        self._mark_now = self._mark_next = 0
        self._inodes: tuple[int, ...] = ()
        self._database = self._shm = -1
        self._next_checkpoint = MAX_FRAMES
        self._one_thread = threading.RLock()
        self.alone_at = 0.0  # when no other process had the database open; what others claimed before is free

    @contextmanager
    def opening(self) -> Iterator[None]:
        """Let the block open the first connection of this process, while no other process opens or closes one.

        Raises `FilesMoved` before SQLite reads anything when the files are not those of the processes that have
        them open, or when another database has left its -wal here.
        """
        with self._one_thread, self.locks.lock(OPENING):
            self._database = _descriptor(self.path)
            alone = not _users[self.path] and self._lock_use(fcntl.LOCK_EX)
            self.alone_at = time.time() if alone else 0.0
            self._read_record()
            if alone:
                self._refuse_strange_wal()
            else:
                self.check()
            yield
            self._shm = _descriptor(f"{self.path}-shm")
            if alone:
                self._mark_now, self._mark_next, self._inodes = self._mark(), 0, _inodes(self.path)
                self._write_record()
            self._lock_use(fcntl.LOCK_SH)  # from exclusive to shared at once
            _users[self.path] += 1

    @contextmanager
    def closing(self) -> Iterator[None]:
        """Let the block close the last connection of this process: SQLite may delete the -wal."""
        with self._one_thread, ExitStack() as stack:
            with suppress(OSError):  # the lock file was deleted, so no other process uses it
                stack.enter_context(self.locks.lock(OPENING))
            yield
            _users[self.path] -= 1
            if not _users[self.path]:
                self._lock_use(fcntl.LOCK_UN)

    def check(self) -> None:
        """Raise `FilesMoved` when somebody has moved, replaced, overwritten or deleted one of the files."""
        try:
            inodes = _inodes(self.path)
        except FileNotFoundError as error:
            if error.filename == self.path:
                rule = "move it back, or stop all workers and use `operate.py restore FILE`"
                raise FilesMoved(f"{self.path} has gone; {rule}") from error
            inodes = (self._inodes[0],)
        if inodes[0] != self._inodes[0]:
            raise FilesMoved(
                f"{self.path} was replaced while it is in use; move the old file back, then use `operate.py restore FILE`"
            )
        if inodes != self._inodes:
            raise FilesMoved(f"{self.path}-wal or -shm was deleted while in use; stop all workers, then start them")
        if self._mark() != self._mark_now:
            self._compare_mark()

    def checkpoint(self, connection: sqlite3.Connection) -> None:
        """Move a long -wal into the database, and give that a new mark; leave it when another process is at it."""
        if self._waiting_frames() < self._next_checkpoint or not self.locks.acquire(CHECKPOINT):
            return
        with self._one_thread:
            try:
                self._read_record()
                self._mark_now = self._mark()
                # A mark that a reader has kept in the -wal may still come into the file: it stays the next one.
                if self._mark_next in (0, self._mark_now):
                    self._mark_next = new_mark()
                self._write_record()
                os.fsync(self.locks.file())  # before the mark is on disk: after a power cut, a file with either is ours
                connection.execute(f"PRAGMA application_id = {self._mark_next}")
                connection.execute("PRAGMA wal_checkpoint(PASSIVE)")
                self._mark_now = self._mark()
                self._write_record()
            finally:
                # What a reader of an older state still needs stays in the -wal; try again when it has grown.
                self._next_checkpoint = self._waiting_frames() + MAX_FRAMES
                self.locks.release(CHECKPOINT)

    def replace(self, part: str) -> bool:
        """Put the file `part` in the place of the database unless anybody has that open; return whether it was done."""
        with self._one_thread, self.locks.lock(OPENING):
            if _users[self.path] or not self._lock_use(fcntl.LOCK_EX):
                return False
            with suppress(FileNotFoundError, PermissionError):  # when root does it, the server can still use it
                os.chown(part, os.stat(self.path).st_uid, os.stat(self.path).st_gid)
            # In this order: killed in between, the old -wal is one that `_refuse_strange_wal` knows.
            move(part, self.path)
            for suffix in ("-wal", "-shm", "-journal"):
                with suppress(FileNotFoundError):
                    os.unlink(self.path + suffix)
            os.pwrite(self.locks.file(), bytes(RECORD.size), 0)
            self._lock_use(fcntl.LOCK_UN)
            return True

    def overwrite(self, connection: sqlite3.Connection, part: str) -> None:
        """Copy the database in the file `part` over that of the `connection`, in a transaction, while others use it."""
        deadline = time.monotonic() + self.locks.timeout

        def give_up(status: int, remaining: int, total: int) -> None:
            if status == BUSY and time.monotonic() > deadline:
                raise TimeoutError(f"others have written for {self.locks.timeout} seconds")

        # No checkpoint, so the mark stays the same all the time.
        with self._one_thread, self.locks.lock(CHECKPOINT), closing(sqlite3.connect(part, isolation_level=None)) as new:
            (mark,) = connection.execute("PRAGMA application_id").fetchone()
            new.execute(f"PRAGMA application_id = {mark}")
            new.backup(connection, progress=give_up, sleep=0.005)

    def _waiting_frames(self) -> int:
        frames, moved = WAITING.unpack(os.pread(self._shm, WAITING.size, FRAMES_AT))
        return int(frames - moved)

    def _compare_mark(self) -> None:
        """Read the record of the process that has changed the mark, after its checkpoint."""
        with self._one_thread, self.locks.lock(CHECKPOINT):
            self._read_record()
            mark = self._mark()
            if mark not in (self._mark_now, self._mark_next):
                raise FilesMoved(
                    f"{self.path} was overwritten while it is in use; stop all workers, then use `operate.py restore FILE`"
                )
            self._mark_now = mark

    def _refuse_strange_wal(self) -> None:
        """Raise `FilesMoved` when the -wal is that of the recorded database, and this is another one."""
        wal = f"{self.path}-wal"
        if not self._inodes[0] or not os.path.exists(wal) or not os.path.getsize(wal):
            return
        is_other = os.stat(wal).st_ino == self._inodes[1] and os.stat(self.path).st_ino != self._inodes[0]
        if is_other or self._mark() not in (self._mark_now, self._mark_next):
            raise FilesMoved(
                f"{wal} belongs to another file than this {self.path}; move that file back, or delete {wal} and"
                f" {self.path}-shm to go on without what is in them"
            )

    def _lock_use(self, kind: int) -> bool:
        try:
            fcntl.lockf(self.locks.file(), kind | (0 if kind == fcntl.LOCK_UN else fcntl.LOCK_NB), 1, IN_USE)
        except OSError:  # another process holds it, or the file was deleted
            return False
        return True

    def _mark(self) -> int:
        return int.from_bytes(os.pread(self._database, 4, MARK_AT), "big")

    def _read_record(self) -> None:
        octets = os.pread(self.locks.file(), RECORD.size, 0).ljust(RECORD.size, b"\0")
        self._mark_now, self._mark_next, *inodes = RECORD.unpack(octets)
        self._inodes = tuple(inodes)

    def _write_record(self) -> None:
        os.pwrite(self.locks.file(), RECORD.pack(self._mark_now, self._mark_next, *self._inodes), 0)


def opened(path: str | os.PathLike[str]) -> closing[sqlite3.Connection]:
    """Return a context with a connection that reads the database `path`.

    Without a -wal, nothing is created beside it: its folder may be read-only.
    """
    options = "mode=ro" if os.path.exists(f"{path}-wal") else "mode=ro&immutable=1"
    return closing(sqlite3.connect(f"file:{quote(os.fspath(path))}?{options}", uri=True))


@contextmanager
def copied(
    source: sqlite3.Connection, path: str, prepare: Callable[[sqlite3.Connection], object] | None = None
) -> Iterator[str]:
    """Copy the database of the connection `source` into a new file beside `path`, for its owner only.

    Yields the file's name when it is on disk, and deletes what is still there in the end. `prepare(connection)` may
    change the copy. Raises `sqlite3.DatabaseError` when it is damaged, or has no table of states.
    """
    part = f"{path}.{secrets.token_hex(4)}"
    file = os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with closing(sqlite3.connect(part, isolation_level=None)) as copy:
            copy.execute("PRAGMA journal_mode = OFF")
            source.backup(copy)
            refuse_damaged(copy)
            copy.execute("SELECT key, sender, state FROM states LIMIT 1").fetchall()
            copy.execute("PRAGMA journal_mode = DELETE")  # no -wal belongs to it, also when it is read
            if prepare:
                prepare(copy)
            # Not the mark of the original: who copies this over that is noticed.
            copy.execute(f"PRAGMA application_id = {new_mark()}")
        os.fsync(file)
        yield part
    finally:
        os.close(file)
        with suppress(FileNotFoundError):
            os.unlink(part)


def move(part: str, path: str) -> None:
    """Give a file another name in its folder, and wait until that is on disk."""
    os.rename(part, path)
    folder = os.open(os.path.dirname(path), os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def new_mark() -> int:
    """Return a random `application_id`."""
    return secrets.randbelow(2**31 - 1) + 1


def refuse_damaged(connection: sqlite3.Connection) -> None:
    """Raise `sqlite3.DatabaseError` when SQLite finds damage; a million rows take it a third of a second."""
    ((found,),) = connection.execute("PRAGMA quick_check(1)").fetchall()
    if found != "ok":
        raise sqlite3.DatabaseError(f"the database is damaged: {found.splitlines()[-1]}")


def _inodes(path: str) -> tuple[int, ...]:
    return os.stat(path).st_ino, os.stat(f"{path}-wal").st_ino, os.stat(f"{path}-shm").st_ino


def _descriptor(path: str) -> int:
    status = os.stat(path)
    inode = status.st_dev, status.st_ino
    if inode not in _descriptors:
        _descriptors[inode] = os.open(path, os.O_RDONLY)
    return _descriptors[inode]


def _after_fork_in_child() -> None:
    _users.clear()
    while _descriptors:
        os.close(_descriptors.popitem()[1])


os.register_at_fork(after_in_child=_after_fork_in_child)
