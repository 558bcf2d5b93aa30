"""Which frames training may capture, by counters alone."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepreel import DropPolicy, RecorderConfig
from stepreel.capture.admission import Admission
from stepreel.capture.frame_pool import FramePool
from stepreel.clip import CaptureRequest, ClipRequest
from stepreel.transport.shared_memory import ServiceWord, SharedMemory

from ..memory import make_memory

STRICT = [DropPolicy.BLOCK, DropPolicy.DROP_NEWEST]
LOOSE = [DropPolicy.DROP_OLDEST, DropPolicy.THIN]


def admission_of(memory: SharedMemory, policy: DropPolicy, depth: int = 4) -> Admission:
    config = RecorderConfig(output_dir="unused", drop_policy=policy, queue_depth=depth)
    return Admission(config, memory, FramePool(memory))


def request(pts: int, clip: int = 5) -> CaptureRequest:
    own = ClipRequest(name="c", stream="default", start_step=0, frame_stride=1, clip_index=clip)
    return CaptureRequest(clip=own, step=pts, pts=pts)


@given(
    policy=st.sampled_from(STRICT),
    depth=st.integers(1, 5),
    nbytes=st.integers(100, 600),
    actions=st.lists(st.integers(1, 300) | st.none(), max_size=60),
)
def test_block_and_drop_newest_are_held_to_the_limits_exactly(
    policy: DropPolicy, depth: int, nbytes: int, actions: list[int | None]
) -> None:
    with make_memory(pool_nbytes=2**20, queue_nbytes=nbytes) as memory:
        admission = admission_of(memory, policy, depth)
        waiting: list[int] = []
        for size in actions:
            if size is None:
                if waiting:
                    memory.service[ServiceWord.FRAME_NBYTES_TAKEN] += waiting.pop(0)
                    memory.service[ServiceWord.FRAMES_TAKEN] += 1
            else:
                fits = len(waiting) < depth and sum(waiting) + size <= nbytes
                assert admission.has_room(size) == fits
                if fits:
                    admission.published(size)
                    waiting.append(size)
            assert (admission.depth, admission.nbytes) == (len(waiting), sum(waiting))
            assert admission.depth_high_water <= depth


@pytest.mark.parametrize("policy", LOOSE)
def test_what_drops_from_the_queue_lets_more_in_until_the_service_has_looked(policy: DropPolicy) -> None:
    with make_memory(pool_nbytes=2**20) as memory:
        admission = admission_of(memory, policy, depth=4)
        admitted = 0
        while admission.has_room(10):
            admission.published(10)
            admitted += 1
        assert 4 < admitted <= 4 + 256
        memory.service[ServiceWord.FRAMES_TAKEN] = 1
        assert admission.has_room(10)


@pytest.mark.parametrize("policy", DropPolicy)
def test_nothing_is_admitted_that_finds_no_memory(policy: DropPolicy) -> None:
    with make_memory(pool_nbytes=2 * 4096, queue_nbytes=10**6) as memory:
        admission = admission_of(memory, policy)
        assert admission.has_room(2 * 4096)
        assert not admission.has_room(2 * 4096 + 1)
        assert admission.fits(10**6)
        assert not admission.fits(10**6 + 1)


def test_a_clip_that_the_service_has_thinned_takes_one_step_finer_and_others_take_all() -> None:
    with make_memory() as memory:
        admission = admission_of(memory, DropPolicy.THIN)
        assert all(admission.is_wanted(request(pts), 2) for pts in range(8))
        memory.service[ServiceWord.GRIDS + 2] = 5 << 8 | 3
        assert [pts for pts in range(16) if admission.is_wanted(request(pts), 2)] == [0, 4, 8, 12]
        assert all(admission.is_wanted(request(pts, clip=6), 2) for pts in range(8))
        assert all(admission.is_wanted(request(pts), 1) for pts in range(8))
