"""`python -m peers`: compare recorders, and write what came out."""

from __future__ import annotations

import random
import shlex
import shutil
import subprocess
import sys
import tempfile
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from . import results
from .measures import step_times
from .pictures import examine, read_manifests
from .plan import Plan
from .processes import machine, run_program
from .recorders import PEERS
from .report import plotted_span, write_report
from .row_settings import RowSettings
from .rows import ROWS
from .workload import units_of

_CHECKOUT = Path(__file__).resolve().parents[2]
_RESULTS = _CHECKOUT / "benchmarks" / "peers.json"
_SIZE = (1280, 720)
_COMPARE_EVERY = 10
_DECODED_PER_S = 150
_STARTING_S = 5

results_option = click.option(
    "--results", "path", default=_RESULTS, type=click.Path(path_type=Path), help="JSON file to write."
)
report_option = click.option(
    "--docs",
    default=_CHECKOUT / "docs",
    type=click.Path(path_type=Path),
    help="Folder of benchmarks.md and its picture, which are written afterwards.",
)


@click.group(invoke_without_command=True)
@click.pass_context
def main(context: click.Context) -> None:
    """Compare stepreel with other recorders: `measure` (the default), some `rows`, or write the `report` again."""
    if context.invoked_subcommand is None:
        context.invoke(measure)


@main.command()
@click.option("--repetitions", default=5, show_default=True, help="Runs of each recorder, each time in another order.")
@click.option("--clips", default=3, show_default=True, help="Clips of one run.")
@click.option("--clip-steps", default=200, show_default=True, help="Steps of a clip; each is captured.")
@click.option("--snapshot-clip-steps", default=60, show_default=True, help="The same, where snapshots are captured.")
@click.option("--gap-steps", default=100, show_default=True, help="Steps without drawing, on either side of a clip.")
@click.option("--warmup-steps", default=100, show_default=True, help="Steps before anything is measured.")
@click.option("--size", type=(int, int), default=_SIZE, show_default=True, help="Width and height of the pictures.")
@click.option("--step-ms", default=5.0, show_default=True, help="Work of a step of the simulator.")
@click.option("--draw-ms", default=2.0, show_default=True, help="Work of drawing a picture, besides copying it.")
@click.option("--snapshot-draw-factor", default=50.0, show_default=True, help="Work of drawing a snapshot, in steps.")
@click.option(
    "--only",
    default=",".join(key for key, peer in PEERS.items() if peer.records),
    help="Recorders, with commas between.",
)
@click.option("--rows", default=",".join(ROWS), show_default=True, help="Rows besides step times, with commas between.")
@click.option("--scale", default=1.0, show_default=True, help="Length of those rows; less than 1 is for trying.")
@click.option("--seed", default=0, show_default=True, help="Of the order.")
@click.option("--resume", is_flag=True, help="Go on with a measurement that was interrupted, with its own settings.")
@results_option
@report_option
def measure(*, path: Path, docs: Path, resume: bool, **options: Any) -> None:
    """Run every recorder several times, in random order, then the other rows; write results after each."""
    found = results.load(path)
    if not resume or not found["comparison"]:
        found["comparison"] = _begin(**options)
        wanted = set(_names(options["rows"], ROWS, "--rows"))
        found["rows"] = {name: row for name, row in found["rows"].items() if name not in wanted}
    comparison = found["comparison"]
    click.echo(f"This takes about {_estimate_min(comparison):.0f} minutes.")
    _run_missing(found, path)
    options = comparison["options"]
    names = [name for name in _names(options["rows"], ROWS, "--rows") if name not in found["rows"]]
    width, height = options["size"]
    settings = RowSettings(repetitions=options["repetitions"], scale=options["scale"], width=width, height=height)
    _measure_rows(names, settings, found, path)
    write_report(found, docs)
    click.echo(f"Wrote {path} and {docs / 'benchmarks.md'}")


@main.command("rows")
@click.argument("names", nargs=-1, type=click.Choice(list(ROWS)))
@click.option("--repetitions", default=5, show_default=True)
@click.option("--scale", default=1.0, show_default=True, help="Length; less than 1 is for trying.")
@results_option
@report_option
def rows_command(names: tuple[str, ...], *, repetitions: int, scale: float, path: Path, docs: Path) -> None:
    """Measure rows besides step times again: those named, or all."""
    found = results.load(path)
    size = found["comparison"]["options"]["size"] if found["comparison"] else _SIZE
    settings = RowSettings(repetitions=repetitions, scale=scale, width=size[0], height=size[1])
    _measure_rows(names or tuple(ROWS), settings, found, path)
    write_report(found, docs)


@main.command("report")
@results_option
@report_option
def report_again(*, path: Path, docs: Path) -> None:
    """Write docs/benchmarks.md and its picture from the results that are there."""
    write_report(results.load(path), docs)


def _begin(**options: Any) -> dict[str, Any]:
    """Return a comparison without any run yet."""
    keys = _available(_names(options["only"], PEERS, "--only"))
    step_s = options["step_ms"] / 1e3
    plan = Plan(
        width=options["size"][0],
        height=options["size"][1],
        clip_count=options["clips"],
        clip_steps=options["clip_steps"],
        gap_steps=options["gap_steps"],
        warmup_steps=options["warmup_steps"],
        step_units=units_of(step_s),
        draw_units=units_of(options["draw_ms"] / 1e3),
        snapshot_draw_units=units_of(step_s * options["snapshot_draw_factor"]),
    )
    return {
        **_circumstances(),
        "options": options,
        "keys": keys,
        "plans": {
            "pixels": asdict(plan),
            "snapshots": asdict(replace(plan, clip_steps=options["snapshot_clip_steps"])),
        },
        "runs": [],
        "step_times_us": {},
    }


