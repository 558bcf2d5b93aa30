"""Writes docs/benchmarks.md and its picture from measured results."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import median
from string import Template
from typing import Any

import matplotlib as mpl

mpl.use("agg")
import matplotlib.pyplot as plt

from .goals import Goal, all_goals
from .measures import summarize
from .plan import Plan
from .recorders import PEERS

_BENCHMARKS = Path(__file__).resolve().parents[1]
_IMAGE = "images/benchmark-step-times.png"
_COLUMNS = {
    "p50": "p50",
    "p99": "p99",
    "p999": "p99.9",
    "longest": "longest",
    "closing": "closing",
    "after_p99": "after, p99",
    "after_longest": "after, longest",
}
_OURS: dict[str, dict[str, Any]] = {
    "stepreel": {"color": "black", "linewidth": 1.4, "zorder": 4},
    "stepreel_snapshots": {"color": "crimson", "linewidth": 1.4, "zorder": 4},
    "stepreel_newton": {"color": "royalblue", "linewidth": 1.4, "zorder": 4},
    "stepreel_mujoco": {"color": "darkorange", "linewidth": 1.4, "zorder": 4},
}
_OTHERS: dict[str, Any] = {"linewidth": 0.8, "alpha": 0.8, "zorder": 2}
_BASELINES: dict[str, Any] = {"linewidth": 1.0, "linestyle": "--", "zorder": 3}
_BASELINE_COLORS = {"drawn": "0.5", "undrawn": "0.5", "newton": "tab:cyan", "mujoco": "tab:olive"}

Row = Mapping[str, Any]


def write_report(found: Mapping[str, Any], docs: Path) -> None:
    """Write `benchmarks.md` and its picture into the folder `docs`, from whatever was measured so far.

    What bounds a goal that was not reached is written by people, in `benchmarks/notes.json`; it is only read here.

    Args:
        found: The results, as `results.load` returns them.
        docs: The folder; made if it is not there.
    """
    comparison = found["comparison"] or {"runs": [], "step_times_us": {}, "keys": []}
    rows = summarize(comparison["runs"])
    (docs / _IMAGE).parent.mkdir(parents=True, exist_ok=True)
    cheap, gpu, ways = _read("baseline.json"), _read("newton_gpu.json"), _read("newton_gpu_ways.json")
    goals = all_goals(rows, found["rows"], cheap, gpu or None)
    text = Template((Path(__file__).parent / "benchmarks.template.md").read_text()).substitute(
        conditions=_conditions(found, cheap, gpu, ways),
        goals=_goal_table(goals),
        notes=_notes(goals, _read("notes.json")),
        image=_plot(comparison, rows, docs),
        step_table=_step_table(rows),
        picture_table=_picture_table(rows),
        encoder=_encoder(found["rows"].get("encoder")),
        memory=_memory(found["rows"].get("memory")),
        start=_start(found["rows"].get("start")),
        opening=_opening(found["rows"].get("opening")),
        streams=_streams(found["rows"].get("streams")),
        gpu=_gpu(gpu),
        gpu_ways=_gpu_ways(ways),
        drawing=_drawing(_read("drawing_rate.json")),
        left_out=_left_out(comparison["keys"]),
        tolerance=cheap.get("tolerance", ""),
        cheap_table=_cheap_table(cheap),
        **_numbers(comparison),
    )
    (docs / "benchmarks.md").write_text(text)


def plotted_span(plan: Plan) -> slice:
    """Return the steps that the picture shows: the end of a baseline, the first clip, its gap, and the rest after."""
    return slice(plan.clip_starts[0] - _lead(plan), plan.clip_starts[0] + plan.clip_steps + plan.gap_steps)


def _lead(plan: Plan) -> int:
    return plan.clip_steps // 5


def _numbers(comparison: Mapping[str, Any]) -> dict[str, str]:
    """Return what the text says of the loop, in the template's words."""
    if "plans" not in comparison:
        names = (
            "clips",
            "clip_steps",
            "snapshot_clip_steps",
            "gap_steps",
            "step_ms",
            "draw_ms",
            "snapshot_draw_factor",
        )
        return dict.fromkeys((*names, "size", "pool_mb", "preset", "crf"), "-")
    options, plan = comparison["options"], Plan.from_json(comparison["plans"]["pixels"])
    return {
        **{name: f"{options[name]:g}" for name in ("step_ms", "draw_ms", "snapshot_draw_factor")},
        **{name: str(options[name]) for name in ("clips", "clip_steps", "snapshot_clip_steps", "gap_steps")},
        "size": f"{plan.width}x{plan.height}",
        "pool_mb": f"{plan.queue_frames * plan.picture_nbytes / 1e6:.0f}",
        "preset": plan.preset,
        "crf": str(plan.crf),
    }


