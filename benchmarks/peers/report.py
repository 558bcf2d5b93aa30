"""Writes docs/benchmarks.md and its picture from measured results."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from string import Template
from typing import Any

import matplotlib as mpl

mpl.use("agg")
import matplotlib.pyplot as plt

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
    "after_p99": "between clips, p99",
}
_GOALS = {
    "stepreel": {"p50": 1.05, "p99": 1.05, "p999": 1.10, "longest": 1.5},
    "stepreel_snapshots": {"p50": 1.02, "p99": 1.05, "p999": 1.10, "longest": 1.5},
}
_MEMORY_GOAL_NBYTES = 30_000_000
_PLOTTED_CLIPS = 2
_OURS: dict[str, dict[str, Any]] = {
    "stepreel": {"color": "black", "linewidth": 1.6, "zorder": 4},
    "stepreel_snapshots": {"color": "crimson", "linewidth": 1.6, "zorder": 4},
}
_OTHERS: dict[str, Any] = {"linewidth": 0.8, "alpha": 0.8, "zorder": 2}
_BASELINES: dict[str, Any] = {"color": "0.5", "linewidth": 1.0, "linestyle": "--", "zorder": 3}

Row = Mapping[str, Any]


def write_report(found: Mapping[str, Any], docs: Path) -> None:
    """Write `benchmarks.md` and its picture into the folder `docs`.

    Args:
        found: The results, as `measure` writes them.
        docs: The folder; made if it is not there.
    """
    plan = Plan(**{name: value for name, value in found["plan"].items() if name in Plan.__dataclass_fields__})
    rows = summarize(plan, found["runs"])
    (docs / _IMAGE).parent.mkdir(parents=True, exist_ok=True)
    _plot(found["step_times_us"], rows, plan, docs / _IMAGE)
    template = Template((Path(__file__).parent / "benchmarks.template.md").read_text())
    cheap = _read_cheap_rows()
    text = template.substitute(
        conditions=_conditions(found, plan),
        goals=_goal_table(rows, plan),
        image=_IMAGE,
        step_table=_step_table(rows),
        step_notes=_step_notes(rows),
        picture_table=_picture_table(rows),
        pool_mb=round(plan.queue_frames * plan.picture_nbytes / 1e6),
        step_ms=f"{found['plan']['step_ms']:g}",
        draw_ms=f"{found['plan']['draw_ms']:g}",
        size=f"{plan.width}x{plan.height}",
        snapshot_draw_factor=f"{found['plan']['snapshot_draw_factor']:g}",
        preset=plan.preset,
        crf=plan.crf,
        left_out=_left_out(found["left_out"]),
        command=found["command"],
        tolerance=cheap.get("tolerance", ""),
        cheap_table=_cheap_table(cheap),
    )
    (docs / "benchmarks.md").write_text(text)


def _conditions(found: Mapping[str, Any], plan: Plan) -> str:
    machine = found["machine"]
    repetitions = 1 + max(run["repetition"] for run in found["runs"])
    return (
        f"Measured on {found['date']}: {machine['processor']}, {machine['cores']} cores,"
        f" {machine['memory_nbytes'] / 2**30:.0f} GiB, {machine['system']}, Python {machine['python']};"
        f" `{found['command']}`: {_count(repetitions, 'repetition')}, each of {_count(plan.clip_count, 'clip')} of"
        f" {plan.clip_steps} steps, {plan.interval_steps - plan.clip_steps} steps apart."
    )


def _goal_table(rows: Mapping[str, Row], plan: Plan) -> str:
    lines = []
    for key, goals in _GOALS.items():
        if key not in rows or not rows[key]["ratios"]:
            continue
        row = rows[key]
        for name, goal in goals.items():
            low, high = row["ratio_spread"][name]
            measured = f"{row['ratios'][name]:.2f} ({low:.2f} to {high:.2f})"
            title = f"{row['title']}: step time while a clip is open, {_COLUMNS[name]}"
            lines.append((title, f"at most {goal:.2f}", measured, row["ratios"][name] <= goal))
        lines.append((f"{row['title']}: frames lost", "0", f"{row['lost']:g} of {row['frames']}", row["lost"] == 0))
    lines += _other_goals(rows, plan)
    table = [(title, goal, measured, "yes" if reached else "**no**") for title, goal, measured, reached in lines]
    return _table(("measure", "goal", "measured (least to most)", "reached"), table)


def _other_goals(rows: Mapping[str, Row], plan: Plan) -> list[tuple[str, str, str, bool]]:
    if "stepreel" not in rows:
        return []
    own = rows["stepreel"]
    goals = []
    if own.get("memory_nbytes") is not None:
        extra = own["memory_nbytes"] - plan.queue_frames * plan.picture_nbytes
        goals.append(
            ("memory beyond the frame pool", "at most 30 MB", f"{extra / 1e6:.0f} MB", extra <= _MEMORY_GOAL_NBYTES)
        )
    if "ffmpeg" in rows and own["frames_per_cpu_s"] and rows["ffmpeg"]["frames_per_cpu_s"]:
        ratio = own["frames_per_cpu_s"] / rows["ffmpeg"]["frames_per_cpu_s"]
        title = "encoded frames for each CPU-second, against the ffmpeg program"
        goals.append((title, "at least 1.00", f"{ratio:.2f}", ratio >= 1.0))
    return goals


def _step_table(rows: Mapping[str, Row]) -> str:
    lines = []
    for row in rows.values():
        cells = [f"{_ms(row['times_s'][name])}{_ratio(row, name)}" for name in _COLUMNS]
        lines.append((_title(row), *cells))
    return _table(("recorder", *_COLUMNS.values()), lines, right=len(_COLUMNS))


def _ratio(row: Row, name: str) -> str:
    return f" ({row['ratios'][name]:.2f})" if row["baseline"] and row["ratios"] else ""


def _step_notes(rows: Mapping[str, Row]) -> str:
    groups: dict[str, list[str]] = {}
    for row in rows.values():
        if row["baseline"] and row["baseline"] in rows:
            groups.setdefault(rows[row["baseline"]]["title"], []).append(row["title"])
    return "\n".join(
        f"Held against *{baseline}*: {', '.join(titles)}.\n" for baseline, titles in groups.items()
    ).strip()


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
                f"{row['repeated']:g}",
                _or_dash(row.get("memory_nbytes"), 1e-6, ".0f"),
                _or_dash(row["frames_per_cpu_s"], 1, ".0f"),
                f"{_or_dash(row['psnr_mean_db'], 1, '.1f')} / {_or_dash(row['psnr_worst_db'], 1, '.1f')}",
                f"{row['nbytes'] / 1e6:.1f}",
                f"{row['finish_s']:.1f}",
            )
        )
    header = (
        "recorder",
        "lost",
        "repeated",
        "memory [MB]",
        "frames a CPU-second",
        "PSNR mean / worst [dB]",
        "files [MB]",
    )
    return _table((*header, "finishing [s]"), lines, right=len(header))


def _read_cheap_rows() -> dict[str, Any]:
    path = _BENCHMARKS / "baseline.json"
    found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return found


def _cheap_table(cheap: Mapping[str, Any]) -> str:
    lines = [
        (row["title"], row["plain"], _duration(row["subject_s"]), _duration(row["plain_s"]), f"{row['ratio']:.2f}")
        for row in cheap.get("rows", {}).values()
    ]
    return _table(("measure", "against", "time", "plain", "ratio"), lines, right=3)


def _plot(step_times_us: Mapping[str, Sequence[int]], rows: Mapping[str, Row], plan: Plan, path: Path) -> None:
    """Draw the first clips of the first repetition."""
    first = max(0, plan.warmup_steps - plan.clip_steps // 5)
    end = plan.warmup_steps + min(_PLOTTED_CLIPS, plan.clip_count) * plan.interval_steps
    figure, axes = plt.subplots(figsize=(12, 6), layout="constrained")
    for number, key in enumerate(key for key in PEERS if key in step_times_us and key != "drawn_lerobot"):
        times_ms = [step_us / 1e3 for step_us in step_times_us[key][first:end]]
        style = _OURS.get(key) or (_OTHERS if PEERS[key].records else _BASELINES)
        color = style.get("color") or plt.get_cmap("tab10")(number % 10)
        axes.plot(range(first, first + len(times_ms)), times_ms, label=rows[key]["title"], **{**style, "color": color})
    for start in plan.clip_starts[:_PLOTTED_CLIPS]:
        axes.axvspan(start, start + plan.clip_steps, color="0.94", zorder=0)
    axes.set(yscale="log", xlabel="step (grey: a clip is open)", ylabel="time of the step [ms]", xlim=(first, end))
    axes.grid(axis="y", color="0.88")
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize="small", frameon=False)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _table(header: Sequence[str], rows: Iterable[Sequence[str]], *, right: int = 0) -> str:
    rule = ["---"] * (len(header) - right) + ["---:"] * right
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (header, rule, *rows))


def _left_out(titles: Mapping[str, str]) -> str:
    named = [title for key, title in titles.items() if PEERS[key].records]
    return f" Left out of this run: {', '.join(named)}." if named else ""


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
