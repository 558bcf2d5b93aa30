"""What is dropped when the frame queue is full: plain functions of what waits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ..config import DropPolicy


@dataclass(frozen=True, slots=True, kw_only=True)
class Evictions:
    """What makes way for a new frame."""

    admitted: bool
    """The new frame may still come in, if there is room now."""
    pts: Mapping[int, frozenset[int]] = field(default_factory=dict)
    """The `pts` to drop, by clip index."""
    grid: int = 1
    """Under `THIN`: what remains of the thinned clip lies on multiples of this."""


REFUSED = Evictions(admitted=False)


def choose_evictions(
    policy: DropPolicy, waiting: Mapping[int, Sequence[int]], oldest: int | None, incoming: tuple[int, int]
) -> Evictions:
    """Choose, once, what makes way in a full queue.

    Args:
        policy: The policy in force; `BLOCK` and `DROP_NEWEST` never drop what waits.
        waiting: The `pts` of the waiting frames, ascending, by clip index.
        oldest: Index of the clip whose first frame has waited longest; None where nothing waits.
        incoming: Clip index and `pts` of the new frame.
    """
    if oldest is None or policy in (DropPolicy.BLOCK, DropPolicy.DROP_NEWEST):
        return REFUSED
    if policy is DropPolicy.DROP_OLDEST:
        return Evictions(admitted=True, pts={oldest: frozenset({waiting[oldest][0]})})
    return _thin_longest(waiting, incoming)


def is_on_grid(grid: int, pts: int) -> bool:
    """Whether a clip that was thinned to `grid` still takes a frame.

    One step finer than the grid, so that a queue that is emptied fills up again, while the rate over the clip
    never differs by more than a factor of two.
    """
    return pts % max(1, grid // 2) == 0


def _thin_longest(waiting: Mapping[int, Sequence[int]], incoming: tuple[int, int]) -> Evictions:
    new_clip, new_pts = incoming
    longest = max(waiting, key=lambda clip: len(waiting[clip]))
    candidates = [*waiting[longest], new_pts] if new_clip == longest else waiting[longest]
    grid, off_grid = thin(candidates)
    if not off_grid:
        return REFUSED
    admitted = new_clip != longest or new_pts not in off_grid
    return Evictions(
        admitted=admitted, pts={longest: off_grid - {new_pts} if new_clip == longest else off_grid}, grid=grid
    )


def thin(pts: Sequence[int]) -> tuple[int, frozenset[int]]:
    """Return the finest power-of-two grid that leaves some frames out, and those frames.

    Frames at full rate lose every second one; frames already at half rate are only touched once none is left in
    between.
    """
    grid = 2
    if len(pts) < 2:
        return grid, frozenset()
    while not (off_grid := frozenset(value for value in pts if value % grid)):
        grid *= 2
    return grid, off_grid if len(off_grid) < len(pts) else frozenset(pts[1::2])
