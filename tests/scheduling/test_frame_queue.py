"""The frame queue and its drop policies."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepreel import DropPolicy
from stepreel.clip import CaptureRequest, ClipRequest, Snapshot
from stepreel.frame_pool import FramePool
from stepreel.scheduling.drop_policies import thin
from stepreel.scheduling.frame_queue import FrameQueue, QueuedFrame

from ..interruptions import Interruption

NBYTES = 100


@pytest.fixture
def pool() -> Iterator[FramePool]:
    pool = FramePool(4096)
    yield pool
    pool.close()


def request(pts: int, clip: int = 0) -> CaptureRequest:
    clip_request = ClipRequest(name=f"c{clip}", stream="default", start_step=0, frame_stride=1, clip_index=clip)
    return CaptureRequest(clip=clip_request, step=clip * 1000 + pts, pts=pts)


def frame(pool: FramePool, pts: int, clip: int = 0, nbytes: int = NBYTES) -> QueuedFrame:
    return QueuedFrame(request=request(pts, clip), capture=Snapshot(nbytes=nbytes), slot=pool.lease())


def offer(queue: FrameQueue, pool: FramePool, pts: int, clip: int = 0) -> list[int]:
    """Put a frame as a recorder does; return the `pts` that were dropped for it, its own included."""
    room = queue.make_room(request(pts, clip), NBYTES)
    dropped = [one.request.pts for one in room.evicted]
    if room.granted:
        assert queue.put_nowait(frame(pool, pts, clip))
        return dropped
    return [*dropped, pts]


def drain(queue: FrameQueue, clips: range = range(10)) -> list[int]:
    waiting = []
    while (one := queue.get_nowait(clips)) is not None:
        waiting.append(one.request.pts)
    return waiting


def make(policy: DropPolicy, depth: int = 4, nbytes: int = 10**6) -> FrameQueue:
    return FrameQueue(depth=depth, nbytes=nbytes, policy=policy)


def test_drop_newest_keeps_the_oldest_frames(pool: FramePool) -> None:
    queue = make(DropPolicy.DROP_NEWEST)
    dropped = [pts for step in range(6) for pts in offer(queue, pool, step)]
    assert (drain(queue), dropped) == ([0, 1, 2, 3], [4, 5])


def test_drop_oldest_keeps_the_newest_frames(pool: FramePool) -> None:
    queue = make(DropPolicy.DROP_OLDEST)
    dropped = [pts for step in range(6) for pts in offer(queue, pool, step)]
    assert (drain(queue), dropped) == ([2, 3, 4, 5], [0, 1])


def test_block_never_drops_what_waits(pool: FramePool) -> None:
    queue = make(DropPolicy.BLOCK, depth=1)
    assert queue.put_nowait(frame(pool, 0))
    assert not queue.put_nowait(frame(pool, 1))
    assert not queue.wait_for_room(NBYTES, 0.0)
    assert drain(queue) == [0]
    assert queue.wait_for_room(NBYTES, 0.0)


def test_a_thread_that_is_interrupted_anywhere_in_the_queue_leaves_it_unlocked(pool: FramePool) -> None:
    def use(queue: FrameQueue) -> None:
        for pts in range(3):
            queue.make_room(request(pts), NBYTES)
            queue.put_nowait(frame(pool, pts))
        queue.wait_for_room(NBYTES, 0.001)

    for place in count():
        queue = make(DropPolicy.BLOCK, depth=2)
        interruption = Interruption(place)
        interruption.run(lambda queue=queue: use(queue))  # type: ignore[misc]
        drain(queue)
        if not interruption.came:
            break
    assert place > 50


def test_thin_halves_the_rate_evenly_and_then_quarters_it(pool: FramePool) -> None:
    queue = make(DropPolicy.THIN, depth=8)
    dropped = [pts for step in range(15) for pts in offer(queue, pool, step)]
    assert drain(queue) == [0, 2, 4, 6, 8, 10, 12, 14]
    assert sorted(dropped) == [1, 3, 5, 7, 9, 11, 13]

    dropped = [pts for step in range(32) for pts in offer(queue, pool, step)]
    waiting = drain(queue)
    assert {b - a for a, b in pairwise(waiting)} <= {2, 4}
    assert sorted(waiting + dropped) == list(range(32))


def test_thin_takes_from_the_clip_that_has_most_waiting(pool: FramePool) -> None:
    queue = make(DropPolicy.THIN, depth=6)
    for pts in range(5):
        assert offer(queue, pool, pts, clip=0) == []
    assert offer(queue, pool, 0, clip=1) == []
    assert offer(queue, pool, 1, clip=1) == [1, 3]
    assert queue.waiting(0) == 3
    assert queue.waiting(1) == 2


def test_bytes_bound_the_queue_as_well(pool: FramePool) -> None:
    queue = make(DropPolicy.DROP_NEWEST, depth=100, nbytes=250)
    dropped = [pts for step in range(4) for pts in offer(queue, pool, step)]
    assert (drain(queue), dropped) == ([0, 1], [2, 3])


def test_a_frame_larger_than_the_queue_drops_nothing_but_itself(pool: FramePool) -> None:
    for policy in DropPolicy:
        queue = make(policy, nbytes=250)
        offer(queue, pool, 0)
        room = queue.make_room(request(1), 251)
        assert not room.granted
        assert room.evicted == ()


def test_get_passes_over_clips_that_were_not_asked_for(pool: FramePool) -> None:
    queue = make(DropPolicy.THIN)
    offer(queue, pool, 0, clip=1)
    offer(queue, pool, 0, clip=2)
    assert queue.get_nowait({2}) is not None
    assert queue.get_nowait({2}) is None
    assert queue.waiting(1) == 1


def test_whoever_waits_for_the_next_frame_is_told_of_it_and_nobody_else(pool: FramePool) -> None:
    queue = make(DropPolicy.THIN)
    queue.is_wanting = False
    told = []
    for waits in (False, True, False):
        assert queue.get_nowait({0}, waits=waits) is None
        told.append(queue.is_wanting)
    assert told == [False, True, True]


def test_the_high_water_mark_stays(pool: FramePool) -> None:
    queue = make(DropPolicy.THIN)
    for pts in range(3):
        offer(queue, pool, pts)
    drain(queue)
    assert (queue.depth, queue.nbytes, queue.depth_high_water) == (0, 0, 3)


@given(st.sets(st.integers(0, 500), min_size=2))
def test_thinning_keeps_a_grid_and_never_everything(pts: set[int]) -> None:
    ordered = sorted(pts)
    grid, dropped = thin(ordered)
    assert dropped < pts
    assert dropped
    assert len({value % grid for value in pts - dropped}) == 1 or all(value % grid for value in pts)


@given(depth=st.integers(2, 20), frames=st.integers(1, 200), takes=st.lists(st.integers(0, 199), max_size=60))
def test_thin_covers_the_clip_evenly(depth: int, frames: int, takes: list[int]) -> None:
    pool = FramePool(4096)
    queue = make(DropPolicy.THIN, depth=depth)
    outcome: list[int] = []
    taken: list[int] = []
    for pts in range(frames):
        outcome += offer(queue, pool, pts)
        if pts in takes and (one := queue.get_nowait({0})):
            taken.append(one.request.pts)
    waiting = drain(queue)
    pool.close()
    assert sorted(taken + waiting + outcome) == list(range(frames))
    assert taken + waiting == sorted(taken + waiting)
    gaps = [b - a for a, b in pairwise(waiting)]
    if len(gaps) > 3:
        assert max(gaps[1:-1]) <= 2 * min(gaps[1:-1])
