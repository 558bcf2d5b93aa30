"""Names of files that are not whole yet, files that are what they seem, and folders brought to the disk."""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress
from io import BufferedRandom, BufferedReader
from pathlib import Path

PART_SUFFIX = ".part"
"""Ends the name of a segment or manifest that is not whole yet."""
DRAFT_SUFFIX = ".draft"
"""Ends the name of a file that is written anew from another; whatever bears it may be deleted."""
NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
"""How to open a file that must not be there yet; also where a link of its name points nowhere."""


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


def write_whole(path: str, data: bytes) -> None:
    """Write a new file and bring it to the disk, in place of an ordinary file that lies there already.

    Few calls and no buffer: training waits for the GIL that this is done with.

    Raises:
        OSError: it can't be written, or a link lies there; a part of it may be there.
    """
    try:
        fd = os.open(path, NEW_FILE, 0o666)
    except FileExistsError:
        refuse_link(path)
        os.unlink(path)
        fd = os.open(path, NEW_FILE, 0o666)
    _fill(fd, data)


def replace_whole(path: Path, data: bytes) -> None:
    """Write a file in place of the one before, whole or not at all, and bring it and its name to the disk.

    Whatever lies where its draft goes, `<name>.part`, is taken away; a link is so itself, not what it points to.

    Raises:
        OSError: it can't be written, or a link lies there; the one before is still there.
    """
    draft = f"{path}{PART_SUFFIX}"
    try:
        try:
            fd = os.open(draft, NEW_FILE, 0o666)
        except FileExistsError:
            os.unlink(draft)
            fd = os.open(draft, NEW_FILE, 0o666)
        _fill(fd, data)
        refuse_link(path)
        os.replace(draft, path)
    except OSError:
        with suppress(OSError):
            os.unlink(draft)
        raise
    sync_folder(path.parent)


def refuse_link(path: str | Path) -> None:
    """Raise `OSError` where a link lies at `path`: somebody put it there, and it is neither followed nor replaced."""
    if os.path.islink(path):
        raise OSError(errno.ELOOP, "it is a link, and links are not followed", str(path))


def _fill(fd: int, data: bytes) -> None:
    try:
        while data:
            data = data[os.write(fd, data) :]
        os.fsync(fd)
    finally:
        os.close(fd)


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


def open_appending(path: Path) -> BufferedRandom:
    """Open a file to append to and read from, made where it is not there; never through a link.

    Raises:
        OSError: it can't be opened, or is a link.
    """
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0)
    return open(os.open(path, flags, 0o666), "ab+")
