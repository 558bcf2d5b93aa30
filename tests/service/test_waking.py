"""Waking the event loop, and the turns that it takes."""

from __future__ import annotations

import math
import threading

import anyio
import pytest

from stepreel.doorbell import Doorbell, Pulse, Turns

pytestmark = pytest.mark.anyio


async def test_a_ring_from_another_thread_wakes_the_task_that_waits() -> None:
    doorbell = Doorbell()
    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(doorbell.wait)
            await anyio.wait_all_tasks_blocked()
            threading.Thread(target=doorbell.ring).start()
    doorbell.close()


async def test_rings_before_the_wait_are_one() -> None:
    doorbell = Doorbell()
    doorbell.ring()
    doorbell.ring()
    await doorbell.wait()
    with anyio.move_on_after(0.05) as scope:
        await doorbell.wait()
    assert scope.cancelled_caught
    doorbell.close()


async def test_a_beat_wakes_everybody_who_waits_and_nobody_later() -> None:
    pulse = Pulse()
    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(pulse.wait)
            await anyio.wait_all_tasks_blocked()
            pulse.beat()
    with anyio.move_on_after(0.05) as scope:
        await pulse.wait()
    assert scope.cancelled_caught


async def test_tasks_that_rest_go_on_in_the_same_turn() -> None:
    turns = Turns(0.1)
    seen: list[int] = []

    async def work() -> None:
        await turns.rest()
        seen.append(int((anyio.current_time() + 0.001) / 0.1))

    start = int(anyio.current_time() / 0.1)
    async with anyio.create_task_group() as tasks:
        for _ in range(3):
            tasks.start_soon(work)
    assert min(seen) > start
    assert len(set(seen)) == 1


async def test_work_between_two_turns_begins_after_the_middle_of_one() -> None:
    turns = Turns(0.2)
    await turns.rest()
    start = math.floor((anyio.current_time() + 0.001) / 0.2)
    await turns.rest_between()
    assert (anyio.current_time() + 0.001) / 0.2 >= start + 0.5


async def test_nobody_rests_while_somebody_is_in_a_hurry() -> None:
    turns = Turns(3600.0)
    with turns.hurry(), anyio.fail_after(5):
        await turns.rest()
    with anyio.move_on_after(0.05) as scope:
        await turns.rest()
    assert scope.cancelled_caught


async def test_turns_without_an_interval_follow_one_another_at_once() -> None:
    with anyio.fail_after(5):
        for _ in range(10):
            await Turns(0.0).rest()
