"""How far ahead of a worker's reports the event loop thinks."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from stepreel.clip import CaptureRequest, ClipRequest, Snapshot
from stepreel.frame_pool import FramePool
from stepreel.scheduling.frame_queue import QueuedFrame
from stepreel.seats import TURN_S, HandedFrame, Seat, most_credit

MUCH_ROOM = 1000


@pytest.fixture
def pool() -> Iterator[FramePool]:
    pool = FramePool(4096)
    yield pool
    pool.close()


def hand(seat: Seat, pool: FramePool, count: int) -> None:
    clip = ClipRequest(name="one", stream="default", start_step=0, frame_stride=1, clip_index=0)
    for pts in range(count):
        request = CaptureRequest(clip=clip, step=pts, pts=pts)
        frame = QueuedFrame(request=request, capture=Snapshot(nbytes=8), slot=pool.lease())
        seat.in_flight.append(HandedFrame(frame=frame))


def seat_of(frame_s: float) -> Seat:
    seat = Seat()
    for _ in range(100):
        seat.took(frame_s, frame_s)
    return seat


def test_reports_of_a_worker_that_is_soon_done_are_read_at_the_next_turn(pool: FramePool) -> None:
    seat = seat_of(TURN_S / 10)
    hand(seat, pool, 5)
    assert seat.turns_to_rest(MUCH_ROOM) == 1


def test_reports_of_a_worker_with_much_in_hand_wait_but_not_until_it_is_idle(pool: FramePool) -> None:
    seat = seat_of(TURN_S / 2)
    hand(seat, pool, 7)
    assert seat.turns_to_rest(MUCH_ROOM) == 2
    hand(seat, pool, 40)
    assert seat.turns_to_rest(MUCH_ROOM) == 3


def test_nothing_waits_where_the_queue_could_be_full_before_the_worker_is_done(pool: FramePool) -> None:
    seat = seat_of(TURN_S)
    hand(seat, pool, 8)
    assert seat.turns_to_rest(8) == 3
    assert seat.turns_to_rest(7) == 1


def test_one_slow_frame_makes_no_long_rest(pool: FramePool) -> None:
    seat = Seat()
    seat.took(2.0, 2.0)  # The first one compiled something.
    seat.took(TURN_S / 10, TURN_S / 10)
    hand(seat, pool, 5)
    assert seat.turns_to_rest(MUCH_ROOM) == 1


def test_a_worker_is_given_what_keeps_it_busy_until_its_reports_are_read_and_a_turn_longer() -> None:
    seat = seat_of(TURN_S / 5)
    assert seat.credit == pytest.approx(4 * 5 + 1, abs=1)
    assert seat_of(10.0).credit == 2


def test_what_a_worker_is_given_is_bounded_by_bytes_and_by_count() -> None:
    assert most_credit(1280 * 720 * 3) == 13
    assert most_credit(10**9) == 2
    assert most_credit(8) == 64