def _conditions(found: Mapping[str, Any], cheap: Row, gpu: Row, ways: Row) -> str:
    """Return a line for each measurement: when, where, and by which command."""
    lines = []
    if found["comparison"]:
        comparison = found["comparison"]
        repetitions = max((run["repetition"] + 1 for run in comparison["runs"]), default=0)
        lines.append(("step times and pictures", comparison, f", {_count(repetitions, 'repetition')}"))
    lines += [
        (f"`{name}`", row, f", {_count(row['repetitions'], 'repetition')}") for name, row in found["rows"].items()
    ]
    told = [
        f"- {what}: {one['date']}, {_machine(one['machine'])}; `{one['command']}`{more}" for what, one, more in lines
    ]
    if cheap:
        told.append(f"- the cheap rows: {cheap['date']}, {cheap['machine']}; `make bench`")
    if gpu:
        told.append(f"- on a GPU: {gpu['date']}, {gpu['machine']}; `{gpu['command']}`")
    if ways:
        told.append(f"- other ways to draw on a GPU: {ways['date']}, {ways['machine']}; `{ways['command']}`")
    return "\n".join(told)


def _machine(machine: Mapping[str, Any]) -> str:
    return (
        f"{machine['processor']}, {machine['cores']} cores, {machine['memory_nbytes'] / 2**30:.0f} GiB,"
        f" {machine['system']}, Python {machine['python']}"
    )


def _goal_table(goals: Iterable[Goal]) -> str:
    answers = {True: "yes", False: "**no**", None: ""}
    header = ("measure", "goal", "measured (least to most)", "no recorder, against itself")
    header += ("no recorder, the load beside it", "reached")
    lines = [
        (goal.measure, goal.goal, goal.measured, goal.without, goal.loaded, answers[goal.reached]) for goal in goals
    ]
    return _table(header, lines)


def _notes(goals: Sequence[Goal], notes: Mapping[str, str]) -> str:
    """Return what was tried for the goals not reached, and what bounds them."""
    unknown = set(notes) - {goal.key for goal in goals}
    if unknown:
        raise ValueError(f"benchmarks/notes.json speaks of goals that are not there: {', '.join(sorted(unknown))}")
    told = [goal for goal in goals if goal.reached is False and notes.get(goal.key)]
    lines = [f"- *{goal.measure}*: {notes[goal.key]}" for goal in told]
    return "\n".join(["What was tried for goals not reached, and what bounds them:", "", *lines]) if lines else ""


def _step_table(rows: Mapping[str, Row]) -> str:
    lines = []
    for row in rows.values():
        cells = [f"{_ms(row['times_s'][name])} ({row['ratios'][name]:.2f})" for name in _COLUMNS]
        lines.append((_title(row), *cells))
    return _table(("recorder", *_COLUMNS.values()), lines, right=len(_COLUMNS))


def _picture_table(rows: Mapping[str, Row]) -> str:
    lines = []
    for row in rows.values():
        if "frames" not in row:
            continue
        lost = f"{row['lost']:g}" + (f" (at most {row['lost_most']})" if row["lost_most"] != row["lost"] else "")
        lines.append(
            (
                _title(row),
                f"{lost} of {row['frames']}",
                str(row["lost_in_a_row"]),
                f"{row['repeated']:g}",
                _or_dash(row["memory_nbytes"], 1e-6, ".0f"),
                _or_dash(row["programs_nbytes"], 1e-6, ".0f"),
                _or_dash(row["frames_per_cpu_s"], 1, ".0f"),
                f"{_or_dash(row['psnr_mean_db'], 1, '.1f')} / {_or_dash(row['psnr_worst_db'], 1, '.1f')}",
                f"{row['nbytes'] / 1e6:.1f}",
                f"{row['finish_s']:.1f}",
            )
        )
    header = ("recorder", "lost", "in a row", "repeated", "memory [MB]", "programs [MB]", "frames a CPU-second")
    header += ("PSNR mean / worst [dB]", "files [MB]", "finishing [s]")
    return _table(header, lines, right=len(header) - 1)


