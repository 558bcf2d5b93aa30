"""The pace of a run: the step count at moments some time apart."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import anyio
import pytest

from stepreel import AsyncRecorder, ClipState, OutputError, Recorder, RecorderConfig
from stepreel.backends.synthetic import SyntheticBackend
from stepreel.pace import PACE_FILE, PaceKeeper, read_pace
from stepreel.session import SessionLog
from stepreel.storage.inspection import inspect
from stepreel.storage.recovery import recover


def leave_pace(folder: Path, **changes: Any) -> None:
    found = {"schema": 1, "started_at": "2026-01-01T00:00:00", "samples": [[0.0, 0], [1.0, 100]], **changes}
    (folder / PACE_FILE).write_text(json.dumps(found))


async def keep(folder: Path, counts: list[int], until: int) -> None:
    """Run a keeper until it has looked `until` times."""
    looked = anyio.Event()

    def count_steps() -> int:
        counts.append(len(counts))
        if len(counts) == until:
            looked.set()
        return counts[-1]

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(PaceKeeper(folder, count_steps, SessionLog(folder)).run)
        await looked.wait()
        tasks.cancel_scope.cancel()


def test_a_run_leaves_its_pace_up_to_its_last_step(output_dir: Path) -> None:
    config = RecorderConfig(output_dir=output_dir, video_length=5, video_interval=0, name_prefix="run")
    with Recorder(config, SyntheticBackend(width=64, height=48)) as recorder:
        for _ in range(40):
            recorder.step()
    pace = read_pace(output_dir)
    assert pace is not None
    assert (pace.steps[0], pace.steps[-1]) == (0, 40)
    assert pace.seconds[0] <= pace.seconds[-1]


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_loop_that_is_starved_still_tells_of_the_last_step(output_dir: Path, backend: str) -> None:
    config = RecorderConfig(output_dir=output_dir, video_length=5, video_interval=0)

    async def train() -> None:
        async with AsyncRecorder(config, SyntheticBackend(width=64, height=48)) as recorder:
            for _ in range(40):
                await recorder.step()

    anyio.run(train, backend=backend)
    pace = read_pace(output_dir)
    assert pace is not None
    assert pace.steps[-1] == 40


def test_a_run_that_is_cancelled_leaves_its_pace(output_dir: Path) -> None:
    config = RecorderConfig(output_dir=output_dir, video_length=5, video_interval=0)

    async def train() -> None:
        with anyio.CancelScope() as scope:
            async with AsyncRecorder(config, SyntheticBackend(width=64, height=48)) as recorder:
                for _ in range(7):
                    await recorder.step()
                scope.cancel()
                await anyio.sleep_forever()

    anyio.run(train)
    pace = read_pace(output_dir)
    assert pace is not None
    assert pace.steps[-1] == 7


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
    monkeypatch.setattr("stepreel.pace._MOST_SAMPLES", 4)
    monkeypatch.setattr("stepreel.pace._INTERVAL_S", 1e-6)
    await keep(tmp_path, [], until=5)
    steps = [step for _, step in json.loads((tmp_path / PACE_FILE).read_text())["samples"]]
    assert len(steps) <= 4
    *spaced, last = steps
    assert spaced in ([0, 2, 4], [0, 4, 8], [0, 4])
    assert last >= 5


async def test_a_folder_that_is_gone_costs_a_line_of_the_log_and_no_more(tmp_path: Path) -> None:
    folder = tmp_path / "gone"
    log = SessionLog(folder)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(PaceKeeper(folder, lambda: 0, log).run)
        await log.appended.wait()
        tasks.cancel_scope.cancel()
    assert log.has_lines


@pytest.mark.parametrize(
    "changes",
    [
        {"schema": 2},
        {"samples": {}},
        {"samples": [[1.0, 1], [0.5, 2]]},
        {"samples": [[0.0, 5], [1.0, 4]]},
        {"samples": [[0.0, -1]]},
        {"samples": [[float("nan"), 1]]},
        {"samples": [[1e300, 1]]},
        {"samples": [["0", 1]]},
        {"started_at": None},
    ],
    ids=str,
)
def test_a_damaged_file_is_refused_by_name(tmp_path: Path, changes: dict[str, Any]) -> None:
    leave_pace(tmp_path)
    assert read_pace(tmp_path) is not None
    leave_pace(tmp_path, **changes)
    with pytest.raises(OutputError, match=PACE_FILE):
        read_pace(tmp_path)


def test_a_link_a_huge_file_and_deep_nesting_are_refused(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere.json"
    elsewhere.write_text("{}")
    path = tmp_path / PACE_FILE
    path.symlink_to(elsewhere)
    with pytest.raises(OutputError, match="link"):
        read_pace(tmp_path)
    path.unlink()
    for text in (" " * (2**20 + 1), "[" * 100_000):
        path.write_text(text)
        with pytest.raises(OutputError, match="is not the pace of a run"):
            read_pace(tmp_path)


def test_no_file_is_no_pace(tmp_path: Path) -> None:
    assert read_pace(tmp_path) is None
