"""A segment as a file: its container, and how it comes to its name."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Protocol, TypeAlias

import av
from av.container import OutputContainer
from av.packet import Packet as AnyPacket
from av.video.stream import VideoStream

from ..clip import DropCause
from ..errors import EncodeError
from .files import sync_folder
from .segment_label import SegmentLabel as SegmentLabel

Packet: TypeAlias = "AnyPacket[VideoStream]"

CONTAINER_OPTIONS = {
    # Fragmented while it grows, an ordinary MP4 once closed; a fragment ends at each keyframe.
    "movflags": "hybrid_fragmented+frag_keyframe",
    "flush_packets": "1",
    # A player of a growing file would lose the first fragment to an edit list.
    "use_editlist": "0",
}


class Part(Protocol):
    """What FFmpeg writes through; see `PartFile`."""

    def write(self, data: bytes) -> int:
        """Write all of `data`."""
        ...

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move to an offset [bytes], and return it."""
        ...

    def tell(self) -> int:
        """Return the offset [bytes] of the next write."""
        ...

    def close(self) -> int:
        """Finish, and return the size [bytes]."""
        ...

    def abandon(self) -> None:
        """Take nothing more."""
        ...


class PartFile:
    """A new file that FFmpeg writes through, so that it is never another's file and can be let go of unfinished.

    Raises:
        FileExistsError: there is a file of this name.
    """

    def __init__(self, path: Path) -> None:
        self._file = open(path, "xb", buffering=0)
        self._abandoned = False

    def write(self, data: bytes) -> int:
        """Write all of `data`; nothing once the file was abandoned."""
        rest = memoryview(data)
        while rest and not self._abandoned:
            rest = rest[self._file.write(rest) :]
        return len(data)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move to an offset [bytes], and return it."""
        return 0 if self._abandoned else self._file.seek(offset, whence)

    def tell(self) -> int:
        """Return the offset [bytes] of the next write."""
        return 0 if self._abandoned else self._file.tell()

    def close(self) -> int:
        """Bring the file to the disk and return its size [bytes]."""
        with self._file:
            os.fsync(self._file.fileno())
            return os.fstat(self._file.fileno()).st_size

    def abandon(self) -> None:
        """Close the file. What FFmpeg writes from here on, such as the end of a container, goes nowhere."""
        self._abandoned = True
        self._file.close()


def open_container(part: Part, label: SegmentLabel) -> OutputContainer:
    """Return an MP4 that grows in fragments and bears `label`."""
    container = av.open(part, "w", format="mp4", options=dict(CONTAINER_OPTIONS))
    container.metadata["comment"] = label.to_comment()
    return container


def publish(path: Path, final_path: Path) -> None:
    """Rename a file that is on the disk to a name that is free, so that the name is on the disk, too."""
    if os.path.lexists(final_path):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(final_path))
    os.rename(path, final_path)
    sync_folder(final_path.parent)


def encode_error(path: Path, action: str, exc: Exception) -> EncodeError:
    """Return the error that says that the segment at `path` could not be `action`, and why."""
    cause = DropCause.of_write_error(exc) if isinstance(exc, OSError) else DropCause.ENCODE_FAILED
    found = exc.strerror if isinstance(exc, OSError) and exc.strerror else " ".join(str(exc).split())
    advice = "; make room on the disk" if cause is DropCause.DISK_FULL else ""
    return EncodeError(f"{path} can't be {action}: {found}{advice}", cause=cause)
