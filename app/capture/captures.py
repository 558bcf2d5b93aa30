"""Captures: lease room, have the backend write into it, tell of it in the journal."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from ..clip import CaptureRequest, DropCause, Frame, Snapshot
from ..errors import CaptureError, SourceChangedError, describe
from ..interfaces import PendingSnapshot
from ..statistics import Timings
from ..transport.journal import CAUSES, JournalWriter, Kind
from ..transport.shared_memory import SharedMemory, TrainingWord
from .admission import Admission
from .frame_pool import FramePool, PoolSlot
from .stream import Stream
from .warnings import Warnings

Twin = Callable[[CaptureRequest], CaptureRequest | None]
"""Returns what else wants the picture of a step, so that it is captured once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldCapture:
    """A frame that waits, under `DropPolicy.BLOCK`, for room to be captured into."""

    stream: Stream
    request: CaptureRequest
    nbytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _OnItsWay:
    """A capture whose copy from the device is still under way."""

    stream: Stream
    request: CaptureRequest
    snapshot: PendingSnapshot
    slot: PoolSlot


class Captures:
    """Takes what is wanted, of whichever stream. Belongs to the training thread.

    Attributes:
        held: Frames that found no room under `DropPolicy.BLOCK`, in order; whoever called waits, then calls
            `take_held` or `drop_held`.
        timings: Durations of captures.
    """

    def __init__(
        self, memory: SharedMemory, journal: JournalWriter, pool: FramePool, admission: Admission, warnings: Warnings
    ) -> None:
        self.held: deque[HeldCapture] = deque()
        self.timings = Timings()
        self.is_capturing = False
        self.twin: Twin = _no_twin
        self.source_changed: Callable[[CaptureRequest], None] = _nothing
        """Called where a clip can't be captured any further."""
        self.lost: Callable[[str], None] = _nothing
        """Called with why frames were lost."""
        self._training = memory.training
        self._journal = journal
        self._pool = pool
        self._admission = admission
        self._warnings = warnings
        self._on_their_way: deque[_OnItsWay | Callable[[], None]] = deque()
        self._after_held: deque[Callable[[], None]] = deque()

    @property
    def are_on_their_way(self) -> bool:
        """Whether anything waits for a device."""
        return bool(self._on_their_way)

    def capture(self, stream: Stream, request: CaptureRequest) -> None:
        """Capture a frame, refuse it, or hold it until there is room.

        Room is looked for first: a frame that is refused costs no copy, and no drawing.
        """
        admission = self._admission
        if not request.clip.is_ring:
            self._training[TrainingWord.REQUESTED] += 1
        if self.held or not (admission.is_wanted(request, stream.index) and admission.has_room(stream.capture_nbytes)):
            self._hold_or_refuse(stream, request, stream.capture_nbytes)
        else:
            self._take(stream, request)

    def has_room_for_held(self) -> bool:
        """Whether the first held frame can be captured now."""
        return self._admission.has_room(self.held[0].nbytes)

    def take_held(self) -> None:
        """Capture the first held frame."""
        held = self.held.popleft()
        self._take(held.stream, held.request)
        self._call_after_held()

    def drop_held(self) -> None:
        """Drop every held frame: there was no room for too long."""
        while self.held:
            self._refuse(self.held.popleft().request)
        self._call_after_held()

    def after_captures(self, call: Callable[[], None]) -> None:
        """Call it once all that was asked for so far is in the journal: what is held, and what is on its way."""
        if self.held:
            self._after_held.append(call)
        elif self._on_their_way:
            self._on_their_way.append(call)
        else:
            call()

    def publish_arrived(self, *, wait: bool) -> None:
        """Publish, in order, the captures that the device has finished copying."""
        while self._on_their_way:
            head = self._on_their_way[0]
            if isinstance(head, _OnItsWay):
                if not self._publish_if_arrived(head, wait=wait):
                    return
            else:
                head()
            self._on_their_way.popleft()

    def _call_after_held(self) -> None:
        while self._after_held and not self.held:
            self.after_captures(self._after_held.popleft())

    def _hold_or_refuse(self, stream: Stream, request: CaptureRequest, nbytes: int) -> None:
        if self._admission.waits and self._admission.fits(nbytes):
            self.held.append(HeldCapture(stream=stream, request=request, nbytes=nbytes))
        else:
            self._refuse(request)

    def _take(self, stream: Stream, request: CaptureRequest) -> None:
        slot = self._pool.lease()
        start = time.perf_counter()
        self.is_capturing = True
        try:
            capture = stream.backend.capture(request, slot)
        except SourceChangedError as exc:
            self._fail(request, slot, exc)
            self.source_changed(request)
            return
        except KeyboardInterrupt:
            self._drop(request, DropCause.CAPTURE_FAILED, slot)
            raise
        except BaseException as exc:  # noqa: BLE001 - whatever a simulator raises costs this frame, not the training.
            if slot.refused_nbytes and self._admission.fits(slot.refused_nbytes):
                slot.release()
                self._hold_or_refuse(stream, request, slot.refused_nbytes)
            else:
                self._fail(request, slot, exc)
            return
        finally:
            self.is_capturing = False
        self.timings.add(time.perf_counter() - start)
        if isinstance(capture, Frame | Snapshot):
            wanted = self.twin(request)
            shared = slot.share() if wanted and slot.room else None
            self._publish(stream, request, capture, slot)
            if wanted and shared:
                self._publish(stream, wanted, capture, shared)
        else:
            self._on_their_way.append(_OnItsWay(stream=stream, request=request, snapshot=capture, slot=slot))

    def _publish_if_arrived(self, head: _OnItsWay, *, wait: bool) -> bool:
        try:
            snapshot = head.snapshot.wait() if wait else head.snapshot.poll()
        except KeyboardInterrupt:
            raise
        except BaseException as exc:  # noqa: BLE001 - a device that fails costs this frame, not the training.
            self._fail(head.request, head.slot, exc)
            return True
        if snapshot is None:
            return False
        self._publish(head.stream, head.request, snapshot, head.slot)
        return True

    def _publish(self, stream: Stream, request: CaptureRequest, capture: Frame | Snapshot, slot: PoolSlot) -> None:
        try:
            height, width, nbytes = _measure(capture, slot.room)
        except KeyboardInterrupt:
            self._drop(request, DropCause.CAPTURE_FAILED, slot)
            raise
        except BaseException as exc:  # noqa: BLE001 - whatever it is instead of a capture costs this frame.
            self._fail(request, slot, exc)
            return
        stream.capture_nbytes = nbytes
        number = self._journal.next_number()
        self._pool.hand_over(number, slot)
        if self._journal.write_frame(
            number, request.clip.clip_index, request.step, request.pts, slot.offset, nbytes, height, width
        ):
            self._admission.published(nbytes)
        else:
            self._pool.forget(number)
            slot.release()
            self._refuse(request)

    def _fail(self, request: CaptureRequest, slot: PoolSlot, exc: BaseException) -> None:
        self._drop(request, DropCause.CAPTURE_FAILED, slot)
        error = describe(exc).removeprefix(f"{type(exc).__name__}: ")
        self._warnings.warn("capture.failed", type(exc).__name__, error=error, step=request.step)
        self.lost(f"a capture failed: {error}")

    def _refuse(self, request: CaptureRequest) -> None:
        self._tell_dropped(request, DropCause.QUEUE_FULL)
        self._warnings.warn("queue.full", DropCause.QUEUE_FULL, depth=self._admission.depth)
        self.lost("the frame queue was full")

    def _drop(self, request: CaptureRequest, cause: DropCause, slot: PoolSlot) -> None:
        slot.release()
        self._tell_dropped(request, cause)

    def _tell_dropped(self, request: CaptureRequest, cause: DropCause) -> None:
        self._journal.write(
            Kind.FRAMES_DROPPED,
            clip=request.clip.clip_index,
            step=request.step,
            pts=request.step,
            width=request.clip.frame_stride,
            height=CAUSES.index(cause),
        )


def _measure(capture: Frame | Snapshot, room: int) -> tuple[int, int, int]:
    """Return height, width and bytes of a capture. Raises `CaptureError`, or what its numbers raise."""
    nbytes = int(capture.nbytes)
    if not 0 < nbytes <= room:
        raise CaptureError(f"the backend announced {nbytes} bytes, and asked its slot for {room}")
    if not isinstance(capture, Frame):
        return 0, 0, nbytes
    height, width = int(capture.height), int(capture.width)
    if height < 1 or height * width * 3 != nbytes:
        raise CaptureError(f"the backend announced a picture of {width}x{height} pixels and {nbytes} bytes")
    return height, width, nbytes


def _no_twin(request: CaptureRequest) -> CaptureRequest | None:
    return None


def _nothing(fact: object) -> None:
    pass
