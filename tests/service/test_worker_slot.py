"""How many frames a worker is given at a time, and what is known of it."""

from __future__ import annotations

from collections import deque
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepreel.service.accounting import ClipProgress
from stepreel.service.lifecycle import Life
from stepreel.service.work import ClipWork, Frame
from stepreel.service.worker_slot import WorkerSlot, most_credit

LOOK_S = 0.01


def slot_of(frame_s: float, cpu_s: float | None = None) -> WorkerSlot:
    slot = WorkerSlot()
    for _ in range(200):
        slot.took(frame_s, frame_s if cpu_s is None else cpu_s)
    return slot


def frame(number: int, clip: int = 0) -> Frame:
    return Frame(number=number, clip=clip, step=number, pts=number, offset=0, nbytes=1, height=1, width=1)


def work(**facts: Any) -> ClipWork:
    progress = ClipProgress(
        index=0, name="a", stream="default", backend="b", start_step=0, frame_stride=1, fps=30.0, is_named=True
    )
    return ClipWork(progress=progress, life=Life(), version=0, **facts)


def test_a_worker_is_given_what_keeps_it_busy_for_two_looks_and_a_slow_one_two_frames() -> None:
    assert slot_of(LOOK_S / 5).credit(LOOK_S) == pytest.approx(2 * 5 + 1, abs=1)
    assert slot_of(10.0).credit(LOOK_S) == 2
    assert slot_of(0.0).credit(LOOK_S) > 64


def test_what_a_worker_is_given_is_bounded_by_bytes_and_by_count() -> None:
    assert most_credit(1280 * 720 * 3) == 8
    assert most_credit(10**9) == 2
    assert most_credit(8) == most_credit(0) == 64


def test_a_worker_is_starved_that_gets_a_fraction_of_the_processor_time_in_its_frames() -> None:
    assert not slot_of(0.02, 0.01).is_starved
    assert slot_of(0.05, 0.01).is_starved
    slot = slot_of(0.01)
    assert not slot.is_starved
    slot.in_flight.append(frame(0))
    slot.heard_at = -1e6
    assert slot.is_starved


def test_a_slot_is_doubtful_from_the_loss_of_a_worker_until_another_one_is_ready() -> None:
    assert not WorkerSlot().is_doubtful
    assert WorkerSlot(losses=1).is_doubtful
    assert not WorkerSlot(losses=1, is_ready=True).is_doubtful


def test_whatever_a_worker_was_asked_for_is_owed() -> None:
    def owes_answer(clip: ClipWork, **facts: Any) -> bool:
        return WorkerSlot(is_ready=True, clips={0: clip}, **facts).owes_answer

    assert not owes_answer(work())
    assert not owes_answer(work(is_begun=True))
    assert owes_answer(work(is_end_sent=True))
    assert owes_answer(work(is_repair_sent=True))
    assert owes_answer(work(), in_flight=deque([frame(1)]))
    assert owes_answer(work(), opening=1)


@given(st.lists(st.integers(0, 3), max_size=30), st.integers(0, 3))
def test_what_a_lost_worker_had_is_taken_by_clip_and_in_order(clips: list[int], wanted: int) -> None:
    frames = [frame(number, clip) for number, clip in enumerate(clips)]
    slot = WorkerSlot(returned=deque(frames))
    assert [one.number for one in slot.handed(wanted)] == [one.number for one in frames if one.clip == wanted]
    assert slot.take_returned(wanted) == [one for one in frames if one.clip == wanted]
    assert list(slot.returned) == [one for one in frames if one.clip != wanted]
