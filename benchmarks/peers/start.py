"""From the start of a training script to its first captured picture, with stepreel and without."""

from __future__ import annotations

import time
from statistics import median
from typing import Any

from .processes import run_program
from .row_settings import RowSettings
from .workload import units_of

_STEP_S = 0.005
_LATER = 10
"""Captures from this one on are any clip's; those before have the worker start beside them."""


def measure(settings: RowSettings) -> dict[str, Any]:
    """Return times from the start of the process, and what recording takes on the training thread [s]."""
    step_units = units_of(_STEP_S)
    _run("stepreel", step_units)  # Files are in memory from here on, as they are for whoever starts a second time.
    runs = [{who: _run(who, step_units) for who in ("nobody", "stepreel")} for _ in range(settings.repetitions)]
    own = [run["stepreel"] for run in runs]
    return {
        "with_s": median(run["first_capture_s"] for run in own),
        "without_s": median(run["nobody"]["first_capture_s"] for run in runs),
        "added_s": median(run["stepreel"]["first_capture_s"] - run["nobody"]["first_capture_s"] for run in runs),
        **{name: median(run[name] for run in own) for name in ("import_s", "construct_s", "enter_s")},
        "first_step_s": median(run["records_s"][0] for run in own),
        "later_step_s": median(median(run["records_s"][_LATER:]) for run in own),
        "longest_step_s": median(max(run["records_s"]) for run in own),
        "runs": runs,
    }


def _run(who: str, step_units: int) -> Any:
    return run_program("start_script", who, time.monotonic(), step_units)
