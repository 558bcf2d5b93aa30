"""What stepreel's threads beside the training thread cost the training process while a clip is open."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from stepreel import Recorder, RecorderConfig
from stepreel.backends.synthetic import SyntheticBackend

STEPS = 400
STEP_S = 0.005
GOAL_S = 20e-6
GOAL_HZ = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What all threads of this process but the calling one had of the processor so far."""

    run_s: float
    wakeups: int
    """Times that one of them got a processor."""

    @classmethod
    def read(cls) -> Usage:
        """Read it from `/proc/self/task/*/schedstat`: nanoseconds run, nanoseconds waited, timeslices."""
        own = str(threading.get_native_id())
        threads = [path for path in Path("/proc/self/task").iterdir() if path.name != own]
        found = [(path / "schedstat").read_text().split() for path in threads]
        return cls(run_s=sum(int(run) for run, _, _ in found) / 1e9, wakeups=sum(int(count) for *_, count in found))


@pytest.fixture
def usage_in_a_clip(tmp_path: Path) -> Callable[[], Usage]:
    """Return a function that trains through a clip, and tells what the other threads had meanwhile."""

    def measure() -> Usage:
        config = RecorderConfig(output_dir=tmp_path, video_length=0, video_interval=0)
        with Recorder(config, SyntheticBackend(width=640, height=480)) as recorder:
            recorder.reset()
            before = Usage.read()
            for _ in range(STEPS):
                work(STEP_S)
                recorder.step()
            after = Usage.read()
        return Usage(run_s=after.run_s - before.run_s, wakeups=after.wakeups - before.wakeups)

    return measure


def work(duration_s: float) -> None:
    """Compute for so long as a training step does, which holds the interpreter for most of it."""
    values = np.linspace(0.0, 1.0, 2048)
    end = time.perf_counter() + duration_s
    while time.perf_counter() < end:
        np.sin(values, out=values)


def test_other_threads_time(hold_to_goal: Callable[..., None], usage_in_a_clip: Callable[[], Usage]) -> None:
    hold_to_goal(
        lambda: usage_in_a_clip().run_s / STEPS,
        STEP_S,
        title="processor time of stepreel's other threads, for each step of a clip",
        against="a step of 5 ms",
        goal=GOAL_S,
    )


def test_other_threads_wakeups(hold_to_goal: Callable[..., None], usage_in_a_clip: Callable[[], Usage]) -> None:
    hold_to_goal(
        lambda: usage_in_a_clip().wakeups / (STEPS * STEP_S),
        1.0,
        title="wake-ups of stepreel's other threads, a second of a clip",
        against="one a second",
        goal=GOAL_HZ,
        is_time=False,
    )
