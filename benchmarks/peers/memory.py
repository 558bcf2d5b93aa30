"""What a recorder adds to the memory of the training process, for a short clip and for a very long one.

`python -m peers.memory WHO FRAMES STEP_UNITS RESULT` is the process that trains.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

from .plan import Plan
from .processes import peak_resident_nbytes, resident_nbytes, run_program
from .row_settings import RowSettings, plan_of_one_clip
from .workload import PictureEnv, units_of

_WIDTH, _HEIGHT = 320, 240
_LENGTHS = (200, 20_000)
_STEP_S = 0.001
_REPETITIONS = 3
"""At most: they take long, and differ little."""


def measure(settings: RowSettings) -> dict[str, Any]:
    """Return for each length what the training process has more than one without a recorder [bytes]."""
    step_units = units_of(_STEP_S)
    repetitions = min(_REPETITIONS, settings.repetitions)
    clips = []
    for length in (settings.frames(length) for length in _LENGTHS):
        runs = [
            {who: run_program("memory", who, length, step_units) for who in ("nobody", "stepreel")}
            for _ in range(repetitions)
        ]
        clips.append({"frames": length, "runs": runs, "beyond_pool_nbytes": median(map(_beyond_pool_nbytes, runs))})
    return {"repetitions": repetitions, "size": [_WIDTH, _HEIGHT], "clips": clips}


def _beyond_pool_nbytes(run: dict[str, Any]) -> int:
    own = run["stepreel"]
    return int(own["peak_nbytes"] - run["nobody"]["peak_nbytes"] - own["pool_nbytes"])


def main() -> None:
    who, frames, step_units, result = sys.argv[1:]
    plan = plan_of_one_clip(_WIDTH, _HEIGHT, int(frames), step_units=int(step_units))
    Path(result).write_text(json.dumps(_train(plan, PictureEnv(plan), _SESSIONS[who])))


def _train(plan: Plan, env: PictureEnv, session: Callable[[Plan, PictureEnv], Any]) -> dict[str, Any]:
    env.reset()
    with session(plan, env) as (record, finish):
        for _ in range(plan.clip_steps):
            env.step(0)
            record()
        facts = finish()
        pool_nbytes = _pool_nbytes()
        return {
            "peak_nbytes": peak_resident_nbytes(),
            "end_nbytes": resident_nbytes(),
            "pool_nbytes": pool_nbytes,
            **facts,
        }


@contextmanager
def _nobody(plan: Plan, env: PictureEnv) -> Iterator[tuple[Callable[[], object], Callable[[], dict[str, Any]]]]:
    yield env.render, dict


@contextmanager
def _stepreel(plan: Plan, env: PictureEnv) -> Iterator[tuple[Callable[[], object], Callable[[], dict[str, Any]]]]:
    from stepreel import Recorder, RecorderConfig
    from stepreel.backends.gymnasium import GymnasiumBackend

    with tempfile.TemporaryDirectory(prefix="stepreel-bench-") as folder:
        config = RecorderConfig(
            output_dir=folder,
            video_length=plan.clip_steps,
            video_interval=0,
            width=plan.width,
            height=plan.height,
            codec="libx264",
        )
        with Recorder(config, GymnasiumBackend(env)) as recorder:

            def finish() -> dict[str, Any]:
                recorder.flush()
                frames = recorder.statistics().frames
                return {"encoded": frames.encoded, "requested": frames.requested}

            yield recorder.step, finish


_SESSIONS = {"nobody": _nobody, "stepreel": _stepreel}


def _pool_nbytes() -> int:
    """Return how much of the resident memory is shared memory without a name: the frame pool [bytes]."""
    total = 0
    is_pool = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        name, _, value = line.partition(":")
        if "-" in name.split(" ")[0]:
            is_pool = "/memfd:" in line
        elif is_pool and name == "Rss":
            total += int(value.split()[0]) * 1024
    return total


if __name__ == "__main__":
    main()