def _encoder(found: Row | None) -> str:
    if found is None:
        return "Not measured."
    lines = []
    for who, title in (("stepreel", "**stepreel's worker**"), ("ffmpeg", f"ffmpeg {found['ffmpeg']}")):
        runs = [run[who] for run in found["runs"]]
        rates = sorted(run["frames_per_cpu_s"] for run in runs)
        lines.append(
            (
                title,
                f"{rates[len(rates) // 2]:.1f} ({rates[0]:.1f} to {rates[-1]:.1f})",
                f"{runs[0]['psnr_mean_db']:.2f} / {runs[0]['psnr_worst_db']:.2f}",
                f"{runs[0]['nbytes'] / runs[0]['frames'] / 1e3:.1f}",
            )
        )
    header = ("who encodes", "frames a CPU-second", "PSNR mean / worst [dB]", "kB a frame")
    curve = [
        (
            f"`{one['preset']}`",
            f"{one['gop_s']:g}",
            str(one["crf"]),
            f"{one['psnr_mean_db']:.2f} / {one['psnr_worst_db']:.2f}",
            f"{one['nbytes'] / one['frames'] / 1e3:.1f}",
        )
        for one in (*found["curve"], *found["slower"])
    ]
    low, high = found["ratio_spread"]
    ratio = f"Frames a CPU-second, ratio: {found['ratio']:.3f} ({low:.3f} to {high:.3f})."
    what = f"{found['frames']} frames of {found['size'][0]}x{found['size'][1]}, CRF {found['crf']}."
    return "\n\n".join(
        (
            f"{what} {ratio}",
            _table(header, lines, right=3),
            "stepreel at other qualities. The goals about PSNR are read from those with the first preset and keyframes "
            "each second; the others show what a slower preset and rarer keyframes give:",
            _table(("preset", "`gop_s` [s]", "CRF", "PSNR mean / worst [dB]", "kB a frame"), curve, right=4),
        )
    )


def _memory(found: Row | None) -> str:
    if found is None:
        return "Not measured."
    lines = []
    for clip in found["clips"]:
        own, nobody = clip["runs"][0]["stepreel"], clip["runs"][0]["nobody"]
        numbers = (nobody["peak_nbytes"], own["peak_nbytes"], own["end_nbytes"], own["pool_nbytes"])
        lines.append(
            (
                f"{clip['frames']:,}",
                *(f"{number / 1e6:.1f}" for number in numbers),
                f"{clip['beyond_pool_nbytes'] / 1e6:.1f}",
                f"{own['encoded']:,} of {own['requested']:,}",
            )
        )
    header = ("frames", "peak without", "peak", "at the end", "of it the frame pool", "beyond the pool", "encoded")
    return _table(header, lines, right=len(header))


def _start(found: Row | None) -> str:
    if found is None:
        return "Not measured."
    lines = [
        ("process start to the first capture", f"{found['with_s'] * 1e3:.0f}"),
        ("the same without stepreel, a picture drawn instead", f"{found['without_s'] * 1e3:.0f}"),
        ("difference", f"{found['added_s'] * 1e3:.0f}"),
        ("of it `from stepreel import ...`", f"{found['import_s'] * 1e3:.0f}"),
        ("of it `Recorder(...)`", f"{found['construct_s'] * 1e3:.1f}"),
        ("of it `__enter__`", f"{found['enter_s'] * 1e3:.0f}"),
        ("the first `recorder.step()`, which captures", f"{found['first_step_s'] * 1e3:.2f}"),
        ("a later one, median", f"{found['later_step_s'] * 1e3:.2f}"),
        ("the longest", f"{found['longest_step_s'] * 1e3:.2f}"),
    ]
    return _table(("what", "time [ms]"), lines, right=1)


