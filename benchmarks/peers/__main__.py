"""`python -m peers`: compare recorders, and write what came out."""

from __future__ import annotations

import json
import os
import platform
import random
import shutil
import subprocess
import sys
import tempfile
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import psutil

from .measures import step_times
from .pictures import examine
from .plan import Plan
from .recorders import PEERS
from .report import write_report
from .workload import units_of

_CHECKOUT = Path(__file__).resolve().parents[2]
_RESULTS = _CHECKOUT / "benchmarks" / "peers.json"
_TIME_LIMIT_S = 3600
_COMPARE_EVERY = 10


@click.group(invoke_without_command=True)
@click.pass_context
def main(context: click.Context) -> None:
    """Compare stepreel with other recorders: `measure` (the default), or write the `report` again."""
    if context.invoked_subcommand is None:
        context.invoke(measure)


@main.command()
@click.option("--repetitions", default=5, show_default=True, help="Runs of each recorder, each time in another order.")
@click.option("--clips", default=4, show_default=True, help="Clips of one run.")
@click.option("--clip-steps", default=250, show_default=True, help="Steps of a clip; each is captured.")
@click.option("--gap-steps", default=250, show_default=True, help="Steps from one clip to the next.")
@click.option("--warmup-steps", default=200, show_default=True, help="Steps before the first clip.")
@click.option(
    "--size", type=(int, int), default=(1280, 720), show_default=True, help="Width and height of the pictures."
)
@click.option("--step-ms", default=5.0, show_default=True, help="Work of a step of the simulator.")
@click.option("--draw-ms", default=2.0, show_default=True, help="Work of drawing a picture, besides copying it.")
@click.option("--snapshot-draw-factor", default=50.0, show_default=True, help="Work of drawing a snapshot, in steps.")
@click.option(
    "--only",
    default=",".join(key for key, peer in PEERS.items() if peer.records),
    help="Recorders, with commas between.",
)
@click.option("--seed", default=0, show_default=True, help="Of the order.")
@click.option("--results", default=_RESULTS, type=click.Path(path_type=Path), help="JSON file to write.")
@click.option("--report/--no-report", default=True, show_default=True, help="Write docs/benchmarks.md afterwards.")
def measure(
    *,
    repetitions: int,
    clips: int,
    clip_steps: int,
    gap_steps: int,
    warmup_steps: int,
    size: tuple[int, int],
    step_ms: float,
    draw_ms: float,
    snapshot_draw_factor: float,
    only: str,
    seed: int,
    results: Path,
    report: bool,
) -> None:
    """Run every recorder several times, in random order, and write the results."""
    keys = _available(only.split(","))
    plan = Plan(
        width=size[0],
        height=size[1],
        clip_count=clips,
        clip_steps=clip_steps,
        interval_steps=clip_steps + gap_steps,
        warmup_steps=warmup_steps,
        step_units=units_of(step_ms / 1e3),
        draw_units=units_of(draw_ms / 1e3),
        snapshot_draw_units=units_of(step_ms * snapshot_draw_factor / 1e3),
    )
    runs, example = _run_all(plan, keys, repetitions, random.Random(seed))
    found = {
        "schema": 1,
        "date": datetime.now(UTC).date().isoformat(),
        "command": " ".join(["make bench-peers", *_arguments()]),
        "machine": _machine(),
        "plan": {**asdict(plan), "step_ms": step_ms, "draw_ms": draw_ms, "snapshot_draw_factor": snapshot_draw_factor},
        "left_out": {key: PEERS[key].title for key in PEERS if key not in keys},
        "runs": runs,
        "step_times_us": example,
    }
    results.write_text(json.dumps(found, separators=(",", ":")) + "\n")
    click.echo(f"Wrote {results}")
    if report:
        write_report(found, _CHECKOUT / "docs")


