"""The frame queue: bounded, between the training thread and the event loop."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Container, Sequence
from dataclasses import dataclass
from threading import Lock

from ..clip import CaptureRequest, Frame, Snapshot
from ..config import DropPolicy
from ..frame_pool import PoolSlot
from .drop_policies import REFUSED, Evictions, choose_evictions, is_on_grid


@dataclass(frozen=True, slots=True, kw_only=True)
class QueuedFrame:
    """A capture on its way; whoever takes it out of the queue releases its slot."""

    request: CaptureRequest
    capture: Frame | Snapshot
    slot: PoolSlot

    @property
    def clip_index(self) -> int:
        """The clip it belongs to."""
        return self.request.clip.clip_index

    @property
    def nbytes(self) -> int:
        """Bytes of the capture."""
        return self.capture.nbytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """The answer to `make_room`."""

    granted: bool
    evicted: tuple[QueuedFrame, ...] = ()
    """Frames taken out of the queue to make room; their slots are the caller's to release."""


class FrameQueue:
    """First in, first out within a clip; bounded by count and by bytes over all clips.

    One thread puts, another gets; no call waits except `wait_for_room`.

    Attributes:
        is_wanting: Somebody found nothing to get, and waits to be told of the next frame; whoever tells of one clears
            this first.
    """

    def __init__(self, *, depth: int, nbytes: int, policy: DropPolicy) -> None:
        self._depth_limit = depth
        self._nbytes_limit = nbytes
        self._policy = policy
        self._waiting: dict[int, deque[QueuedFrame]] = {}
        self._grids: dict[int, int] = {}
        # A plain lock: inside of a condition's own code a Ctrl-C would leave it locked.
        self._lock = Lock()
        self._doors: list[Lock] = []
        """A locked lock for each thread that waits for room."""
        self.depth = 0
        self.nbytes = 0
        self.depth_high_water = 0
        self.is_wanting = True

    def make_room(self, request: CaptureRequest, nbytes: int) -> Room:
        """Apply the drop policy to a new frame of `nbytes` bytes, before it is captured."""
        evicted: list[QueuedFrame] = []
        with self._lock:
            admitted = self._policy is not DropPolicy.THIN or self._is_on_grid(request)
            while admitted and not self._has_room(nbytes):
                evictions = self._choose(request, nbytes)
                for clip, pts in evictions.pts.items():
                    evicted += self._take_out(clip, pts)
                    self._grids[clip] = evictions.grid
                admitted = evictions.admitted
        return Room(granted=admitted, evicted=tuple(evicted))

    def put_nowait(self, frame: QueuedFrame) -> bool:
        """Append a frame; False, without keeping it, where there is no room."""
        with self._lock:
            if not self._has_room(frame.nbytes):
                return False
            self._waiting.setdefault(frame.clip_index, deque()).append(frame)
            self.depth += 1
            self.nbytes += frame.nbytes
            self.depth_high_water = max(self.depth_high_water, self.depth)
            return True

    def get_nowait(self, clips: Container[int], *, waits: bool = True) -> QueuedFrame | None:
        """Take the frame out that has waited longest among those of `clips`; None where there is none.

        Args:
            clips: Indices of clips.
            waits: Where there is none, the caller waits to be told of the next one; otherwise it comes back by itself.
        """
        with self._lock:
            clip = self._oldest(clips)
            if clip is None:
                self.is_wanting |= waits
                return None
            return self._take(clip)

    def wait_for_room(self, nbytes: int, timeout_s: float) -> bool:
        """Wait on the calling thread until a frame of `nbytes` bytes fits; False once `timeout_s` is over."""
        deadline = time.monotonic() + timeout_s
        while (left_s := deadline - time.monotonic()) > 0:
            door = Lock()
            door.acquire()
            with self._lock:
                if self._has_room(nbytes):
                    return True
                self._doors.append(door)
            door.acquire(timeout=left_s)
        return self.has_room(nbytes)

    def has_room(self, nbytes: int) -> bool:
        """Whether a frame of `nbytes` bytes fits now."""
        with self._lock:
            return self._has_room(nbytes)

    def fits(self, nbytes: int) -> bool:
        """Whether a frame of `nbytes` bytes could ever be put."""
        return nbytes <= self._nbytes_limit

    def waiting(self, clip: int) -> int:
        """Return how many frames of a clip wait."""
        with self._lock:
            return len(self._waiting.get(clip, ()))

    def steps(self, clip: int) -> list[int]:
        """Return the steps of the waiting frames of a clip."""
        with self._lock:
            return [frame.request.step for frame in self._waiting.get(clip, ())]

    def discard(self, clip: int) -> list[QueuedFrame]:
        """Take every waiting frame of a clip out."""
        with self._lock:
            self.is_wanting = True
            return [self._take(clip) for _ in range(len(self._waiting.get(clip, ())))]

    def _has_room(self, nbytes: int) -> bool:
        return self.depth < self._depth_limit and self.nbytes + nbytes <= self._nbytes_limit

    def _is_on_grid(self, request: CaptureRequest) -> bool:
        return is_on_grid(self._grids.get(request.clip.clip_index, 1), request.pts)

    def _choose(self, request: CaptureRequest, nbytes: int) -> Evictions:
        if not self.fits(nbytes):
            return REFUSED
        waiting = {clip: [frame.request.pts for frame in frames] for clip, frames in self._waiting.items()}
        return choose_evictions(self._policy, waiting, self._oldest(waiting), (request.clip.clip_index, request.pts))

    def _oldest(self, clips: Container[int]) -> int | None:
        """Return the clip whose first frame is the oldest: clips and steps only ever count up."""
        heads = [(frames[0].request.step, clip) for clip, frames in self._waiting.items() if frames and clip in clips]
        return min(heads)[1] if heads else None

    def _take(self, clip: int) -> QueuedFrame:
        frame = self._waiting[clip].popleft()
        self._account_taken(clip, (frame,))
        return frame

    def _take_out(self, clip: int, pts: Container[int]) -> list[QueuedFrame]:
        taken = [frame for frame in self._waiting[clip] if frame.request.pts in pts]
        self._waiting[clip] = deque(frame for frame in self._waiting[clip] if frame.request.pts not in pts)
        self._account_taken(clip, taken)
        return taken

    def _account_taken(self, clip: int, taken: Sequence[QueuedFrame]) -> None:
        if not self._waiting[clip]:
            del self._waiting[clip]
            self._grids.pop(clip, None)
        self.depth -= len(taken)
        self.nbytes -= sum(frame.nbytes for frame in taken)
        while self._doors:
            self._doors.pop().release()
