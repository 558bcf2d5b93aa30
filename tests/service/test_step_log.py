"""The step log of a run: the step count at moments some time apart."""

from __future__ import annotations

import json
from pathlib import Path

import anyio
import pytest

from stepreel import AsyncRecorder, ClipState, Recorder, RecorderConfig
from stepreel.backends.synthetic import SyntheticBackend
from stepreel.service.session_log import SessionLog
from stepreel.service.step_log import StepLog
from stepreel.service.threads import Threads
from stepreel.storage.inspection import inspect
from stepreel.storage.recovery import recover
from stepreel.storage.step_counts import STEP_COUNTS_FILE, read_step_counts


def log_of(folder: Path) -> SessionLog:
    return SessionLog(folder, "session", lambda event: None)


async def keep(folder: Path, counts: list[int], until: int) -> None:
    """Run a step log until it has looked `until` times."""
    looked = anyio.Event()

    def count_steps() -> int:
        counts.append(len(counts))
        if len(counts) == until:
            looked.set()
        return counts[-1]

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(StepLog(folder, count_steps, log_of(folder), Threads()).run)
        await looked.wait()
        tasks.cancel_scope.cancel()


def test_a_run_leaves_its_step_counts_up_to_its_last_step(output_dir: Path) -> None:
    config = RecorderConfig(output_dir=output_dir, video_length=5, video_interval=0, name_prefix="run")
    with Recorder(config, SyntheticBackend(width=64, height=48)) as recorder:
        for _ in range(40):
            recorder.step()
    counts = read_step_counts(output_dir)
    assert counts is not None
    assert (counts.steps[0], counts.steps[-1]) == (0, 40)
    assert counts.seconds[0] <= counts.seconds[-1]


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_loop_that_is_starved_still_tells_of_the_last_step(output_dir: Path, backend: str) -> None:
    config = RecorderConfig(output_dir=output_dir, video_length=5, video_interval=0)

    async def train() -> None:
        async with AsyncRecorder(config, SyntheticBackend(width=64, height=48)) as recorder:
            for _ in range(40):
                await recorder.step()

    anyio.run(train, backend=backend)
    counts = read_step_counts(output_dir)
    assert counts is not None
    assert counts.steps[-1] == 40


def test_a_run_that_is_cancelled_leaves_its_step_counts(output_dir: Path) -> None:
    config = RecorderConfig(output_dir=output_dir, video_length=5, video_interval=0)

    async def train() -> None:
        with anyio.CancelScope() as scope:
            async with AsyncRecorder(config, SyntheticBackend(width=64, height=48)) as recorder:
                for _ in range(7):
                    await recorder.step()
                scope.cancel()
                await anyio.sleep_forever()

    anyio.run(train)
    counts = read_step_counts(output_dir)
    assert counts is not None
    assert counts.steps[-1] == 7


def test_the_file_is_no_clip(output_dir: Path) -> None:
    config = RecorderConfig(output_dir=output_dir, video_interval=0, name_prefix="session", video_length=4)
    with Recorder(config, SyntheticBackend(width=64, height=48)) as recorder:
        recorder.start_clip("pace", length=3)
        for _ in range(10):
            recorder.step()
    names = [clip.name for clip in recorder.summary().clips]
    assert "session-pace-2" in names
    assert all(clip.state is ClipState.COMPLETE for clip in recorder.summary().clips)
    inspection = inspect(output_dir)
    assert (inspection.differences, inspection.notes) == ((), ())
    assert recover(output_dir).problems == ()


async def test_a_full_memory_keeps_every_second_sample(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stepreel.service.step_log._MOST_SAMPLES", 4)
    monkeypatch.setattr("stepreel.service.step_log._INTERVAL_S", 1e-6)
    await keep(tmp_path, [], until=5)
    steps = [step for _, step in json.loads((tmp_path / STEP_COUNTS_FILE).read_text())["samples"]]
    assert len(steps) <= 4
    *spaced, last = steps
    assert spaced in ([0, 2, 4], [0, 4, 8], [0, 4])
    assert last >= 5


async def test_a_folder_that_is_gone_costs_a_line_of_the_log_and_no_more(tmp_path: Path) -> None:
    folder = tmp_path / "gone"
    log = log_of(folder)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(StepLog(folder, lambda: 0, log, Threads()).run)
        await log.appended.wait()
        tasks.cancel_scope.cancel()
    assert log.has_lines