@main.command("report")
@click.option("--results", default=_RESULTS, type=click.Path(path_type=Path), help="JSON file to read.")
def report_again(results: Path) -> None:
    """Write docs/benchmarks.md and its picture from the results that are there."""
    write_report(json.loads(results.read_text()), _CHECKOUT / "docs")


def _run_all(
    plan: Plan, keys: list[str], repetitions: int, rng: random.Random
) -> tuple[list[dict[str, Any]], dict[str, list[int]]]:
    """Return all runs, and of the first of each recorder the time of every step [microseconds]."""
    runs = []
    example: dict[str, list[int]] = {}
    for repetition in range(repetitions):
        for key in rng.sample(keys, len(keys)):
            run = _run_one(plan, key, compare=repetition == 0)
            steps_s = run.pop("steps_s")
            example.setdefault(key, [round(1e6 * step_s) for step_s in steps_s])
            run |= {"repetition": repetition, "step_times": asdict(step_times(steps_s, plan))}
            click.echo(f"{repetition + 1}/{repetitions} {_describe(run)}")
            runs.append(run)
    return runs, example


def _run_one(plan: Plan, key: str, *, compare: bool) -> dict[str, Any]:
    folder = Path(tempfile.mkdtemp(prefix="stepreel-bench-"))
    try:
        plan.save(folder / "plan.json")
        videos = folder / "videos"
        videos.mkdir()
        command = [str(_python(key)), "-m", "peers.one_run", str(folder / "plan.json"), key]
        ended = subprocess.run(
            [*command, str(videos), str(folder / "result.json")],
            cwd=_CHECKOUT / "benchmarks",
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=_TIME_LIMIT_S,
            check=False,
        )
        if ended.returncode:
            raise click.ClickException(f"{key} failed:\n{ended.stdout.decode(errors='replace')}")
        run: dict[str, Any] = json.loads((folder / "result.json").read_text())
        if PEERS[key].records:
            run["pictures"] = asdict(examine(videos, plan, compare_every=_COMPARE_EVERY if compare else None))
        return run
    finally:
        shutil.rmtree(folder)


def _available(keys: list[str]) -> list[str]:
    """Return the keys of the recorders that can be run here."""
    unknown = [key for key in keys if key not in PEERS]
    if unknown:
        raise click.BadParameter(f"{', '.join(unknown)}; known: {', '.join(PEERS)}", param_hint="--only")
    found = [key for key in keys if PEERS[key].records and _python(key).exists() and _can_import(key)]
    for key in keys:
        if PEERS[key].records and key not in found:
            click.echo(f"Left out, because it is not installed: {PEERS[key].title}")
    baselines = {PEERS[key].baseline for key in found}
    return [key for key in PEERS if key in found or key in baselines]


def _can_import(key: str) -> bool:
    imports = "; ".join(f"import {module}" for module in ("psutil", "gymnasium", *PEERS[key].modules))
    command = [str(_python(key)), "-c", imports]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def _python(key: str) -> Path:
    """Return the interpreter of a recorder's environment: this one's, or that of its neighbour."""
    environment = PEERS[key].environment
    if environment == "peers":
        return Path(sys.executable)
    return Path(sys.prefix).parent / environment / "bin" / "python"


def _describe(run: dict[str, Any]) -> str:
    times = run["step_times"]
    text = f"{run['peer']:20} p50 {1e3 * times['p50']:6.2f}  p99 {1e3 * times['p99']:6.2f}"
    text += f"  longest {1e3 * times['longest']:8.2f}  closing {1e3 * times['closing']:8.2f} ms"
    return text + (f"  lost {run['pictures']['lost']}" if "pictures" in run else "")


def _arguments() -> list[str]:
    arguments = [argument for argument in sys.argv[1:] if argument != "measure"]
    return [f'ARGS="{" ".join(arguments)}"'] if arguments else []


def _machine() -> dict[str, Any]:
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_nbytes": psutil.virtual_memory().total,
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
    }


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


main()
