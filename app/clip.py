"""The nouns of the data path: what is asked for, what is captured, and what became of it."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

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


class PendingSnapshot(Protocol):
    """A snapshot whose copy from the device is still under way."""

    def poll(self) -> Snapshot | None:
        """Return the snapshot once it is whole in its slot, else None. Never waits."""
        ...

    def wait(self) -> Snapshot:
        """Wait for the device, then return the snapshot. Called when a clip is closed, never from `step`."""
        ...


class Slot(Protocol):
    """Room for one capture in the frame pool, leased to a backend for one call of `capture`."""

    def array(self, nbytes: int) -> NDArray[np.uint8]:
        """Return the slot's first `nbytes` bytes, writable, shape `[nbytes]`.

        The array is valid until the capture is handed over; it may not be kept.
        A slot grows to what is asked of it; `CaptureError` where the frame pool can't hold as much.
        """
        ...


class Renderer(Protocol):
    """Draws snapshots. Pickled by the training process, opened and used in a worker by one thread."""

    @property
    def name(self) -> str:
        """What draws, once it is open; for the log."""
        ...

    def open(self) -> None:
        """Load the model and make the drawing context; may take seconds. Raises `BackendError`."""
        ...

    def render(self, snapshot: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Draw one snapshot.

        Args:
            snapshot: The bytes that `capture` wrote, shape `[nbytes]`, read-only, valid during the call.

        Returns:
            Pixels, shape `[height, width, 3]`, uint8, sRGB, top row first; the renderer may reuse the array
            at the next call.
        """
        ...

    def close(self) -> None:
        """Let go of what `open` took."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class RendererArchive:
    """What a renderer is made of, as plain data: it can be made again from that, elsewhere and later."""

    kind: str
    """Names the backend whose renderer it is; a key of `stepreel.backends.archives.MAKERS`."""
    arrays: Mapping[str, NDArray[Any]]
    """Of numbers, booleans or characters, never of objects: whoever reads them from a file unpickles nothing."""
    settings: Mapping[str, Any]
    """The rest, in JSON types: the camera, the size of the pictures."""


@runtime_checkable
class ArchivableRenderer(Renderer, Protocol):
    """A renderer whose snapshots can be kept in a file and drawn later."""

    def to_archive(self) -> RendererArchive:
        """Return what `stepreel.backends.archives.make_renderer` needs. Called before `open`, or after it."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptureFormat:
    """What a backend says of its captures when it is opened."""

    width: int | None
    """Pixels; None where only the first frame tells."""
    height: int | None
    nbytes: int | None
    """Bytes of one capture; None where only the first one tells."""
    steps_per_second: float | None
    """Simulated steps a second [Hz]; None where the simulator doesn't say."""
    renderer: Renderer | None = None
    """Draws the captures, if they are snapshots; None: the captures are pixels."""
    worker_environment: Mapping[str, str] = field(default_factory=dict)
    """Environment variables that a worker must start with to draw on the right device."""
    shares_gpu: bool = False
    """The renderer draws on the GPU that training computes on: every frame drawn there keeps training waiting."""
    details: Mapping[str, Any] = field(default_factory=dict)
    """What `session.json` and the log should say of the source and its camera; JSON types only."""


class Backend(Protocol):
    """A source of captures. Every method is called on the training thread."""

    @property
    def name(self) -> str:
        """What `session.json` and the manifests call the backend."""
        ...

    def open(self, *, width: int | None, height: int | None, worker_device: str) -> CaptureFormat:
        """Get ready for captures of `width` x `height` pixels (None: the backend's own size).

        Raises:
            BackendError: the simulator can't be recorded, with what was found and what to do.
        """
        ...

    def capture(self, request: CaptureRequest, slot: Slot) -> Frame | Snapshot | PendingSnapshot:
        """Write the current picture or state into `slot`.

        Raises:
            CaptureError: there is no picture, or not of the right kind; costs this frame only.
        """
        ...

    def close(self) -> None:
        """Let go of what `open` took. The simulator itself belongs to the caller."""
        ...


@runtime_checkable
class RenewableBackend(Backend, Protocol):
    """A backend whose simulator may be another one from some clip on: other bodies, another scene.

    Until it is asked, it captures what `open` or the last `renewed` announced; where the simulator has changed so
    much that it can't, `capture` raises `SourceChangedError`.
    """

    def renewed(self) -> CaptureFormat | None:
        """Return the format of the captures from here on; None: as before.

        Asked when a clip begins, before its first capture; may take as long as `open`, of which it keeps the size of
        the pictures and the device. Captures made before it are drawn by the renderer that was announced for them.

        Raises:
            BackendError: what is simulated now can't be recorded; captures fail until it can.
        """
        ...


@runtime_checkable
class ClipListener(Protocol):
    """A backend that also wants to know when clips begin and end; what it raises is logged and costs nothing else."""

    def clip_began(self, clip: ClipRequest) -> None:
        """Hear that a clip opens; its first capture follows."""
        ...

    def clip_ended(self, clip: ClipRequest) -> None:
        """Hear that no capture of this clip follows."""
        ...


class Report(Protocol):
    """Takes what whoever reads the log should know; repetitions are counted, and logged now and then."""

    def __call__(self, event: str, kind: str, *, count: int = 1, **facts: Any) -> None:
        """Tell of `event`; those of the same `kind` are counted together."""
        ...


@runtime_checkable
class ReportingBackend(Protocol):
    """A backend that has something for the log besides its errors."""

    def report_to(self, report: Report) -> None:
        """Be given the log, once, after `open`; it may be called on the training thread, until `close` returned."""
        ...


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
    folder: Path | None = field(default=None, compare=False)
    """Where its files are; None while it is not known. A clip is the same one in another folder."""

    @property
    def paths(self) -> tuple[Path, ...]:
        """The files of its segments, closed ones only."""
        return tuple((self.folder or Path()) / segment.file for segment in self.segments)

    def _repr_html_(self) -> str:
        return clip_to_html(self)


ClipHook = Callable[[Clip], None]
SegmentHook = Callable[[Clip, Segment], None]


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
