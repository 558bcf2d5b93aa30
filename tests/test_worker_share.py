"""How much of the machine workers take."""

from __future__ import annotations

import time
from pathlib import Path

import psutil
import pytest

from stepreel import AsyncRecorder, DropPolicy, Recorder, RecorderClosedError, RecorderConfig, WorkerPriority
from stepreel.backends.synthetic import SyntheticBackend
from stepreel.transport.control_bytes import SOMEBODY_WAITS, WORKERS_ARE_RAISED

from .recordings import check_clip, poll_until, worker_of

_POLICY, _NICE, _SCHED_IDLE = 38, 16, 5
"""Places in `/proc/<pid>/stat` after the program's name, see proc(5)."""


def threads_of(worker: psutil.Process) -> list[list[str]]:
    tasks = Path(f"/proc/{worker.pid}/task").iterdir()
    return [(task / "stat").read_text().rpartition(")")[2].split() for task in tasks]


def control_bytes_of(recorder: Recorder) -> memoryview:
    return recorder._core.memory.view


def test_a_raised_worker_goes_on_with_the_clip_outside_sched_idle(output_dir: Path) -> None:
    config = RecorderConfig(output_dir=output_dir, video_length=60, video_interval=0)
    with Recorder(config, SyntheticBackend()) as recorder:
        for _ in range(30):
            recorder.step()
        poll_until(lambda: recorder.statistics().frames.encoded >= 10)
        working = [task for task in threads_of(worker_of()) if int(task[_POLICY]) == _SCHED_IDLE]
        control_bytes_of(recorder)[WORKERS_ARE_RAISED] = 1
        for _ in range(30):
            recorder.step()
        recorder.flush()
        raised = [task for task in threads_of(worker_of()) if int(task[_NICE]) == 10]
    (clip,) = recorder.summary().clips
    assert working
    assert raised
    assert clip.frames.encoded == 60
    check_clip(output_dir, clip)


def test_a_worker_without_processor_time_is_raised_when_frames_are_lost(output_dir: Path) -> None:
    config = RecorderConfig(
        output_dir=output_dir,
        video_length=0,
        queue_depth=4,
        drop_policy=DropPolicy.DROP_OLDEST,
        step_trigger=lambda step: step == 0,
    )
    with Recorder(config, SyntheticBackend()) as recorder:
        recorder.step()
        poll_until(lambda: recorder.statistics().frames.encoded == 1)
        worker = worker_of()
        worker.suspend()

        def is_raised() -> bool:
            recorder.step()
            return "worker.raised" in (output_dir / "session.jsonl").read_text()

        try:
            poll_until(is_raised)
        finally:
            worker.resume()


@pytest.mark.parametrize("priority", [WorkerPriority.IDLE, WorkerPriority.LOW])
def test_a_priority_that_was_asked_for_stays(output_dir: Path, priority: WorkerPriority) -> None:
    config = RecorderConfig(output_dir=output_dir, queue_depth=4, worker_priority=priority)
    with Recorder(config, SyntheticBackend()) as recorder:
        recorder.step()
        poll_until(lambda: recorder.statistics().frames.encoded == 1)
        worker = worker_of()
        worker.suspend()
        try:
            for _ in range(50):
                recorder.step()
            poll_until(lambda: "queue.full" in (output_dir / "session.jsonl").read_text())
        finally:
            worker.resume()
    assert "worker.raised" not in (output_dir / "session.jsonl").read_text()


def test_a_worker_that_rests_draws_on_while_training_is_idle(output_dir: Path) -> None:
    backend = SyntheticBackend(snapshot=True, render_delay_s=0.05)
    config = RecorderConfig(output_dir=output_dir, video_length=10, video_interval=0, render_duty=0.0005)
    with Recorder(config, backend) as recorder:
        for _ in range(10):
            recorder.step()
        poll_until(lambda: recorder.statistics().frames.encoded >= 1)
        with recorder.idle():
            poll_until(lambda: recorder.statistics().frames.encoded >= 5)


def test_a_worker_that_rests_draws_on_while_somebody_waits(output_dir: Path) -> None:
    backend = SyntheticBackend(snapshot=True, render_delay_s=0.05)
    config = RecorderConfig(output_dir=output_dir, video_length=10, video_interval=0, render_duty=0.0005)
    with Recorder(config, backend) as recorder:
        for _ in range(10):
            recorder.step()
        poll_until(lambda: recorder.statistics().frames.encoded >= 1)
        control_bytes_of(recorder)[SOMEBODY_WAITS] = 1
        poll_until(lambda: recorder.statistics().frames.encoded >= 5)


def test_closing_waits_for_no_rest(output_dir: Path) -> None:
    backend = SyntheticBackend(snapshot=True, render_delay_s=0.05)
    config = RecorderConfig(output_dir=output_dir, video_length=10, video_interval=0, render_duty=0.0005)
    start = time.monotonic()
    with Recorder(config, backend) as recorder:
        for _ in range(10):
            recorder.step()
    # At this duty ten frames alone would take a quarter of an hour.
    assert time.monotonic() - start < 120
    assert recorder.summary().frames.encoded == 10


def test_idle_belongs_into_the_with_block(output_dir: Path) -> None:
    recorder = Recorder(RecorderConfig(output_dir=output_dir), SyntheticBackend())
    with pytest.raises(RecorderClosedError), recorder.idle():
        pass
    recorder.close()


@pytest.mark.anyio
async def test_an_async_recorder_has_idle_phases_too(output_dir: Path) -> None:
    async with AsyncRecorder(RecorderConfig(output_dir=output_dir), SyntheticBackend()) as recorder:
        with recorder.idle():
            await recorder.step()
