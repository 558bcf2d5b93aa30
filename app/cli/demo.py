"""`stepreel demo`: a small policy learns to balance cart-poles in Newton, and clips of it are recorded."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

import click
import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from .. import Recorder, RecorderConfig
from ..errors import ConfigurationError, OutputError
from ..statistics import Timings
from .clip_table import clip_table, dropped_by_cause

if TYPE_CHECKING:
    from ..backends.newton import NewtonBackend
    from ..demo.task import CartPoleTask

WORLD_COUNT = 32
VISIBLE_WORLDS = range(16)
EYE = (0.0, -24.0, 11.0)
LOOKAT = (0.0, -0.8, 1.0)
FOV = 23.5

_RECORDED_PROGRESS = (0.0, 0.25, 1.0)
"""How far the training is, as a share of its iterations, when a clip is recorded."""
_WARM_UP_STEPS = 10
"""Left out of the step times: the first steps of a process are slow with or without a recorder."""
_REFRESH_STEPS = 20
_PIPE_WIDTH = 200


@dataclass(kw_only=True, slots=True)
class _TrainingLog:
    """What the table at the end tells of the training."""

    returns: list[float] = field(default_factory=list)
    """Mean return of the policies of each iteration."""
    recording: Timings = field(default_factory=Timings)
    without: Timings = field(default_factory=Timings)
    step_count: int = 0

    def add_step(self, duration_s: float, *, is_recording: bool) -> None:
        self.step_count += 1
        if self.step_count > _WARM_UP_STEPS:
            (self.recording if is_recording else self.without).add(duration_s)


@click.command()
@click.option("--output-dir", default="videos/demo", show_default=True, help="Folder of the clips.")
@click.option("--iterations", type=click.IntRange(min=1), default=20, show_default=True, help="Policy updates.")
@click.option("--steps", type=click.IntRange(min=1), default=100, show_default=True, help="Steps of an iteration.")
@click.option("--device", default="auto", show_default=True, help="Where Newton computes: auto, cpu or cuda:<n>.")
@click.option("--width", type=int, default=640, show_default=True, help="Pixels.")
@click.option("--height", type=int, default=360, show_default=True, help="Pixels.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
def demo(*, output_dir: str, iterations: int, steps: int, device: str, width: int, height: int, seed: int) -> None:
    """Train a small policy on a Newton simulation, and record how it learns.

    Exit status 1 where frames were lost.
    """
    screen = _console(stderr=True)
    recorded = {round(share * (iterations - 1)) for share in _RECORDED_PROGRESS}
    config = RecorderConfig(
        output_dir=output_dir,
        name_prefix="cart-pole",
        episode_trigger=lambda episode: episode in recorded,
        video_interval=0,
        video_length=steps + 1,  # A clip begins with the picture of the reset.
        width=width,
        height=height,
    )
    screen.print(
        "Preparing cart-poles in Newton. The first time on a machine Newton's kernels are compiled, "
        "which takes about a minute."
    )
    with screen.status("Preparing ..."):
        task = _make_task(device)
        recorder = Recorder(config, _make_backend(task))
    screen.print(f"Training on {task.model.device}: {task.world_count} worlds, each tries a policy of its own.")
    log = _TrainingLog()
    with recorder, _progress(screen) as progress:
        try:
            _train(task, recorder, progress, log, iterations=iterations, steps=steps, seed=seed)
        except KeyboardInterrupt:
            screen.print("Stopped; finishing the clips.")
    _print_result(recorder, log, steps)
    if recorder.summary().frames.dropped_total:
        raise click.exceptions.Exit(1)


def _make_task(device: str) -> CartPoleTask:
    """Return the task, with every kernel that it needs compiled.

    Raises:
        ConfigurationError: there is no such device.
    """
    import warp as wp

    wp.config.log_level = wp.LOG_ERROR
    # Nothing is differentiated here, and kernels without a backward pass compile in a quarter of the time.
    wp.config.enable_backward = False
    with _silent_stderr():
        wp.init()
    names = ["cpu", *(cuda.alias for cuda in reversed(wp.get_cuda_devices()))]
    if device == "auto":
        device = names[-1]
    if device not in names:
        raise ConfigurationError(f"device: got {device!r}; allowed: auto, {', '.join(names)}")

    from ..demo.task import CartPoleTask

    return CartPoleTask(WORLD_COUNT, device=device)


def _make_backend(task: CartPoleTask) -> NewtonBackend:
    from ..backends.newton import NewtonBackend
    from ..demo.task import STEPS_PER_SECOND

    return NewtonBackend(
        task.model,
        lambda: task.state,
        eye=EYE,
        lookat=LOOKAT,
        fov=FOV,
        visible_worlds=VISIBLE_WORLDS,
        steps_per_second=STEPS_PER_SECOND,
    )


def _train(
    task: CartPoleTask,
    recorder: Recorder,
    progress: Progress,
    log: _TrainingLog,
    *,
    iterations: int,
    steps: int,
    seed: int,
) -> None:
    from ..demo.task import OBSERVATION_SIZE
    from ..demo.training import CrossEntropySearch, Episode

    rng = np.random.default_rng(seed)
    search = CrossEntropySearch(OBSERVATION_SIZE, task.world_count, rng)
    bar = progress.add_task("Training", total=iterations * steps, note="")
    for iteration in range(iterations):
        episode = Episode(task, search.ask(), rng)
        recorder.reset()
        for step in range(steps):
            is_recording = recorder.is_recording
            started = perf_counter()
            episode.step()
            recorder.step()
            log.add_step(perf_counter() - started, is_recording=is_recording)
            if step % _REFRESH_STEPS == 0:
                progress.update(bar, completed=iteration * steps + step)
                progress.refresh()
        search.tell(episode.policies, episode.returns)
        log.returns.append(float(episode.returns.mean()))
        note = f"iteration {iteration + 1:2} of {iterations}, return {log.returns[-1]:5.1f}, {_clips_begun(recorder)}"
        progress.update(bar, completed=(iteration + 1) * steps, note=note)
        if progress.disable:
            progress.console.print(note)


def _clips_begun(recorder: Recorder) -> str:
    statistics = recorder.statistics()
    count = statistics.clips_open + statistics.clips_closed
    return f"{count} clip" if count == 1 else f"{count} clips"


def _console(*, stderr: bool = False) -> Console:
    console = Console(stderr=stderr, highlight=False)
    if not console.is_terminal:
        console.width = _PIPE_WIDTH
    return console


def _progress(screen: Console) -> Progress:
    """Return a progress display that draws only when told to: a thread of its own would disturb the step times."""
    return Progress(
        TextColumn("{task.description:14}"),
        BarColumn(bar_width=30),
        TimeElapsedColumn(),
        TextColumn("{task.fields[note]}"),
        console=screen,
        auto_refresh=False,
        disable=not screen.is_terminal,
    )


def _print_result(recorder: Recorder, log: _TrainingLog, steps: int) -> None:
    summary = recorder.summary()
    console = _console()
    frames = summary.frames
    console.print()
    console.print(clip_table(summary.clips, summary.output_dir))
    console.print()
    console.print(
        f"Frames: {frames.requested} requested, {frames.encoded} encoded, dropped: {dropped_by_cause(frames)}."
    )
    console.print()
    console.print(_step_time_table(log))
    if log.returns:
        console.print()
        console.print(
            f"Return: {log.returns[0]:.1f} in the first iteration, {log.returns[-1]:.1f} in the last, "
            f"of at most {steps}; mean of {WORLD_COUNT} policies."
        )
    console.print()
    console.print(_gallery_line(summary.output_dir), soft_wrap=True, markup=False)


def _gallery_line(folder: Path) -> str:
    """Write the page of the clips, and return where it is."""
    from ..gallery.writing import write_gallery

    try:
        return f"To look at them: {write_gallery(folder).path}"
    except OutputError as exc:
        return f"There is no page to look at them: {exc}"


def _step_time_table(log: _TrainingLog) -> Table:
    table = Table("step time", box=None, pad_edge=False)
    for heading in ("p50", "p99", "longest", "steps"):
        table.add_column(heading, justify="right")
    for name, timings in (("while a clip is recorded", log.recording), ("without", log.without)):
        times = timings.percentiles()
        durations = (times.p50_s, times.p99_s, times.longest_s)
        cells = [f"{1000 * duration:.2f} ms" if times.count else "-" for duration in durations]
        table.add_row(name, *cells, str(times.count))
    return table


@contextmanager
def _silent_stderr() -> Iterator[None]:
    """Keep Warp's library from complaining, past Python, that there is no CUDA driver; the device is named later."""
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(nowhere)
        os.close(kept)
