"""Several streams at once in one training process, a recorder each: what they cost, and whether one of them starves.

`python -m peers.streams STREAMS FRAMES STEP_UNITS RESULT` is the process that trains.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from statistics import mean, median
from typing import Any

from .plan import Plan
from .processes import children_cpu_s, run_program
from .row_settings import RowSettings, plan_of_one_clip
from .workload import PictureEnv, Work, units_of

_WIDTH, _HEIGHT = 320, 240
_COUNTS = (1, 4, 16)
_FRAMES = 200
_STEP_S = 0.005


def measure(settings: RowSettings) -> dict[str, Any]:
    """Return for each number of streams what the training thread and the workers pay, and what each stream got."""
    step_units = units_of(_STEP_S)
    runs = [
        run_program("streams", count, settings.frames(_FRAMES), step_units)
        for _ in range(settings.repetitions)
        for count in _COUNTS
    ]
    counts = [_row(count, [run for run in runs if run["streams"] == count]) for count in _COUNTS]
    return {"size": [_WIDTH, _HEIGHT], "frames": settings.frames(_FRAMES), "counts": counts, "runs": runs}


def _row(count: int, runs: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "streams": count,
        "record_s": median(run["record_s"] for run in runs),
        "record_p99_s": median(run["record_p99_s"] for run in runs),
        "workers_cpu_s": median(run["workers_cpu_s"] for run in runs),
        "encoded": median(sum(run["encoded"]) for run in runs),
        "encoded_least": min(min(run["encoded"]) for run in runs),
        "encoded_most": max(max(run["encoded"]) for run in runs),
        "least_of_most": min(min(run["encoded"]) / max(run["encoded"]) for run in runs),
    }


def main() -> None:
    streams, frames, step_units, result = sys.argv[1:]
    plan = plan_of_one_clip(_WIDTH, _HEIGHT, int(frames), step_units=0)
    Path(result).write_text(json.dumps(_train(plan, int(streams), Work(int(step_units)))))


def _train(plan: Plan, streams: int, work: Work) -> dict[str, Any]:
    envs = [PictureEnv(plan) for _ in range(streams)]
    with tempfile.TemporaryDirectory(prefix="stepreel-bench-") as folder, ExitStack() as stack:
        recorders = [stack.enter_context(_recorder(plan, env, Path(folder) / str(n))) for n, env in enumerate(envs)]
        before_s = children_cpu_s()
        records_s = []
        for _ in range(plan.clip_steps):
            work.run()
            for env in envs:
                env.step(0)
            begin = time.perf_counter()
            for recorder in recorders:
                recorder.step()
            records_s.append((time.perf_counter() - begin) / streams)
        for recorder in recorders:
            recorder.flush()
        workers_cpu_s = children_cpu_s() - before_s
        frames = [recorder.statistics().frames for recorder in recorders]
    return {
        "streams": streams,
        "record_s": mean(records_s),
        "record_p99_s": sorted(records_s)[int(0.99 * len(records_s))],
        "workers_cpu_s": workers_cpu_s,
        "encoded": [counts.encoded for counts in frames],
        "dropped": [sum(counts.dropped.values()) for counts in frames],
    }


def _recorder(plan: Plan, env: PictureEnv, folder: Path) -> Any:
    from stepreel import Recorder, RecorderConfig
    from stepreel.backends.gymnasium import GymnasiumBackend

    config = RecorderConfig(
        output_dir=folder,
        video_length=plan.clip_steps,
        video_interval=0,
        width=plan.width,
        height=plan.height,
        codec="libx264",
        queue_depth=plan.queue_frames,
    )
    return Recorder(config, GymnasiumBackend(env))


if __name__ == "__main__":
    main()
