"""The frame pool."""

from __future__ import annotations

import mmap
import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepreel import CaptureError
from stepreel.frame_pool import FramePool, PoolSlot


def test_what_is_written_into_a_slot_is_read_through_the_descriptor() -> None:
    pool = FramePool(100_000)
    slot = pool.lease()
    slot.array(5)[:] = (1, 2, 3, 4, 5)
    with mmap.mmap(pool.fd, pool.mapped_nbytes, prot=mmap.PROT_READ) as other:
        assert other[slot.offset : slot.offset + 5] == b"\1\2\3\4\5"
    pool.close()


def test_the_pool_has_no_name_in_the_file_system() -> None:
    pool = FramePool(4096)
    assert os.fstat(pool.fd).st_nlink == 0
    pool.close()


def test_address_space_costs_no_memory_until_it_is_populated() -> None:
    pool = FramePool(64 * 2**20)
    assert os.fstat(pool.fd).st_blocks == 0
    pool.populate(2**20)
    assert os.fstat(pool.fd).st_blocks * 512 == 2**20 + 4096
    pool.close()


def test_populating_changes_nothing_that_was_written() -> None:
    pool = FramePool(2**20)
    array = pool.lease().array(2**20)
    array[:] = 7
    pool.populate(2**20)
    assert (array == 7).all()
    del array
    pool.close()


def test_memory_that_is_shared_goes_back_once_all_who_share_it_let_go() -> None:
    pool = FramePool(4096)
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
    pool.close()


def test_a_capture_that_does_not_fit_is_refused_and_costs_no_room() -> None:
    pool = FramePool(8192)
    first = pool.lease()
    first.array(4096)
    with pytest.raises(CaptureError, match="5000 bytes"):
        pool.lease().array(5000)
    first.release()
    pool.lease().array(8192)
    pool.close()


def test_a_slot_grows_and_is_released_once() -> None:
    pool = FramePool(5 * 4096)
    slot = pool.lease()
    slot.array(100)
    slot.array(4 * 4096)[:] = 1
    slot.release()
    slot.release()
    assert pool.lease().array(5 * 4096).nbytes == 5 * 4096
    pool.close()


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(1, 40_000)), max_size=60))
def test_leases_never_overlap_and_all_room_comes_back(actions: list[tuple[int, int]]) -> None:
    pool = FramePool(40 * 4096)
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
    del actions
    pool.close()
