"""A segment as a file: its container, what it says of itself, and how it comes to its name."""

from __future__ import annotations

import errno
import json
import os
import re
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Protocol, TypeAlias

import av
from av.container import OutputContainer
from av.packet import Packet as AnyPacket
from av.video.stream import VideoStream

from ..clip import DropCause
from ..errors import EncodeError
from .files import sync_folder

Packet: TypeAlias = "AnyPacket[VideoStream]"

CONTAINER_OPTIONS = {
    # Fragmented while it grows, an ordinary MP4 once closed; a fragment ends at each keyframe.
    "movflags": "hybrid_fragmented+frag_keyframe",
    "flush_packets": "1",
    # A player of a growing file would lose the first fragment to an edit list.
    "use_editlist": "0",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentLabel:
    """What a segment says of itself, in the container's `comment`: enough to tell the step of each frame."""

    clip: str
    start_step: int
    """The step shown by the frame at `pts` 0 of this file."""
    frame_stride: int
    fps: Fraction

    def step(self, pts: int) -> int:
        """Return the step shown at `pts` of this file, counted in frames."""
        return self.start_step + pts * self.frame_stride

    def pts(self, time_s: Fraction) -> int:
        """Return the frame at a time of this file [s]."""
        return round(time_s * self.fps)

    def to_comment(self) -> str:
        """Return the label as a container's comment holds it."""
        return json.dumps(
            {
                "stepreel": 1,
                "clip": self.clip,
                "start_step": self.start_step,
                "frame_stride": self.frame_stride,
                "fps": str(self.fps),
            }
        )

    @classmethod
    def from_comment(cls, comment: str | None) -> SegmentLabel | None:
        """Return the label in a container's comment, or None where there is none that makes sense."""
        try:
            found = json.loads(comment or "")
            clip, start_step, frame_stride, fps = (found[key] for key in ("clip", "start_step", "frame_stride", "fps"))
            if found["stepreel"] != 1 or not _is_clip_name(clip) or not _FPS.fullmatch(fps):
                return None
            rate = Fraction(fps)
        except (ValueError, KeyError, TypeError, ZeroDivisionError, RecursionError):
            return None
        if not _is_step(start_step) or not _is_step(frame_stride) or frame_stride < 1 or rate <= 0:
            return None
        return cls(clip=clip, start_step=start_step, frame_stride=frame_stride, fps=rate)


_FPS = re.compile(r"\d{1,9}(/\d{1,9})?", re.ASCII)
_MOST_STEPS = 2**53


def _is_clip_name(value: object) -> bool:
    usable = isinstance(value, str) and 1 <= len(value) <= 200 and value.isprintable()
    return usable and not {"/", "\\"} & set(str(value))


def _is_step(value: object) -> bool:
    return type(value) is int and abs(value) <= _MOST_STEPS


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
    if final_path.exists():
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(final_path))
    os.rename(path, final_path)
    sync_folder(final_path.parent)


def encode_error(path: Path, action: str, exc: Exception) -> EncodeError:
    """Return the error that says that the segment at `path` could not be `action`, and why."""
    cause = DropCause.of_write_error(exc) if isinstance(exc, OSError) else DropCause.ENCODE_FAILED
    found = exc.strerror if isinstance(exc, OSError) and exc.strerror else " ".join(str(exc).split())
    advice = "; make room on the disk" if cause is DropCause.DISK_FULL else ""
    return EncodeError(f"{path} can't be {action}: {found}{advice}", cause=cause)
