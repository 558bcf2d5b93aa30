"""From the times of single steps to the numbers of the table."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .plan import Plan
from .recorders import PEERS

Times = NDArray[np.float64]
Measure = Callable[[Times], float]

NAMES = ("p50", "p99", "p999", "longest", "closing", "after_p50", "after_p99", "after_longest")
"""`p50` to `longest`: steps while a clip is open, without those in which it is closed. `closing`: the longest step in
which a clip is closed. `after_...`: steps of the gaps, while what was captured may still be encoded."""

_CLOSING_STEPS = 3
"""The step of a clip's last picture, in which most recorders close it, and what is still near enough."""
_COLD_STEPS = 10
"""First steps of a rest, after a wait in which the processor may have slept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """A measure of a run's clips, and the same of the baselines beside them [s]."""

    time_s: float
    baseline_s: float
    ratio: float


def step_times(steps_s: Sequence[float], plan: Plan) -> dict[str, Held]:
    """Return the measures of one run by `NAMES`; `steps_s` has the time of each step."""
    times = np.asarray(steps_s)
    last = plan.clip_steps - 1
    clips = _spans(times, plan.clip_starts, 0, last)
    baselines = _spans(times, plan.baseline_starts, 0, last)
    gaps = _spans(times, plan.clip_starts, last + _CLOSING_STEPS, plan.clip_steps + plan.gap_steps)
    rests = _spans(times, plan.rest_starts, _COLD_STEPS, plan.gap_steps)
    closing_s = float(np.concatenate(_spans(times, plan.clip_starts, last, last + _CLOSING_STEPS)).max())
    held = _hold(clips, baselines)
    longest_s = held["longest"].baseline_s
    held["closing"] = Held(time_s=closing_s, baseline_s=longest_s, ratio=closing_s / longest_s)
    return held | {f"after_{name}": found for name, found in _hold(gaps, rests).items() if f"after_{name}" in NAMES}


def _hold(spans: Sequence[Times], neighbours: Sequence[Times]) -> dict[str, Held]:
    """Hold spans against their neighbours: one more than there are spans, one before and one behind each.

    The speed of the machine drifts, so the mean of the two sides counts. Each side is about as many steps as the
    span: the longest of more steps would be longer. Percentiles that need many steps are taken of all spans together.
    """
    sides = (neighbours[:-1], neighbours[1:])
    whole = np.concatenate(spans)
    whole_sides = [np.concatenate(side) for side in sides]
    return {
        "p50": _middle(spans, sides, _percentile(50)),
        "p99": _middle(spans, sides, _percentile(99)),
        "p999": _beside(whole, whole_sides, _percentile(99.9)),
        "longest": _beside(whole, whole_sides, lambda times: float(times.max())),
    }


def _middle(spans: Sequence[Times], sides: Sequence[Sequence[Times]], measure: Measure) -> Held:
    """Return the medians over the spans, each with its own neighbours."""
    found = [_beside(span, beside, measure) for span, *beside in zip(spans, *sides, strict=True)]
    return Held(
        time_s=median(held.time_s for held in found),
        baseline_s=median(held.baseline_s for held in found),
        ratio=median(held.ratio for held in found),
    )


def _beside(span: Times, sides: Iterable[Times], measure: Measure) -> Held:
    time_s, baseline_s = measure(span), mean(measure(side) for side in sides)
    return Held(time_s=time_s, baseline_s=baseline_s, ratio=time_s / baseline_s)


def _percentile(share: float) -> Measure:
    return lambda times: float(np.percentile(times, share))


def _spans(times: Times, starts: Iterable[int], first: int, end: int) -> list[Times]:
    """Return for each start the steps from `first` to `end`, exclusive, after it."""
    return [times[start + first : start + end] for start in starts]


def summarize(runs: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return a row for each peer: medians over its repetitions, and of its ratios the least and the greatest.

    Args:
        runs: As `one_run.run` returns them, with `repetition`, with `frames` that were to be recorded and what
            `pictures` found of them, and with `step_times` in place of the times of single steps.
    """
    repetitions: dict[str, dict[int, Mapping[str, Any]]] = defaultdict(dict)
    for run in runs:
        repetitions[run["peer"]][run["repetition"]] = run
    return {key: _row(key, repetitions) for key in PEERS if key in repetitions}


def _row(key: str, repetitions: Mapping[str, Mapping[int, Mapping[str, Any]]]) -> dict[str, Any]:
    runs = list(repetitions[key].values())
    held = {name: [run["step_times"][name] for run in runs] for name in NAMES}
    row: dict[str, Any] = {
        "title": runs[0]["title"],
        "repetitions": len(runs),
        "times_s": {name: median(one["time_s"] for one in found) for name, found in held.items()},
        "ratios": {name: median(one["ratio"] for one in found) for name, found in held.items()},
        "ratio_spread": {
            name: (min(one["ratio"] for one in found), max(one["ratio"] for one in found))
            for name, found in held.items()
        },
        "finish_s": median(median(run["finish_s"]) for run in runs),
        "setup_s": median(run["setup_s"] for run in runs),
        "memory_nbytes": _memory_nbytes(repetitions[key], repetitions.get(PEERS[key].without, {})),
    }
    return row | (_pictures(runs) if PEERS[key].records else {})


def _memory_nbytes(own: Mapping[int, Mapping[str, Any]], without: Mapping[int, Mapping[str, Any]]) -> float | None:
    """Return what a recorder takes more than the loop without one; None where there is none to compare with."""
    pairs = [(run, without[number]) for number, run in own.items() if number in without]
    return median(run["memory_nbytes"] - other["memory_nbytes"] for run, other in pairs) if pairs else None


def _pictures(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    compared = [run for run in runs if run["pictures"]["psnr_mean_db"] is not None]
    wanted = runs[0]["frames"]
    lost = median(run["pictures"]["lost"] for run in runs)
    children_s = median(run["children_cpu_s"] for run in runs)
    return {
        "frames": wanted,
        "lost": lost,
        "lost_most": max(run["pictures"]["lost"] for run in runs),
        "lost_in_a_row": max(run["pictures"]["lost_in_a_row"] for run in runs),
        "repeated": median(run["pictures"]["doubled"] for run in runs),
        "nbytes": median(run["pictures"]["nbytes"] for run in runs),
        "psnr_mean_db": median(run["pictures"]["psnr_mean_db"] for run in compared) if compared else None,
        "psnr_worst_db": min(run["pictures"]["psnr_worst_db"] for run in compared) if compared else None,
        # Missing in results of before it was measured.
        "programs_nbytes": median(run.get("children_nbytes", 0) for run in runs) or None,
        # Of those that encode in a program of their own; a thread's share can't be told from the training's.
        "frames_per_cpu_s": (wanted - lost) / children_s if children_s > 0.1 else None,
    }
