"""From the times of single steps to the numbers of the table."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .plan import Plan
from .recorders import PEERS

_CLOSING_STEPS = 3
"""The step of a clip's last picture, in which most recorders close it, and what is still near enough."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepTimes:
    """Times of the steps of one run [s]."""

    p50: float
    """While a clip is open, without the steps in which it is closed; the next three too."""
    p99: float
    p999: float
    longest: float
    closing: float
    """The longest step in which a clip is closed."""
    after_p50: float
    """Between clips, while what was captured may still be encoded."""
    after_p99: float
    after_longest: float


def step_times(steps_s: Sequence[float], plan: Plan) -> StepTimes:
    """Return the measures of one run; `steps_s` has the time of each step."""
    times = np.asarray(steps_s)
    starts = plan.clip_starts
    last = plan.clip_steps - 1
    open_steps = _gather(times, ((start, start + last) for start in starts))
    closing = _gather(times, ((start + last, start + last + _CLOSING_STEPS) for start in starts))
    after = _gather(times, ((start + last + _CLOSING_STEPS, start + plan.interval_steps) for start in starts))
    p50, p99, p999 = np.percentile(open_steps, (50, 99, 99.9))
    after_p50, after_p99 = np.percentile(after, (50, 99))
    return StepTimes(
        p50=float(p50),
        p99=float(p99),
        p999=float(p999),
        longest=float(open_steps.max()),
        closing=float(closing.max()),
        after_p50=float(after_p50),
        after_p99=float(after_p99),
        after_longest=float(after.max()),
    )


def summarize(plan: Plan, runs: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return a row for each peer: medians over its repetitions, ratios to the baseline of the same repetition.

    Args:
        plan: What all runs were put through.
        runs: As `one_run.run` returns them, with `repetition` and what `pictures.examine` found besides, and with
            `step_times` in place of the times of single steps.
    """
    repetitions: dict[str, dict[int, Mapping[str, Any]]] = defaultdict(dict)
    for run in runs:
        repetitions[run["peer"]][run["repetition"]] = run
    return {key: _row(key, plan, repetitions) for key in PEERS if key in repetitions}


def _row(key: str, plan: Plan, repetitions: Mapping[str, Mapping[int, Mapping[str, Any]]]) -> dict[str, Any]:
    own = repetitions[key]
    baseline = repetitions.get(PEERS[key].baseline or key, {})
    pairs = [(run, baseline[number]) for number, run in own.items() if number in baseline]
    names = [field.name for field in fields(StepTimes)]
    row: dict[str, Any] = {
        "title": next(iter(own.values()))["title"],
        "baseline": PEERS[key].baseline,
        "repetitions": len(own),
        "times_s": {name: median(run["step_times"][name] for run in own.values()) for name in names},
        "ratios": {
            name: median(run["step_times"][name] / base["step_times"][name] for run, base in pairs)
            for name in names
            if pairs
        },
        "ratio_spread": {name: _spread(pairs, name) for name in names if pairs},
        "finish_s": median(run["finish_s"] for run in own.values()),
        "setup_s": median(run["setup_s"] for run in own.values()),
    }
    if pairs:
        row["memory_nbytes"] = median(run["memory_nbytes"] - base["memory_nbytes"] for run, base in pairs)
    if PEERS[key].records:
        row |= _pictures(list(own.values()), plan)
    return row


def _spread(pairs: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]], name: str) -> tuple[float, float]:
    ratios = [run["step_times"][name] / base["step_times"][name] for run, base in pairs]
    return min(ratios), max(ratios)


def _pictures(runs: Sequence[Mapping[str, Any]], plan: Plan) -> dict[str, Any]:
    wanted = plan.clip_count * plan.clip_steps
    compared = [run for run in runs if run["pictures"]["psnr_mean_db"] is not None]
    children_s = median(run["children_cpu_s"] for run in runs)
    frames = wanted - median(run["pictures"]["lost"] for run in runs)
    return {
        "frames": wanted,
        "lost": median(run["pictures"]["lost"] for run in runs),
        "repeated": median(run["pictures"]["doubled"] for run in runs),
        "lost_most": max(run["pictures"]["lost"] for run in runs),
        "nbytes": median(run["pictures"]["nbytes"] for run in runs),
        "psnr_mean_db": median(run["pictures"]["psnr_mean_db"] for run in compared) if compared else None,
        "psnr_worst_db": min(run["pictures"]["psnr_worst_db"] for run in compared) if compared else None,
        # Of those that encode in a program of their own; a thread's share can't be told from the training's.
        "frames_per_cpu_s": frames / children_s if children_s > 0.1 else None,
    }


def _gather(times: NDArray[np.float64], spans: Iterable[tuple[int, int]]) -> NDArray[np.float64]:
    return np.concatenate([times[first:end] for first, end in spans])
