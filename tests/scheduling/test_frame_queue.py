"""The frame queue and its drop policies."""

from __future__ import annotations

import sys
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from types import FrameType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepreel import DropPolicy
from stepreel.scheduling import frame_queue
from stepreel.scheduling.drop_policies import is_on_grid
from stepreel.scheduling.frame_queue import Admitted, FrameQueue

NBYTES = 100


@dataclass(frozen=True, slots=True)
class Frame:
    pts: int
    clip: int = 0
    nbytes: int = NBYTES

    @property
    def step(self) -> int:
        return self.clip * 1_000_000 + self.pts


Queue = FrameQueue[Frame]


def offer(queue: Queue, frame: Frame) -> list[int]:
    """Put a frame; return the `pts` that were dropped for it, its own included."""
    admitted = queue.put(frame)
    return [one.pts for one in admitted.evicted] + [frame.pts] * (not admitted.is_in)


def offer_all(queue: Queue, frames: Iterable[Frame]) -> list[int]:
    return [pts for frame in frames for pts in offer(queue, frame)]


def drain(queue: Queue, clips: range = range(10)) -> list[int]:
    waiting = []
    while (one := queue.get(clips)) is not None:
        waiting.append(one.pts)
    return waiting


def make(policy: DropPolicy, depth: int = 4, nbytes: int = 10**9) -> Queue:
    return FrameQueue(depth=depth, nbytes=nbytes, policy=policy)


@pytest.mark.parametrize("policy", [DropPolicy.DROP_NEWEST, DropPolicy.BLOCK])
def test_drop_newest_and_block_keep_the_oldest_frames(policy: DropPolicy) -> None:
    queue = make(policy)
    dropped = offer_all(queue, map(Frame, range(6)))
    assert (drain(queue), dropped) == ([0, 1, 2, 3], [4, 5])


def test_drop_oldest_keeps_the_newest_frames() -> None:
    queue = make(DropPolicy.DROP_OLDEST)
    dropped = offer_all(queue, map(Frame, range(6)))
    assert (drain(queue), dropped) == ([2, 3, 4, 5], [0, 1])


def test_drop_oldest_takes_from_the_clip_that_has_waited_longest() -> None:
    queue = make(DropPolicy.DROP_OLDEST)
    offer_all(queue, [Frame(0, 2), Frame(0, 1), Frame(1, 1), Frame(1, 2)])
    assert [one.clip for one in queue.put(Frame(2, 2)).evicted] == [1]


def test_thin_halves_the_rate_evenly_and_then_quarters_it() -> None:
    queue = make(DropPolicy.THIN, depth=8)
    dropped = offer_all(queue, map(Frame, range(15)))
    assert drain(queue) == [0, 2, 4, 6, 8, 10, 12, 14]
    assert sorted(dropped) == [1, 3, 5, 7, 9, 11, 13]

    dropped = offer_all(queue, map(Frame, range(32)))
    waiting = drain(queue)
    assert {b - a for a, b in pairwise(waiting)} <= {2, 4}
    assert sorted(waiting + dropped) == list(range(32))


def test_thin_takes_from_the_clip_that_has_most_waiting() -> None:
    queue = make(DropPolicy.THIN, depth=6)
    assert offer_all(queue, [*map(Frame, range(5)), Frame(0, 1)]) == []
    assert offer(queue, Frame(1, 1)) == [1, 3]
    assert queue.waiting(0) == 3
    assert queue.waiting(1) == 2


def test_a_clip_that_was_thinned_takes_a_finer_grid_until_nothing_of_it_waits() -> None:
    queue = make(DropPolicy.THIN, depth=4)
    offer_all(queue, map(Frame, range(9)))
    grid = queue.grids[0]
    assert grid == 4
    assert [pts for pts in range(8) if queue.is_wanted(0, pts)] == [0, 2, 4, 6]
    assert all(queue.is_wanted(1, pts) for pts in range(8))
    drain(queue)
    assert queue.grids == {}
    assert queue.is_wanted(0, 9)


def test_bytes_bound_the_queue_as_well() -> None:
    queue = make(DropPolicy.DROP_NEWEST, depth=100, nbytes=250)
    dropped = offer_all(queue, map(Frame, range(4)))
    assert (drain(queue), dropped) == ([0, 1], [2, 3])