def _opening(found: Row | None) -> str:
    if found is None:
        return "Not measured."
    width, height = found["size"]
    text = (
        f"{_count(found['clips'], 'clip')} of {width}x{height} in a run, through `stepreel.wrappers.RecordVideo`: "
        "`start_recording` and the first captured step together, beyond the median of later captured steps, which is "
        f"{found['captured_s'] * 1e3:.2f} ms. Beside it what those later steps vary by. Medians of the runs."
    )
    lines = [
        (what, *(f"{found[key][name] * 1e3:.2f}" for name in ("p50_s", "p90_s", "longest_s")))
        for what, key in (("opening a clip", "opening"), ("an ordinary captured step", "ordinary"))
    ]
    return f"{text}\n\n{_table(('beyond an ordinary capture', 'p50 [ms]', 'p90 [ms]', 'longest [ms]'), lines, right=3)}"


def _streams(found: Row | None) -> str:
    if found is None:
        return "Not measured."
    lines = [
        (
            str(count["streams"]),
            f"{count['record_s'] * 1e6:.0f}",
            f"{count['record_p99_s'] * 1e6:.0f}",
            f"{count['workers_cpu_s'] * 1e3 / count['encoded']:.2f}",
            f"{count['encoded_least']} to {count['encoded_most']} of {found['frames']}",
            f"{count['least_of_most']:.2f}",
        )
        for count in found["counts"]
    ]
    header = ("streams", "a capture [µs]", "its p99 [µs]", "worker's processor time a frame [ms]")
    return _table((*header, "frames of a stream", "fewest over most in a run"), lines, right=6)


def _gpu(gpu: Row) -> str:
    if not gpu:
        return "Not measured. `python benchmarks/newton_gpu.py --json benchmarks/newton_gpu.json` does it."
    lines = []
    for run in gpu["runs"]:
        ratio, own = run["ratio"], run["with"]
        lines.append(
            (
                str(run["drawn"]),
                run["worker_device"],
                f"{run['render_duty']:g}",
                *(f"{ratio[name]:.3f}" for name in ("steps_per_s", "p50_ms", "p99_ms", "longest_ms")),
                f"{run['without']['p50_ms']:.2f}",
                f"{own['frames']['encoded']} of {own['frames']['requested']}",
                f"{own['render_p50_ms']:.0f}",
                f"{own['finished_after_s']:.1f}",
            )
        )
    header = (
        "worlds drawn",
        "`worker_device`",
        "`render_duty`",
        "steps a second",
        "p50",
        "p99",
        "longest",
        "step without [ms]",
    )
    return _table((*header, "frames", "drawing one [ms]", "finished after [s]"), lines, right=9)


def _gpu_ways(ways: Row) -> str:
    """Return a line for each way to draw on a GPU, with the medians of its repetitions."""
    if not ways:
        return "Not measured."
    names = ("drawn", "worker_device", "renderer", "priority", "render_duty", "hint")
    groups: dict[tuple[str, ...], list[Row]] = {}
    for run in ways["runs"]:
        groups.setdefault(tuple(str(run[name]) for name in names), []).append(run)
    lines = [
        (
            *group,
            *(f"{median(run['ratio'][name] for run in runs):.3f}" for name in ("steps_per_s", "p99_ms", "longest_ms")),
            f"{median(run['with']['encoded_meanwhile'] for run in runs):g}",
            f"{median(run['with']['finished_after_s'] for run in runs):.1f}",
        )
        for group, runs in groups.items()
    ]
    header = ("worlds drawn", "`worker_device`", "renderer", "priority", "`render_duty`", "training's pauses")
    more = ("steps a second", "p99", "longest", "frames drawn meanwhile", "finished after [s]")
    return _table((*header, *more), lines, right=5)


def _drawing(rates: Row) -> str:
    if not rates:
        return "Not measured. `python benchmarks/drawing_rate.py --json benchmarks/drawing_rate.json` does it."
    told = f"{rates['date']}, {rates['machine']}; `{rates['command']}`."
    lines = [
        (str(run["drawn"]), str(run["processes"]), str(run["threads"]), f"{run['frames_per_s']:.1f}")
        for run in rates["runs"]
    ]
    return f"{told}\n\n{_table(('worlds drawn', 'processes', 'threads of each', 'frames a second'), lines, right=4)}"


