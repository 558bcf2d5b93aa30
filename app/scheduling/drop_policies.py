"""What makes way in a full queue: plain functions of what waits."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

from ..config import DropPolicy

_TOP_LEVEL = 63
"""Level of `pts` 0, which lies on every grid."""


class Waiting(Protocol):
    """The `pts` of one clip's waiting frames, by level: how often two divides them."""

    @property
    def first(self) -> int:
        """The one that has waited longest."""
        ...

    def __len__(self) -> int: ...

    @property
    def lowest_level(self) -> int:
        """The lowest level of any of them."""
        ...

    def at_level(self, level: int) -> Iterable[int]:
        """Those of one level."""
        ...

    def __iter__(self) -> Iterator[int]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Evictions:
    """What makes way for a new frame."""

    admitted: bool
    """The new frame may still come in, if there is room now."""
    clip: int = 0
    pts: tuple[int, ...] = ()
    """What is dropped of the clip."""
    grid: int = 1
    """Under `THIN`: what remains of the clip lies on multiples of this."""


REFUSED = Evictions(admitted=False)


def choose_evictions(
    policy: DropPolicy, waiting: Mapping[int, Waiting], oldest: int | None, incoming: tuple[int, int]
) -> Evictions:
    """Choose, once, what makes way in a full queue. Costs no more than what it drops, and a look at each clip.

    Args:
        policy: The policy in force; `BLOCK` and `DROP_NEWEST` never drop what waits.
        waiting: What waits of each clip, by its index; none is empty.
        oldest: The clip whose first frame has waited longest; None where nothing waits.
        incoming: Clip index and `pts` of the new frame.
    """
    if oldest is None or policy in (DropPolicy.BLOCK, DropPolicy.DROP_NEWEST):
        return REFUSED
    if policy is DropPolicy.DROP_OLDEST:
        return Evictions(admitted=True, clip=oldest, pts=(waiting[oldest].first,))
    return _thin_longest(waiting, incoming)


def is_on_grid(grid: int, pts: int) -> bool:
    """Whether a clip that was thinned to `grid` still takes a frame.

    One step finer than the grid, so that a queue that is emptied fills up again, while the rate over the clip
    never differs by more than a factor of two.
    """
    return pts % max(1, grid // 2) == 0


def level_of(pts: int) -> int:
    """Return how often two divides `pts`."""
    return (pts & -pts).bit_length() - 1 if pts else _TOP_LEVEL


def _thin_longest(waiting: Mapping[int, Waiting], incoming: tuple[int, int]) -> Evictions:
    """Drop the frames of the finest level, the new one among them, from the clip that has most waiting."""
    new_clip, new_pts = incoming
    longest = max(waiting, key=lambda clip: len(waiting[clip]))
    frames = waiting[longest]
    is_own = new_clip == longest
    if len(frames) + is_own < 2:
        return REFUSED
    level = min(frames.lowest_level, level_of(new_pts)) if is_own else frames.lowest_level
    doomed = tuple(frames.at_level(level))
    is_doomed = is_own and level_of(new_pts) == level
    if len(doomed) + is_doomed == len(frames) + is_own:  # All of one level: every second one, as they came.
        order = [*frames, new_pts] if is_own else list(frames)
        odd = order[1::2]
        is_doomed = is_own and len(order) % 2 == 0
        doomed = tuple(odd[:-1] if is_doomed else odd)
    return Evictions(admitted=not is_doomed, clip=longest, pts=doomed, grid=2 << level if level < _TOP_LEVEL else 2)