@pytest.mark.parametrize("policy", DropPolicy)
def test_a_frame_larger_than_the_queue_drops_nothing_but_itself(policy: DropPolicy) -> None:
    queue = make(policy, nbytes=250)
    assert offer_all(queue, [Frame(0), Frame(1)]) == []
    assert offer(queue, Frame(2, nbytes=251)) == [2]
    assert drain(queue) == [0, 1]


def test_a_frame_that_was_admitted_before_comes_in_beyond_the_limits() -> None:
    queue = make(DropPolicy.BLOCK, depth=1, nbytes=NBYTES)
    for pts in range(3):
        queue.put_anyway(Frame(pts))
    assert (queue.depth, queue.nbytes) == (3, 3 * NBYTES)
    assert drain(queue) == [0, 1, 2]


def test_get_passes_over_clips_that_were_not_asked_for() -> None:
    queue = make(DropPolicy.THIN)
    offer_all(queue, [Frame(0, 1), Frame(0, 2)])
    assert queue.get({2}) is not None
    assert queue.get({2}) is None
    assert queue.waiting(1) == 1


def test_discarding_takes_every_frame_of_one_clip() -> None:
    queue = make(DropPolicy.THIN, depth=10)
    offer_all(queue, [Frame(0, 1), Frame(0, 2), Frame(1, 1)])
    assert [one.pts for one in queue.discard(1)] == [0, 1]
    assert queue.discard(1) == []
    assert [one.clip for one in queue] == [2]
    assert (queue.depth, queue.nbytes) == (1, NBYTES)


@given(depth=st.integers(2, 20), frames=st.integers(1, 200), takes=st.lists(st.integers(0, 199), max_size=60))
def test_thin_covers_the_clip_evenly(depth: int, frames: int, takes: list[int]) -> None:
    queue = make(DropPolicy.THIN, depth=depth)
    outcome: list[int] = []
    taken: list[int] = []
    for pts in range(frames):
        outcome += offer(queue, Frame(pts))
        if pts in takes and (one := queue.get({0})):
            taken.append(one.pts)
    waiting = drain(queue)
    assert sorted(taken + waiting + outcome) == list(range(frames))
    assert taken + waiting == sorted(taken + waiting)
    gaps = [b - a for a, b in pairwise(waiting)]
    if len(gaps) > 3:
        assert max(gaps[1:-1]) <= 2 * min(gaps[1:-1])


@dataclass
class PlainQueue:
    """What the queue does, said as plainly as possible: lists, gone through again for every frame."""

    policy: DropPolicy
    depth: int
    nbytes: int
    frames: list[Frame] = field(default_factory=list)
    grids: dict[int, int] = field(default_factory=dict)

    def put(self, frame: Frame) -> list[Frame]:
        """Put a frame; return what was dropped for it, itself included."""
        if not is_on_grid(self.grids.get(frame.clip, 1), frame.pts):
            return [frame]
        dropped: list[Frame] = []
        while len(self.frames) >= self.depth or sum(one.nbytes for one in self.frames) + frame.nbytes > self.nbytes:
            doomed = [] if frame.nbytes > self.nbytes else self._doomed(frame)
            dropped += doomed
            self.frames = [one for one in self.frames if one not in doomed]
            self._forget_grids()
            if frame in doomed:
                return dropped
            if not doomed:
                return [*dropped, frame]
        self.frames.append(frame)
        return dropped

    def get(self, clips: Iterable[int]) -> Frame | None:
        found = [one for one in self.frames if one.clip in clips]
        if not found:
            return None
        first = min(found, key=lambda one: one.step)
        self.frames.remove(first)
        self._forget_grids()
        return first

    def _doomed(self, frame: Frame) -> list[Frame]:
        if not self.frames or self.policy in (DropPolicy.BLOCK, DropPolicy.DROP_NEWEST):
            return []
        if self.policy is DropPolicy.DROP_OLDEST:
            return [min(self.frames, key=lambda one: one.step)]
        clips = list(dict.fromkeys(one.clip for one in self.frames))
        longest = max(clips, key=lambda clip: len(self._of(clip)))
        candidates = [*self._of(longest), frame] if frame.clip == longest else self._of(longest)
        grid, doomed = thin([one.pts for one in candidates])
        if doomed:
            self.grids[longest] = grid
        return [one for one in candidates if one.pts in doomed]

    def _of(self, clip: int) -> list[Frame]:
        return [one for one in self.frames if one.clip == clip]

    def _forget_grids(self) -> None:
        self.grids = {clip: grid for clip, grid in self.grids.items() if self._of(clip)}


