"""The frame pool, and the shared memory that it is a part of."""

from __future__ import annotations

import mmap
import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepreel import CaptureError
from stepreel.capture.frame_pool import FramePool, PoolSlot
from stepreel.transport.journal import ReleaseWriter

from ..memory import make_memory, make_pool

PAGE = 4096


def test_what_is_written_into_a_slot_is_read_through_the_descriptor() -> None:
    with make_memory(pool_nbytes=100_000) as memory:
        slot = FramePool(memory).lease()
        slot.array(5)[:] = (1, 2, 3, 4, 5)
        with mmap.mmap(memory.fd, memory.layout.nbytes, prot=mmap.PROT_READ) as other:
            assert other[slot.offset : slot.offset + 5] == b"\1\2\3\4\5"


def test_the_memory_has_no_name_in_the_file_system() -> None:
    with make_memory() as memory:
        assert os.fstat(memory.fd).st_nlink == 0


def test_address_space_costs_no_memory_until_it_is_populated() -> None:
    with make_memory(pool_nbytes=64 * 2**20) as memory:
        before = os.fstat(memory.fd).st_blocks * 512
        assert before == memory.layout.checkpoints
        start = memory.layout.pool
        memory.populate(start, start + 2**20)
        assert os.fstat(memory.fd).st_blocks * 512 == before + 2**20


def test_populating_changes_nothing_that_was_written_and_stays_inside() -> None:
    with make_memory(pool_nbytes=2**20) as memory:
        array = FramePool(memory).lease().array(2**20)
        array[:] = 7
        memory.populate(memory.layout.pool, memory.layout.nbytes + 2**20)
        memory.populate(memory.layout.nbytes, memory.layout.nbytes + 2**20)
        assert (array == 7).all()
        del array


def test_what_was_handed_over_comes_back_once_its_record_is_released() -> None:
    with make_memory(pool_nbytes=2 * PAGE) as memory:
        pool, releases = FramePool(memory), ReleaseWriter(memory)
        for number in (5, 6):
            slot = pool.lease()
            slot.array(PAGE)
            pool.hand_over(number, slot)
        assert not pool.has_room(1)
        releases.write(6, 0)
        assert pool.has_room(PAGE)
        assert not pool.has_room(PAGE + 1)
        releases.write(6, 0)  # A service that took over tells of it again.
        releases.write(7, 0)  # Of a record that held nothing.
        releases.write(5, 3)
        assert pool.has_room(2 * PAGE)


def test_a_record_that_was_not_written_holds_nothing() -> None:
    with make_pool(PAGE) as pool:
        slot = pool.lease()
        slot.array(10)
        pool.hand_over(3, slot)
        pool.forget(3)
        slot.release()
        assert pool.has_room(PAGE)


def test_memory_that_is_shared_goes_back_once_all_who_share_it_let_go() -> None:
    with make_pool(4096) as pool:
        first = pool.lease()
        first.array(4096)[:] = 3
        second = first.share()
        third = second.share()
        for slot in (second, second, first):
            slot.release()
            with pytest.raises(CaptureError):
                pool.lease().array(4096)
        assert third.array(4096)[0] == 3
        third.release()
        pool.lease().array(4096)


def test_a_capture_that_does_not_fit_is_refused_and_costs_no_room() -> None:
    with make_pool(8192) as pool:
        first = pool.lease()
        first.array(4096)
        with pytest.raises(CaptureError, match="5000 bytes"):
            pool.lease().array(5000)
        first.release()
        pool.lease().array(8192)


def test_a_slot_grows_and_is_released_once() -> None:
    with make_pool(5 * 4096) as pool:
        slot = pool.lease()
        slot.array(100)
        slot.array(4 * 4096)[:] = 1
        slot.release()
        slot.release()
        assert pool.lease().array(5 * 4096).nbytes == 5 * 4096


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(1, 40_000)), max_size=60))
def test_leases_never_overlap_and_all_room_comes_back(actions: list[tuple[int, int]]) -> None:
    with make_pool(40 * 4096) as pool:
        held: dict[int, tuple[PoolSlot, np.ndarray]] = {}
        for key, nbytes in actions:
            if key in held:
                slot, array = held.pop(key)
                assert (array == key).all()
                slot.release()
                continue
            slot = pool.lease()
            try:
                array = slot.array(nbytes)
            except CaptureError:
                continue
            array[:] = key
            held[key] = (slot, array)
        for key, (slot, array) in held.items():
            assert (array == key).all()
            slot.release()
        assert pool.lease().array(40 * 4096).nbytes == 40 * 4096
        held.clear()
