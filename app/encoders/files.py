"""Names of files that are not whole yet, and folders brought to the disk."""

from __future__ import annotations

import errno
import os
from pathlib import Path

PART_SUFFIX = ".part"
"""Ends the name of a segment or manifest that is not whole yet."""


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
