"""Waking the tasks of an event loop, and having them work together."""

from __future__ import annotations

import anyio
import pytest

from stepreel.service.waking import Batching, Notifier

pytestmark = pytest.mark.anyio


async def test_a_notification_wakes_everybody_who_waits_and_nobody_later() -> None:
    notifier = Notifier()
    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(notifier.wait)
            await anyio.wait_all_tasks_blocked()
            notifier.notify()
    with anyio.move_on_after(0.05) as scope:
        await notifier.wait()
    assert scope.cancelled_caught


async def test_a_wait_ends_with_its_time_and_leaves_others_waiting() -> None:
    notifier = Notifier()
    woken: list[str] = []

    async def wait(name: str, timeout_s: float) -> None:
        await notifier.wait(timeout_s)
        woken.append(name)

    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait, "long", 3600.0)
            await wait("short", 0.01)
            assert woken == ["short"]
            notifier.notify()
    assert woken == ["short", "long"]


async def test_whoever_waits_again_at_once_waits_for_the_next_notification() -> None:
    notifier = Notifier()
    turns = 0

    async def wait_twice() -> None:
        nonlocal turns
        for _ in range(2):
            await notifier.wait()
            turns += 1

    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait_twice)
            await anyio.wait_all_tasks_blocked()
            notifier.notify()
            notifier.notify()
            await anyio.wait_all_tasks_blocked()
            assert turns == 1
            notifier.notify()


async def test_tasks_that_rest_go_on_together() -> None:
    batching = Batching(0.1)
    seen: list[int] = []

    async def work() -> None:
        await batching.rest()
        seen.append(int((anyio.current_time() + 0.001) / 0.1))

    start = int(anyio.current_time() / 0.1)
    async with anyio.create_task_group() as tasks:
        for _ in range(3):
            tasks.start_soon(work)
    assert min(seen) > start
    assert len(set(seen)) == 1


async def test_nobody_rests_while_somebody_is_in_a_hurry() -> None:
    batching = Batching(3600.0)
    seen = [batching.is_hurried]
    with batching.hurry(), batching.hurry(), anyio.fail_after(5):
        seen.append(batching.is_hurried)
        await batching.rest()
    assert [*seen, batching.is_hurried] == [False, True, False]
    with anyio.move_on_after(0.05) as scope:
        await batching.rest()
    assert scope.cancelled_caught


async def test_without_an_interval_work_goes_on_at_once() -> None:
    with anyio.fail_after(5):
        for _ in range(10):
            await Batching(0.0).rest()