def _run_missing(found: dict[str, Any], path: Path) -> None:
    """Run what the comparison lacks; of the first run of each recorder the times of the plotted steps are kept."""
    comparison = found["comparison"]
    options, keys, runs = comparison["options"], comparison["keys"], comparison["runs"]
    rng = random.Random(options["seed"])
    done = {(run["repetition"], run["peer"]) for run in runs}
    for repetition in range(options["repetitions"]):
        for key in rng.sample(keys, len(keys)):
            if (repetition, key) in done:
                continue
            plan = _plan(comparison, key)
            run = _run_one(plan, key, compare=repetition == 0)
            steps_s = run.pop("steps_s")
            shown = [round(1e6 * step_s) for step_s in steps_s[plotted_span(plan)]]
            comparison["step_times_us"].setdefault(key, shown)
            held = {name: asdict(one) for name, one in step_times(steps_s, plan).items()}
            runs.append(run | {"repetition": repetition, "step_times": held})
            click.echo(f"{repetition + 1}/{options['repetitions']} {_describe(runs[-1])}")
            results.save(found, path)


def _run_one(plan: Plan, key: str, *, compare: bool) -> dict[str, Any]:
    peer = PEERS[key]
    folder = Path(tempfile.mkdtemp(prefix="stepreel-bench-"))
    try:
        plan.save(folder / "plan.json")
        videos = folder / "videos"
        videos.mkdir()
        run: dict[str, Any] = run_program("one_run", folder / "plan.json", key, videos, python=_python(key))
        if peer.records:
            pictures = (
                examine(videos, plan, compare_every=_COMPARE_EVERY if compare else None)
                if peer.shows_steps
                else read_manifests(videos)
            )
            run |= {"frames": plan.clip_count * plan.clip_steps, "pictures": asdict(pictures)}
        return run
    finally:
        shutil.rmtree(folder)


def _measure_rows(names: list[str] | tuple[str, ...], settings: RowSettings, found: dict[str, Any], path: Path) -> None:
    for name in names:
        click.echo(f"Measuring: {ROWS[name].title}")
        found["rows"][name] = {
            **_circumstances(),
            "repetitions": settings.repetitions,
            "scale": settings.scale,
            **ROWS[name].measure(settings),
        }
        results.save(found, path)


def _plan(comparison: dict[str, Any], key: str) -> Plan:
    return Plan.from_json(comparison["plans"]["pixels" if PEERS[key].draws else "snapshots"])


def _estimate_min(comparison: dict[str, Any]) -> float:
    """Return what is thought to be left of a comparison [min]."""
    options = comparison["options"]
    runs_s = sum(_estimate_run_s(_plan(comparison, key), key, options) for key in comparison["keys"])
    left = 1 - len(comparison["runs"]) / (options["repetitions"] * len(comparison["keys"]))
    rows_min = sum(ROWS[name].minutes for name in _names(options["rows"], ROWS, "--rows")) * options["scale"]
    return options["repetitions"] * runs_s * left / 60 + rows_min


def _estimate_run_s(plan: Plan, key: str, options: dict[str, Any]) -> float:
    peer = PEERS[key]
    drawn_ms = options["draw_ms"] if peer.draws else 0.0
    frames = plan.clip_count * plan.clip_steps
    loop_s = (plan.step_count * options["step_ms"] + 2 * frames * drawn_ms) / 1e3
    return _STARTING_S + loop_s + (frames / peer.encodes_per_s + frames / _DECODED_PER_S if peer.records else 0.0)


def _names(listed: str, known: Any, option: str) -> list[str]:
    names = [name for name in listed.split(",") if name]
    unknown = [name for name in names if name not in known]
    if unknown:
        raise click.BadParameter(f"{', '.join(unknown)}; known: {', '.join(known)}", param_hint=option)
    return names


def _available(keys: list[str]) -> list[str]:
    """Return the keys of the recorders that can be run here, and of the loops without any that belong to them."""
    found = [key for key in keys if _python(key).exists() and _can_import(key)]
    for key in keys:
        if key not in found:
            click.echo(f"Left out, because it is not installed: {PEERS[key].title}")
    besides = {key for other in found for key in (PEERS[other].without, PEERS[other].loaded)}
    return [key for key in PEERS if key in found or key in besides]


def _can_import(key: str) -> bool:
    imports = "; ".join(f"import {module}" for module in ("psutil", "click", "gymnasium", *PEERS[key].modules))
    command = [str(_python(key)), "-c", imports]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def _python(key: str) -> Path:
    """Return the interpreter of a recorder's environment: this one's, a neighbour's, or that of the checkout itself."""
    environment = PEERS[key].environment
    if environment == "peers":
        return Path(sys.executable)
    folder = Path(sys.prefix).parent
    return (folder if environment == "own" else folder / environment) / "bin" / "python"


def _describe(run: dict[str, Any]) -> str:
    def told(name: str) -> str:
        held = run["step_times"][name]
        return f"{name} {1e3 * held['time_s']:8.2f} ms ({held['ratio']:.2f})"

    text = "  ".join([f"{run['peer']:18}", *map(told, ("p50", "p99", "longest", "closing"))])
    return text + (f"  lost {run['pictures']['lost']}" if "pictures" in run else "")


def _circumstances() -> dict[str, Any]:
    arguments = sys.argv[1:]
    if arguments[:1] in (["measure"], []):
        command = " ".join(["make bench-peers", *([f'ARGS="{shlex.join(arguments[1:])}"'] if arguments[1:] else [])])
    else:
        command = f"cd benchmarks && ../.venv/peers/bin/python -m peers {shlex.join(arguments)}"
    return {"date": datetime.now(UTC).date().isoformat(), "command": command, "machine": machine()}


main()