def thin(pts: Sequence[int]) -> tuple[int, set[int]]:
    """Return the finest power-of-two grid that leaves some frames out, and those frames."""
    grid = 2
    if len(pts) < 2:
        return grid, set()
    while not (off_grid := {value for value in pts if value % grid}):
        grid *= 2
    return grid, off_grid if len(off_grid) < len(pts) else set(pts[1::2])


@given(
    policy=st.sampled_from(DropPolicy),
    depth=st.integers(1, 12),
    nbytes=st.integers(100, 1000),
    actions=st.lists(
        st.tuples(st.just("put"), st.integers(0, 2), st.integers(1, 5), st.integers(50, 300))
        | st.tuples(st.just("get"), st.sets(st.integers(0, 2)), st.just(0), st.just(0)),
        max_size=150,
    ),
)
def test_the_queue_drops_what_plain_lists_would_drop(
    policy: DropPolicy, depth: int, nbytes: int, actions: list[tuple[str, int | set[int], int, int]]
) -> None:
    queue = make(policy, depth=depth, nbytes=nbytes)
    plain = PlainQueue(policy, depth, nbytes)
    next_pts = dict.fromkeys(range(3), 0)
    for _, clip, advance, size in actions:
        if isinstance(clip, set):
            assert queue.get(clip) == plain.get(clip)
            continue
        frame = Frame(next_pts[clip], clip, size)
        next_pts[clip] += advance
        admitted = queue.put(frame)
        dropped = [*admitted.evicted, *([] if admitted.is_in else [frame])]
        assert sorted(dropped, key=lambda one: one.step) == sorted(plain.put(frame), key=lambda one: one.step)
        assert queue.grids == plain.grids
        assert (queue.depth, queue.nbytes) == (len(plain.frames), sum(one.nbytes for one in plain.frames))


class SlowlyIterated(OrderedDict[int, Frame]):
    """Takes a step of Python for each entry that is gone through."""

    def __iter__(self) -> Iterator[int]:
        yield from super().__iter__()


def count_steps(act: Callable[[], object]) -> int:
    """Return how many instructions of the interpreter an action takes."""
    count = 0

    def trace(frame: FrameType, event: str, argument: object) -> Any:
        nonlocal count
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        count += event == "opcode"
        return trace

    sys.settrace(trace)
    try:
        act()
    finally:
        sys.settrace(None)
    return count


@pytest.mark.parametrize("policy", DropPolicy)
def test_a_call_on_a_queue_of_twenty_thousand_frames_costs_no_more_than_what_it_drops(
    policy: DropPolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(frame_queue, "OrderedDict", SlowlyIterated)
    depth = 20_000
    queue = make(policy, depth=depth)
    offer_all(queue, map(Frame, range(depth)))
    for pts in range(depth, depth + 600):
        answers: list[Admitted[Frame]] = []
        steps = count_steps(lambda frame=Frame(pts), answers=answers: answers.append(queue.put(frame)))  # type: ignore[misc]
        assert steps < 1000 + 200 * len(answers[0].evicted)
        if pts % 3 == 0:
            assert count_steps(lambda: queue.get((0,))) < 1000


def test_filling_a_queue_of_twenty_thousand_frames_many_times_costs_a_bounded_number_of_calls_for_each() -> None:
    depth, rounds, calls = 20_000, 50_000, 0
    queue = make(DropPolicy.THIN, depth=depth)

    def count(frame: FrameType, event: str, argument: object) -> None:
        nonlocal calls
        calls += 1

    sys.setprofile(count)
    try:
        offer_all(queue, map(Frame, range(depth + rounds)))
    finally:
        sys.setprofile(None)
    assert calls < 120 * (depth + rounds)
