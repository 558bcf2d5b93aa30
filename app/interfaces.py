"""What a backend, a renderer and a slot promise to one another, and to the recorder."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from .clip import CaptureRequest, Clip, ClipRequest, Frame, Segment, Snapshot


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


ClipHook = Callable[[Clip], None]
SegmentHook = Callable[[Clip, Segment], None]
AsyncClipHook = Callable[[Clip], Awaitable[None]]
AsyncSegmentHook = Callable[[Clip, Segment], Awaitable[None]]
