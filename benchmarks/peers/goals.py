"""The goals, and what was measured of each: one line of the table for every measure."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

import numpy as np

from .recorders import PEERS

Row = Mapping[str, Any]

_STEP_GOALS = {
    "stepreel": {"p50": 1.05, "p99": 1.05, "p999": 1.10, "longest": 1.5, "closing": 1.5},
    "stepreel_snapshots": {"p50": 1.02, "p99": 1.05, "p999": 1.10, "longest": 1.5, "closing": 1.5},
    "stepreel_mujoco": {"p50": 1.02, "p99": 1.05, "p999": 1.10, "longest": 1.5, "closing": 1.5},
    "stepreel_newton": {"p50": 1.02, "p99": 1.05, "p999": 1.10, "longest": 1.5, "closing": 1.5},
}
_STEP_TITLES = {
    "p50": "step time while a clip is open, p50",
    "p99": "step time while a clip is open, p99",
    "p999": "step time while a clip is open, p99.9",
    "longest": "step time while a clip is open, longest",
    "closing": "the longest step in which a clip ends, against the longest",
}
_IDLE_TIMES, _IDLE_S = 10.0, 1e-6
_CAPTURE_TIMES = 1.2
_THREADS = {"other_threads_time": "20 µs", "other_threads_wakeups": "1"}
"""As `benchmarks/test_threads.py` holds them to it."""
_MEMORY_NBYTES = 30e6
_MEMORY_SAME_NBYTES = 5e6
"""Memory of two processes differs by about so much from run to run."""
_START_S = 1.0
_FIRST_STEP_S = 1e-3
"""What the first capture may take more than a later one: it touches memory for the first time."""
_OPENING_S = 1e-3
_OPENING_TITLES = {"p50_s": "half of the time", "p90_s": "nine times of ten", "longest_s": "the longest"}
_LINEAR = 1.25
_STARVES = 0.5
_GPU_GROUPS = ((16, "cpu"), (16, "gpu"), (256, "cpu"))
"""Worlds drawn, and where; always in the table."""
_GPU_TITLES = {"steps_per_s": "steps a second", "p99_ms": "p99 of the step", "longest_ms": "longest step"}
_GPU_GOALS = {"steps_per_s": 0.98, "p99_ms": 1.1, "longest_ms": 1.5}
_GPU_ONLY_STEPS = 0.95


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """A line of the table."""

    key: str
    """By which `benchmarks/notes.json` says what bounds it."""
    measure: str
    goal: str
    measured: str = "not measured"
    reached: bool | None = None
    """None where it was not measured."""
    without: str = ""
    """What the same loop without a recorder shows, held against itself."""
    loaded: str = ""
    """What it shows with the load of a recorder beside it."""


def all_goals(
    rows: Mapping[str, Row], found: Mapping[str, Any], cheap: Mapping[str, Any], gpu: Mapping[str, Any] | None
) -> list[Goal]:
    """Return every goal, in the order of the table, also those that were not measured.

    Args:
        rows: As `measures.summarize` returns them.
        found: The results' `rows`.
        cheap: The rows of `benchmarks/baseline.json`.
        gpu: What `benchmarks/newton_gpu.py` wrote, if anything.
    """
    return [
        *_steps(rows),
        *_cheap(cheap),
        _encoder(found.get("encoder")),
        *_memory(found.get("memory")),
        *_likeness(rows, found.get("encoder")),
        *_start(found.get("start")),
        *_opening(found.get("opening")),
        *_streams(found.get("streams")),
        *_gpu(gpu),
    ]


def _steps(rows: Mapping[str, Row]) -> Iterator[Goal]:
    for key, goals in _STEP_GOALS.items():
        row, without, loaded = rows.get(key), rows.get(PEERS[key].without), rows.get(PEERS[key].loaded or "")
        for name, limit in goals.items():
            yield Goal(
                key=f"{key}.{name}",
                measure=f"{PEERS[key].title}: {_STEP_TITLES[name]}",
                goal=f"at most {limit:.2f}",
                measured=_spread(row["ratios"][name], row["ratio_spread"][name]) if row else "not measured",
                reached=row["ratios"][name] <= limit if row else None,
                without=_spread(without["ratios"][name], without["ratio_spread"][name]) if without else "",
                loaded=_spread(loaded["ratios"][name], loaded["ratio_spread"][name]) if loaded else "",
            )
        yield _lost(key, row)


def _lost(key: str, row: Row | None) -> Goal:
    """None may be lost of snapshots; of pixels those that are must lie evenly: THIN halves rates, part by part."""
    is_pixels = PEERS[key].draws
    goal = Goal(
        key=f"{key}.lost",
        measure=f"{PEERS[key].title}: frames lost, the default policy"
        + (", a queue of half a clip" if is_pixels else ""),
        goal="0, or evenly spread where the encoder can't keep up" if is_pixels else "0",
    )
    if row is None:
        return goal
    measured = f"{row['lost']:g} of {row['frames']}"
    if row["lost_most"] != row["lost"]:
        measured += f", at most {row['lost_most']}"
    if row["lost_in_a_row"]:
        measured += f", {row['lost_in_a_row']} in a row"
    share = 1 - row["lost_most"] / row["frames"]
    is_even = is_pixels and share > 0 and row["lost_in_a_row"] < 2 * math.ceil(1 / share)
    return _measured(goal, measured, row["lost_most"] == 0 or is_even)


def _cheap(cheap: Mapping[str, Any]) -> Iterator[Goal]:
    rows = cheap.get("rows", {})
    idle = Goal(
        key="step_outside_a_clip",
        measure="`recorder.step()` outside a clip, against an empty method",
        goal=f"at most {_IDLE_TIMES:g}, under 1 µs",
    )
    if row := rows.get("step_outside_a_clip"):
        reached = row["ratio"] <= _IDLE_TIMES and row["subject_s"] < _IDLE_S
        idle = _measured(idle, f"{row['ratio']:.1f}, {row['subject_s'] * 1e6:.2f} µs", reached)
    capture = Goal(
        key="capture", measure="capture of a pixel frame, against one copy of it", goal=f"at most {_CAPTURE_TIMES:g}"
    )
    if row := rows.get("capture_of_a_rendered_picture"):
        capture = _measured(capture, f"{row['ratio']:.2f}", row["ratio"] <= _CAPTURE_TIMES)
    yield from (idle, capture)
    for key, unit, measure in (
        ("other_threads_time", "", "processor time of stepreel's other threads, for each step of 5 ms in a clip"),
        ("other_threads_wakeups", " a second", "wake-ups of stepreel's other threads while a clip is open"),
    ):
        goal = Goal(key=key, measure=measure, goal=f"at most {_THREADS[key]}{unit}")
        if row := rows.get(key):
            told = f"{row['subject_s'] * 1e6:.1f} µs" if "subject_s" in row else f"{row['ratio']:.2g}{unit}"
            goal = _measured(goal, told, row["ratio"] <= row["goal"])
        yield goal


def _encoder(found: Row | None) -> Goal:
    goal = Goal(
        key="encoder",
        measure="encoded frames for each CPU-second, against the ffmpeg program with the same settings and frames",
        goal="at least 1.00",
    )
    return _measured(goal, _spread(found["ratio"], found["ratio_spread"]), found["ratio"] >= 1.0) if found else goal


def _memory(found: Row | None) -> Iterator[Goal]:
    clips = found["clips"] if found else [{"frames": 200}, {"frames": 20_000}]
    names = ("memory.short", "memory.long")
    for key, clip in zip(names, clips, strict=True):
        goal = Goal(
            key=key,
            measure=f"memory of the training process beyond the frame pool, a clip of {clip['frames']:,} frames",
            goal="at most 30 MB",
        )
        beyond = clip.get("beyond_pool_nbytes")
        yield goal if beyond is None else _measured(goal, f"{beyond / 1e6:.1f} MB", beyond <= _MEMORY_NBYTES)
    goal = Goal(key="memory.same", measure="the same, longer clip over shorter", goal="the same for both")
    if found is None:
        yield goal
        return
    difference = clips[1]["beyond_pool_nbytes"] - clips[0]["beyond_pool_nbytes"]
    yield _measured(goal, f"{difference / 1e6:+.1f} MB", abs(difference) <= _MEMORY_SAME_NBYTES)


def _likeness(rows: Mapping[str, Row], found: Row | None) -> Iterator[Goal]:
    """PSNR at the size of each peer's clip: of stepreel's own at several qualities, between which is interpolated."""
    others = [
        row
        for key, row in rows.items()
        if row.get("psnr_mean_db") and row["frames"] > row["lost"] and not key.startswith("stepreel")
    ]
    for name, measure in (("mean", "mean"), ("worst", "worst")):
        goal = Goal(
            key=f"psnr.{name}",
            measure=f"PSNR of decoded pictures, {measure}, at the size in bytes of a peer's clip",
            goal="not below any peer",
        )
        if not found or not others:
            yield goal
            continue
        margins = [(_margin_db(row, found["curve"], f"psnr_{name}_db"), row["title"]) for row in others]
        least, title = min(margins)
        yield _measured(goal, f"{least:+.2f} dB against {title}", round(least, 2) >= 0.0)


def _margin_db(row: Row, curve: Sequence[Row], name: str) -> float:
    """Return how much better stepreel's pictures are than a peer's, at its bytes for each frame [dB]."""
    points = sorted((one["nbytes"] / one["frames"], one[name]) for one in curve)
    sizes, ratios = zip(*points, strict=True)
    size = row["nbytes"] / (row["frames"] - row["lost"] + row["repeated"])
    return float(np.interp(np.log(size), np.log(sizes), ratios)) - float(row[name])


def _start(found: Row | None) -> Iterator[Goal]:
    goal = Goal(
        key="start",
        measure="from the start of a training program to its first captured frame",
        goal=f"under {_START_S:g} s more than without",
    )
    first = Goal(
        key="start.first_step",
        measure="of that on the training thread after construction: the first capture, longer than later ones by",
        goal=f"at most {_FIRST_STEP_S * 1e3:g} ms",
    )
    if found is None:
        yield from (goal, first)
        return
    measured = f"{found['added_s']:.2f} s ({found['with_s']:.2f} s, without {found['without_s']:.2f} s)"
    yield _measured(goal, measured, found["added_s"] < _START_S)
    longer_s = found["first_step_s"] - found["later_step_s"]
    measured = f"{longer_s * 1e3:.2f} ms ({found['first_step_s'] * 1e3:.2f} ms)"
    yield _measured(first, measured, longer_s <= _FIRST_STEP_S)


def _opening(found: Row | None) -> Iterator[Goal]:
    for name, title in _OPENING_TITLES.items():
        goal = Goal(
            key=f"opening.{name.removesuffix('_s')}",
            measure=f"opening a clip through `RecordVideo`, on the training thread, beyond a plain capture: {title}",
            goal=f"at most {_OPENING_S * 1e3:g} ms",
        )
        if found is None:
            yield goal
            continue
        beyond_s = found["opening"][name]
        without = f"{found['ordinary'][name] * 1e3:.2f} ms (an ordinary capture)"
        yield replace(_measured(goal, f"{beyond_s * 1e3:.2f} ms", beyond_s <= _OPENING_S), without=without)


def _streams(found: Row | None) -> Iterator[Goal]:
    counts = found["counts"] if found else []
    thread = Goal(
        key="streams.thread",
        measure="1, 4, 16 streams of 320x240 at once: cost of a stream on the training thread, against one alone",
        goal=f"at most {_LINEAR:g}: linear",
    )
    workers = Goal(
        key="streams.workers",
        measure="the same: processor time of the workers for each frame, against one alone",
        goal=f"at most {_LINEAR:g}: linear",
    )
    starving = Goal(
        key="streams.starving",
        measure="the same: frames of the stream that got fewest, against the one that got most",
        goal=f"at least {_STARVES:g}: none starves",
    )
    if not counts:
        yield from (thread, workers, starving)
        return
    per_frame_s = [count["workers_cpu_s"] / count["encoded"] for count in counts]
    for goal, costs in ((thread, [count["record_s"] for count in counts]), (workers, per_frame_s)):
        ratios = [cost / costs[0] for cost in costs]
        yield _measured(goal, ", ".join(f"{ratio:.2f}" for ratio in ratios), max(ratios) <= _LINEAR)
    shares = [count["least_of_most"] for count in counts]
    yield _measured(starving, ", ".join(f"{share:.2f}" for share in shares), min(shares) >= _STARVES)


def _gpu(gpu: Mapping[str, Any] | None) -> Iterator[Goal]:
    runs = gpu["runs"] if gpu else []
    for drawn, place in sorted({*_GPU_GROUPS, *((run["drawn"], _place(run)) for run in runs)}):
        own = [run for run in runs if (run["drawn"], _place(run)) == (drawn, place)]
        gentlest = min((run["render_duty"] for run in own), default=1.0)
        own = [run for run in own if run["render_duty"] == gentlest]
        what = f"one GPU, {_worlds(gpu)} Newton worlds, {drawn} drawn on the {place.upper()}"
        what += f" for {gentlest:g} of the time" if gentlest < 1.0 else ""
        for name, title in _GPU_TITLES.items():
            yield _gpu_ratio(f"gpu.{drawn}.{place}.{name}", f"{what}: {title}, recording against not", name, place, own)
        goal = Goal(key=f"gpu.{drawn}.{place}.lost", measure=f"{what}: frames lost", goal="0")
        frames = [run["with"]["frames"] for run in own]
        lost = max((one["requested"] - one["encoded"] for one in frames), default=0)
        yield _measured(goal, f"{lost} of {frames[0]['requested']}", lost == 0) if frames else goal


def _gpu_ratio(key: str, measure: str, name: str, place: str, runs: Sequence[Row]) -> Goal:
    is_rate = name == "steps_per_s"
    limit = _GPU_ONLY_STEPS if is_rate and place == "gpu" else _GPU_GOALS[name]
    goal = Goal(key=key, measure=measure, goal=f"at {'least' if is_rate else 'most'} {limit:.2f}")
    ratios = [run["ratio"][name] for run in runs]
    if not ratios:
        return goal
    middle = median(ratios)
    reached = middle >= limit if is_rate else middle <= limit
    return _measured(goal, _spread(middle, (min(ratios), max(ratios))), reached)


def _place(run: Row) -> str:
    return "gpu" if run["worker_device"].startswith("cuda") else "cpu"


def _worlds(gpu: Mapping[str, Any] | None) -> str:
    return f"{gpu['worlds']:,}" if gpu else "4,096"


def _measured(goal: Goal, measured: str, reached: bool) -> Goal:
    return replace(goal, measured=measured, reached=bool(reached))


def _spread(middle: float, spread: Sequence[float]) -> str:
    low, high = spread
    return f"{middle:.3f} ({low:.3f} to {high:.3f})"
