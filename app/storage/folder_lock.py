"""Whether anybody records into a folder: a lock that ends with the process that holds it."""

from __future__ import annotations

import errno
import fcntl
import os
import time
from contextlib import suppress
from pathlib import Path
from weakref import WeakSet

from ..errors import OutputError

LOCK_FILE = ".stepreel.lock"
"""Empty; a recorder takes it away when it is closed. After a kill it stays, and means nothing."""

_POLL_S = 0.05
_UNSUPPORTED = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)
_READ_ONLY = (errno.EROFS, errno.EACCES, errno.EPERM)

_held: WeakSet[FolderLock] = WeakSet()


class FolderLock:
    """A lock on an output folder, shared by all who record into it, or held by one who repairs it.

    A process that was forked from the holder does not hold it, nor does a program that it starts. Also told to other
    machines where the file system is a network one that passes locks on.
    """

    def __init__(self, path: Path, fd: int | None, *, is_shared: bool = False) -> None:
        self.is_shared = is_shared
        """Whether others had the folder already."""
        self._path = path
        self._fd = fd
        _held.add(self)

    @classmethod
    def share(cls, folder: Path, *, timeout_s: float = 10.0) -> FolderLock:
        """Lock a folder to record into it. Blocks while it is being repaired, at most `timeout_s`.

        Where the file system has no locks nothing is locked, and `is_held` says so.

        Raises:
            OutputError: the folder is still being repaired, or can't be written.
        """
        path = folder / LOCK_FILE
        is_shared, fd = is_recorded_into(folder), None
        try:
            fd = _acquire(path, fcntl.LOCK_SH, timeout_s)
        except BlockingIOError as exc:
            raise OutputError(f"{folder} is being repaired by `stepreel recover`; wait for its end") from exc
        except OSError as exc:
            if exc.errno not in _UNSUPPORTED:
                raise OutputError(f"{path} can't be made: {exc.strerror or exc}") from exc
        return cls(path, fd, is_shared=is_shared)

    @classmethod
    def claim(cls, folder: Path, *, timeout_s: float) -> FolderLock | None:
        """Lock a folder against everybody else. Blocks while it is recorded into, at most `timeout_s`.

        Where the file system has no locks, or may not be written, nothing is locked, and `is_held` says so.

        Returns:
            None where the folder is still recorded into, or repaired by another.

        Raises:
            OutputError: the folder can't be read.
        """
        path = folder / LOCK_FILE
        try:
            return cls(path, _acquire(path, fcntl.LOCK_EX, timeout_s))
        except BlockingIOError:
            return None
        except OSError as exc:
            if exc.errno not in (*_UNSUPPORTED, *_READ_ONLY):
                raise OutputError(f"{path} can't be locked: {exc.strerror or exc}") from exc
            return cls(path, None)

    @property
    def is_held(self) -> bool:
        """Whether others can see the lock."""
        return self._fd is not None

    def release(self) -> None:
        """Let go of the lock; the last one to do so takes the file away. A second call does what is left to do."""
        if self._fd is None:
            return
        with suppress(OSError):  # Somebody else shares it, or the folder is gone: nothing to take away.
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_at(self._fd, self._path):
                os.unlink(self._path)
        self.forget()

    def forget(self) -> None:
        """Let go of the lock in this process only: another one that has it by inheritance keeps it."""
        fd, self._fd = self._fd, None
        if fd is not None:
            os.close(fd)


def is_recorded_into(folder: Path) -> bool:
    """Return whether anybody holds the lock of a folder now; writes nothing, and does not block."""
    try:
        fd = os.open(folder / LOCK_FILE, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(fd)  # Lets go of it, too: whoever comes meanwhile looks again soon.
    return False


def _acquire(path: Path, operation: int, timeout_s: float) -> int:
    """Return a descriptor of the locked file. Raises `BlockingIOError` where others have it for too long."""
    deadline = time.monotonic() + timeout_s
    while True:
        fd = _open(path)
        try:
            fcntl.flock(fd, operation | fcntl.LOCK_NB)
            if _is_at(fd, path):
                return fd
        except BlockingIOError:
            if time.monotonic() >= deadline:
                os.close(fd)
                raise
            time.sleep(_POLL_S)
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)  # Its last holder took the file away, or we were told to wait.


def _open(path: Path) -> int:
    flags = os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | flags, 0o666)
    except OSError as exc:
        if exc.errno not in _READ_ONLY:
            raise
        try:
            return os.open(path, os.O_RDONLY | flags)  # Another user's: enough to see whether it is locked.
        except FileNotFoundError:
            raise exc from None


def _is_at(fd: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), os.lstat(path))
    except FileNotFoundError:
        return False


def _forget_all() -> None:
    for lock in tuple(_held):
        lock.forget()


# A data loader that outlives the training it was forked from must not pass for a recorder.
os.register_at_fork(after_in_child=_forget_all)
