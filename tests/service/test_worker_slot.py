"""How many frames a worker is given at a time."""

from __future__ import annotations

import pytest

from stepreel.seats import TURN_S, Seat, most_credit


def seat_of(frame_s: float) -> Seat:
    seat = Seat()
    for _ in range(100):
        seat.took(frame_s, frame_s)
    return seat


def test_a_worker_is_given_what_keeps_it_busy_for_two_turns_and_a_slow_one_two_frames() -> None:
    assert seat_of(TURN_S / 5).credit == pytest.approx(2 * 5 + 1, abs=1)
    assert seat_of(10.0).credit == 2


def test_what_a_worker_is_given_is_bounded_by_bytes_and_by_count() -> None:
    assert most_credit(1280 * 720 * 3) == 8
    assert most_credit(10**9) == 2
    assert most_credit(8) == 64
