"""The nouns of the data path: what is asked for, what is captured, and what became of it."""

from __future__ import annotations

import errno
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .notebook import clip_to_html

Ranges = tuple[tuple[int, int], ...]
"""Steps as first and last of each range of neighbours, ascending."""

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class DropCause(StrEnum):
    """Why a requested frame is not in any segment."""

    QUEUE_FULL = "queue_full"
    CAPTURE_FAILED = "capture_failed"
    RENDER_FAILED = "render_failed"
    WORKER_LOST = "worker_lost"
    ENCODE_FAILED = "encode_failed"
    DISK_FULL = "disk_full"
    CLOSED = "closed"
    """The recorder was closed without waiting for what was queued."""
    DISCARDED = "discarded"
    """Its clip was not to be kept."""
    NOT_RENDERED = "not_rendered"
    """Its snapshot was to be kept, and drawn later."""

    @classmethod
    def of_write_error(cls, exc: OSError) -> DropCause:
        """Return `DISK_FULL` where there is no room left for a file, else `ENCODE_FAILED`."""
        return cls.DISK_FULL if exc.errno in _NO_ROOM else cls.ENCODE_FAILED


class ClipState(StrEnum):
    """How far a clip is; the `state` of its manifest."""

    RECORDING = "recording"
    COMPLETE = "complete"
    INCOMPLETE = "incomplete"
    RECOVERED = "recovered"
    FAILED = "failed"
    UNRENDERED = "unrendered"


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipRequest:
    """A span of steps that the schedule asked for."""

    name: str
    """File name without folder and suffix, as wished for; the file may get a number where the name is taken."""
    stream: str
    start_step: int
    """The step shown by the frame at `pts` 0: -1 where that is the reset before the very first step."""
    frame_stride: int
    clip_index: int
    """Counts the clips of one recorder from 0; identifies the clip inside this process."""
    is_ring: bool = False
    """Its last seconds are held in memory; it becomes a clip like others once it is saved."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptureRequest:
    """One frame that the schedule asked for."""

    clip: ClipRequest
    step: int
    pts: int
    """Place on the clip's timeline, in frames of `frame_stride` steps, from 0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """Pixels in a slot: shape `[height, width, 3]`, uint8, sRGB, C-contiguous, top row first."""

    height: int
    width: int

    @property
    def nbytes(self) -> int:
        """Bytes of the pixels."""
        return self.height * self.width * 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """The state of a simulator in a slot, in the layout that the stream's renderer understands."""

    nbytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """One closed MP4 file of a clip."""

    file: str
    """Name inside the output folder."""
    first_step: int
    last_step: int
    frames: int
    nbytes: int
    duration_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotFile:
    """The snapshots of frames of a clip that no worker has drawn; `stepreel render` can."""

    file: str
    """Name inside the output folder."""
    frames: int
    nbytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameCounts:
    """`requested == encoded + sum(dropped.values()) + pending`, at every moment."""

    requested: int = 0
    encoded: int = 0
    dropped: Mapping[DropCause, int] = field(default_factory=dict)
    pending: int = 0
    """Captured and neither encoded nor dropped yet."""

    @property
    def dropped_total(self) -> int:
        """Dropped frames, of whatever cause."""
        return sum(self.dropped.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class Clip:
    """What is known of a clip at one moment; once closed, for good."""

    name: str
    """File name without folder and suffix."""
    stream: str
    backend: str
    state: ClipState
    start_step: int
    end_step: int | None
    """The last step of the span; None while it is open."""
    frame_stride: int
    fps: float
    width: int | None
    height: int | None
    codec: str | None
    frames: FrameCounts
    missing_steps: Ranges
    """Requested steps without a frame, as inclusive ranges on the grid of `frame_stride`."""
    segments: tuple[Segment, ...]
    missing_by_cause: Mapping[DropCause, Ranges] = field(default_factory=dict)
    """The same ranges by cause; empty where it is not known of each of them."""
    open_segment: str | None = None
    """File name of the segment that is being written, ending in `.part`."""
    snapshots: SnapshotFile | None = None
    """What is kept of frames that were not drawn; they are among those dropped."""
    ended: str | None = None
    """How the run ended where it did not close the clip, such as "killed at step 1234"; else None."""
    folder: Path | None = field(default=None, compare=False)
    """Where its files are; None while it is not known. A clip is the same one in another folder."""

    @property
    def paths(self) -> tuple[Path, ...]:
        """The files of its segments, closed ones only."""
        return tuple((self.folder or Path()) / segment.file for segment in self.segments)

    def _repr_html_(self) -> str:
        return clip_to_html(self)


def to_ranges(steps: Iterable[int], stride: int) -> Ranges:
    """Return steps as inclusive ranges of neighbours that are `stride` apart, ascending."""
    ranges: list[tuple[int, int]] = []
    for step in sorted(steps):
        if ranges and step - ranges[-1][1] == stride:
            ranges[-1] = (ranges[-1][0], step)
        else:
            ranges.append((step, step))
    return tuple(ranges)


def steps_in(ranges: Iterable[tuple[int, int]], stride: int) -> set[int]:
    """Return the steps in inclusive ranges; what `to_ranges` made of them."""
    return {step for first, last in ranges for step in range(first, last + 1, stride)}


if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        """Give out what backends of users have imported from here, and lives beside it now."""
        # Python itself asks for `__path__`; loading numpy for that would make every program pay for it.
        interfaces = None if name.startswith("_") else import_module(".interfaces", __package__)
        if interfaces is None or not hasattr(interfaces, name):
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(interfaces, name)
