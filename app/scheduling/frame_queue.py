"""The frame queue: what waits for workers, bounded by count and bytes. Pure."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from ..config import DropPolicy
from .drop_policies import REFUSED, Evictions, choose_evictions, is_on_grid, level_of


class QueuedFrame(Protocol):
    """What the queue has to know of a frame."""

    @property
    def clip(self) -> int:
        """Index of its clip."""
        ...

    @property
    def step(self) -> int:
        """Counts up from frame to frame of a clip."""
        ...

    @property
    def pts(self) -> int:
        """Place on the clip's timeline."""
        ...

    @property
    def nbytes(self) -> int:
        """Bytes of the capture."""
        ...


FrameT = TypeVar("FrameT", bound=QueuedFrame)


@dataclass(frozen=True, slots=True, kw_only=True)
class Admitted(Generic[FrameT]):
    """The answer to `put`."""

    is_in: bool
    evicted: tuple[FrameT, ...] = ()
    """What was taken out to make room."""


class FrameQueue(Generic[FrameT]):
    """First in, first out within a clip.

    Args:
        depth: Most frames that wait.
        nbytes: Most bytes that wait.
        policy: What happens to a frame for which there is no room.

    Attributes:
        nbytes_limit: Most bytes that wait; where it is lowered, what waits already stays.
    """

    def __init__(self, *, depth: int, nbytes: int, policy: DropPolicy) -> None:
        self._depth_limit = depth
        self.nbytes_limit = nbytes
        self._policy = policy
        self._waiting: dict[int, _ClipQueue[FrameT]] = {}
        self.grids: dict[int, int] = {}
        """By clip: what it was thinned to, while anything of it waits."""
        self.depth = 0
        self.nbytes = 0

    def put(self, frame: FrameT) -> Admitted[FrameT]:
        """Append a frame, if the policy finds room for it."""
        evicted: list[FrameT] = []
        is_in = self.is_wanted(frame.clip, frame.pts)
        while is_in and not self._has_room(frame.nbytes):
            evictions = self._choose(frame)
            evicted += self._evict(evictions)
            is_in = evictions.admitted
        if not is_in:
            return Admitted(is_in=False, evicted=tuple(evicted))
        self.put_anyway(frame)
        return Admitted(is_in=True, evicted=tuple(evicted))

    def put_anyway(self, frame: FrameT) -> None:
        """Append a frame, whether there is room or not: it was admitted before."""
        self._waiting.setdefault(frame.clip, _ClipQueue()).add(frame)
        self.depth += 1
        self.nbytes += frame.nbytes

    def get(self, clips: Container[int]) -> FrameT | None:
        """Take the frame out that has waited longest among those of `clips`; None where there is none."""
        clip = self._oldest(clips)
        return None if clip is None else self._take(clip, self._waiting[clip].first)

    def waiting(self, clip: int) -> int:
        """Return how many frames of a clip wait."""
        return len(self._waiting.get(clip, ()))

    def discard(self, clip: int) -> list[FrameT]:
        """Take every waiting frame of a clip out."""
        return [self._take(clip, pts) for pts in list(self._waiting.get(clip, ()))]

    def is_wanted(self, clip: int, pts: int) -> bool:
        """Whether a clip, thinned as it may be, takes a frame."""
        return is_on_grid(self.grids.get(clip, 1), pts)

    def __iter__(self) -> Iterator[FrameT]:
        for frames in self._waiting.values():
            yield from frames.frames()

    def _has_room(self, nbytes: int) -> bool:
        return self.depth < self._depth_limit and self.nbytes + nbytes <= self.nbytes_limit

    def _choose(self, frame: FrameT) -> Evictions:
        if frame.nbytes > self.nbytes_limit:
            return REFUSED
        return choose_evictions(self._policy, self._waiting, self._oldest(self._waiting), (frame.clip, frame.pts))

    def _evict(self, evictions: Evictions) -> list[FrameT]:
        taken = [self._take(evictions.clip, pts) for pts in evictions.pts]
        if evictions.grid > 1 and evictions.clip in self._waiting:
            self.grids[evictions.clip] = evictions.grid
        return taken

    def _oldest(self, clips: Container[int]) -> int | None:
        """Return the clip whose first frame is the oldest: clips and steps only ever count up."""
        heads = [(frames.first_step, clip) for clip, frames in self._waiting.items() if clip in clips]
        return min(heads)[1] if heads else None

    def _take(self, clip: int, pts: int) -> FrameT:
        frames = self._waiting[clip]
        frame = frames.remove(pts)
        if not frames:
            del self._waiting[clip]
            self.grids.pop(clip, None)
        self.depth -= 1
        self.nbytes -= frame.nbytes
        return frame


class _ClipQueue(Generic[FrameT]):
    """What waits of one clip, in order and by level: each operation costs the same, however much waits."""

    def __init__(self) -> None:
        # Unlike a dict, it finds its first entry at once after many were taken from its front.
        self._frames: OrderedDict[int, FrameT] = OrderedDict()
        self._levels: dict[int, dict[int, None]] = {}

    def add(self, frame: FrameT) -> None:
        self._frames[frame.pts] = frame
        self._levels.setdefault(level_of(frame.pts), {})[frame.pts] = None

    def remove(self, pts: int) -> FrameT:
        level = level_of(pts)
        del self._levels[level][pts]
        if not self._levels[level]:
            del self._levels[level]
        return self._frames.pop(pts)

    @property
    def first(self) -> int:
        return next(iter(self._frames))

    @property
    def first_step(self) -> int:
        return self._frames[self.first].step

    @property
    def lowest_level(self) -> int:
        return min(self._levels)

    def at_level(self, level: int) -> Iterable[int]:
        return self._levels.get(level, {})

    def frames(self) -> Iterable[FrameT]:
        return self._frames.values()

    def __len__(self) -> int:
        return len(self._frames)

    def __iter__(self) -> Iterator[int]:
        return iter(list(self._frames))
