"""Names of files that are not whole yet, files that are what they seem, and folders brought to the disk."""

from __future__ import annotations

import errno
import os
import stat
from io import BufferedReader
from pathlib import Path

PART_SUFFIX = ".part"
"""Ends the name of a segment or manifest that is not whole yet."""


def open_ordinary(path: Path) -> BufferedReader:
    """Open a file for reading that lies where its name says, and ends: no link, pipe or device.

    Raises:
        OSError: it is none, or can't be read.
    """
    flags = os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    try:
        fd = os.open(path, flags)
    except OSError as exc:
        if exc.errno == errno.ELOOP:
            raise OSError(errno.ELOOP, "it is a link, and links are not followed", str(path)) from exc
        raise
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError(errno.EINVAL, "it is not an ordinary file", str(path))
        return open(fd, "rb")
    except BaseException:
        os.close(fd)
        raise


def free_nbytes(folder: Path) -> int | None:
    """Return how much room there is for files in a folder; None where its file system tells no size at all.

    Raises:
        OSError: the folder is not there, or can't be asked.
    """
    disk = os.statvfs(folder)
    return disk.f_bavail * disk.f_frsize if disk.f_blocks else None


def sync_folder(folder: Path) -> None:
    """Bring the names in a folder to the disk, where the system can."""
    if os.name == "nt":
        return
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    except OSError as exc:
        if exc.errno != errno.EINVAL:  # Some network file systems can't.
            raise
    finally:
        os.close(fd)