def _read(name: str) -> dict[str, Any]:
    path = _BENCHMARKS / name
    found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return found


def _cheap_table(cheap: Mapping[str, Any]) -> str:
    lines = [
        (
            row["title"],
            row["plain"],
            *(_duration(row[name]) if name in row else "" for name in ("subject_s", "plain_s")),
            f"{row['ratio']:.2g}" if row["ratio"] < 0.1 else f"{row['ratio']:.2f}",
        )
        for row in cheap.get("rows", {}).values()
    ]
    return _table(("measure", "against", "time", "plain", "ratio"), lines, right=3)


def _plot(comparison: Mapping[str, Any], rows: Mapping[str, Row], docs: Path) -> str:
    """Draw the first clip of the first repetition, pixels and snapshots side by side; return the picture's path."""
    times = comparison["step_times_us"]
    panels = {
        kind: [key for key in PEERS if key in times and key in rows and PEERS[key].draws == (kind == "pixels")]
        for kind in ("pixels", "snapshots")
    }
    shown = {kind: keys for kind, keys in panels.items() if keys}
    if not shown:
        return _IMAGE
    figure, places = plt.subplots(len(shown), 1, figsize=(12, 5 * len(shown)), layout="constrained", squeeze=False)
    for axes, (kind, keys) in zip(places[:, 0], shown.items(), strict=True):
        _plot_panel(axes, times, keys, rows, Plan.from_json(comparison["plans"][kind]))
    figure.savefig(docs / _IMAGE, dpi=110)
    plt.close(figure)
    return _IMAGE


def _plot_panel(
    axes: Any, times: Mapping[str, Sequence[int]], keys: Sequence[str], rows: Mapping[str, Row], plan: Plan
) -> None:
    lead = _lead(plan)
    for number, key in enumerate(keys):
        times_ms = [step_us / 1e3 for step_us in times[key]]
        style = {"color": plt.get_cmap("tab10")(number % 10), **_OTHERS}
        if not PEERS[key].records:
            alone, beside_load, _ = key.partition("_loaded")
            style = {"color": _BASELINE_COLORS[alone], **_BASELINES, **({"linestyle": ":"} if beside_load else {})}
        style = {**style, **_OURS.get(key, {})}
        axes.plot(range(-lead, len(times_ms) - lead), times_ms, label=rows[key]["title"], **style)
    axes.axvspan(0, plan.clip_steps, color="0.94", zorder=0)
    axes.set(
        yscale="log",
        xlabel="step of the clip (grey); before it the recorder's own baseline, after it nothing is drawn",
        ylabel="time of the step [ms]",
        xlim=(-lead, plan.clip_steps + plan.gap_steps),
    )
    axes.grid(axis="y", color="0.88")
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize="small", frameon=False)


def _table(header: Sequence[str], rows: Iterable[Sequence[str]], *, right: int = 0) -> str:
    rule = ["---"] * (len(header) - right) + ["---:"] * right
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (header, rule, *rows))


def _left_out(keys: Sequence[str]) -> str:
    titles = [peer.title for key, peer in PEERS.items() if peer.records and key not in keys]
    return f" Left out of this run: {', '.join(titles)}." if titles and keys else ""


def _title(row: Row) -> str:
    return f"**{row['title']}**" if row["title"].startswith("stepreel") else str(row["title"])


def _ms(duration_s: float) -> str:
    return f"{1e3 * duration_s:.2f}" if duration_s < 0.1 else f"{1e3 * duration_s:,.0f}"


def _duration(duration_s: float) -> str:
    for factor, unit in ((1e9, "ns"), (1e6, "µs"), (1e3, "ms")):
        if duration_s * factor < 1000:
            return f"{duration_s * factor:.3g} {unit}"
    return f"{duration_s:.3g} s"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")


def _or_dash(value: float | None, factor: float, form: str) -> str:
    return "-" if value is None else format(value * factor, form)
