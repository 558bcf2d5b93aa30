"""What opening a clip takes of the training thread, beyond the capture of its first picture.

`python -m peers.opening STEP_UNITS CLIPS RESULT` is the process that trains, under the wrapper that takes the place of
Gymnasium's `RecordVideo`.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from .processes import run_program
from .row_settings import RowSettings, plan_of_one_clip
from .workload import PictureEnv, units_of

_STEP_S = 0.005
_WIDTH, _HEIGHT = 640, 480
_CLIPS = 50
_WARM_CLIPS = 2
"""Clips before those that are counted: what is loaded by the first clip of a run is another row's."""
_CLIP_STEPS, _GAP_STEPS = 20, 40
_SETTLED = 10
"""A clip's steps from this one on are ordinary: what its opening brings is done."""


def measure(settings: RowSettings) -> dict[str, Any]:
    """Return what opening a clip takes beyond an ordinary captured step, and what such steps vary by [s]."""
    clips = settings.frames(_CLIPS)
    runs = [run_program("opening", units_of(_STEP_S), clips) for _ in range(settings.repetitions)]
    names = ("p50_s", "p90_s", "longest_s")
    return {
        "clips": clips,
        "size": [_WIDTH, _HEIGHT],
        "captured_s": median(run["captured_s"] for run in runs),
        "opening": {name: median(run["opening"][name] for run in runs) for name in names},
        "ordinary": {name: median(run["ordinary"][name] for run in runs) for name in names},
        "runs": runs,
    }


def main() -> None:
    step_units, clips, result = sys.argv[1:]
    Path(result).write_text(json.dumps(_train(int(step_units), int(clips))))


def _train(step_units: int, clips: int) -> dict[str, Any]:
    from stepreel.wrappers import RecordVideo

    simulator = PictureEnv(plan_of_one_clip(_WIDTH, _HEIGHT, _CLIP_STEPS, step_units=step_units))
    simulate = simulator.step
    simulator.step = lambda action: (None, 0.0, False, False, {})  # type: ignore[method-assign]
    first_s, ordinary_s = [], []
    with tempfile.TemporaryDirectory(prefix="stepreel-bench-") as folder:
        env = RecordVideo(simulator, folder, episode_trigger=lambda episode: False, video_length=_CLIP_STEPS)
        env.reset()
        for number in range(_WARM_CLIPS + clips):
            for _ in range(_GAP_STEPS):
                simulate(0)
                env.step(0)
            opened_s = _timed(lambda number=number: env.start_recording(f"clip-{number}"))
            steps_s = []
            for _ in range(_CLIP_STEPS):
                simulate(0)
                steps_s.append(_timed(lambda: env.step(0)))
            if number >= _WARM_CLIPS:
                first_s.append(opened_s + steps_s[0])
                ordinary_s.extend(steps_s[_SETTLED:])
        env.close()
    captured_s = median(ordinary_s)
    return {
        "captured_s": captured_s,
        "opening": _describe(np.array(first_s) - captured_s),
        "ordinary": _describe(np.array(ordinary_s) - captured_s),
    }


def _describe(beyond_s: Any) -> dict[str, float]:
    p50, p90 = np.percentile(beyond_s, (50, 90))
    return {"p50_s": float(p50), "p90_s": float(p90), "longest_s": float(beyond_s.max())}


def _timed(call: Any) -> float:
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


if __name__ == "__main__":
    main()
