"""A training script: `python -m peers.start_script WHO STARTED STEP_UNITS RESULT`, STARTED on the monotonic clock [s].

It imports what it needs only, in the order in which a script does.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import gymnasium  # noqa: F401 - a training script has it, whoever records.
import numpy as np  # noqa: F401

from .row_settings import plan_of_one_clip
from .workload import PictureEnv

_STEPS = 60
_WIDTH, _HEIGHT = 640, 480


def main() -> None:
    who, started, step_units, result = sys.argv[1:]
    env = PictureEnv(plan_of_one_clip(_WIDTH, _HEIGHT, _STEPS, step_units=int(step_units)))
    with ExitStack() as stack:
        facts: dict[str, Any] = {}
        record = _open_recorder(env, stack, facts) if who == "stepreel" else env.render
        env.reset()
        env.render()  # The environment's own first time is not the recorder's.
        env.step(0)
        records_s = [_timed(record)]
        facts["first_capture_s"] = time.monotonic() - float(started)
        for _ in range(_STEPS - 1):
            env.step(0)
            records_s.append(_timed(record))
    Path(result).write_text(json.dumps({**facts, "records_s": records_s}))


def _open_recorder(env: PictureEnv, stack: ExitStack, facts: dict[str, Any]) -> Callable[[], object]:
    begin = time.monotonic()
    from stepreel import Recorder, RecorderConfig
    from stepreel.backends.gymnasium import GymnasiumBackend

    facts["import_s"] = time.monotonic() - begin
    folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="stepreel-bench-"))
    begin = time.monotonic()
    recorder = Recorder(RecorderConfig(output_dir=folder, video_length=_STEPS), GymnasiumBackend(env))
    facts["construct_s"] = time.monotonic() - begin
    begin = time.monotonic()
    stack.enter_context(recorder)
    facts["enter_s"] = time.monotonic() - begin
    return recorder.step


def _timed(call: Callable[[], object]) -> float:
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


if __name__ == "__main__":
    main()
