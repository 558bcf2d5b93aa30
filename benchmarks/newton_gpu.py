"""Steps a second of many Newton worlds on a GPU, with and without a clip being recorded.

    python benchmarks/newton_gpu.py --worlds 4096 --drawn 16 --worker-device auto cuda --render-duty 1 0.05

Prints one JSON object a line: for each repetition and each way to record, the ratios to the mean of the same steps
without, right before and right after. `--json benchmarks/newton_gpu.json` writes them into a file besides, from which
`docs/benchmarks.md` is made.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from itertools import product
from pathlib import Path
from typing import Any

import newton
import newton.examples
import numpy as np
import warp as wp

from stepreel import Recorder, RecorderConfig
from stepreel.backends.newton import NewtonBackend

_FRAME_S = 1.0 / 60.0
_ROLLOUT = 25
"""Steps between phases in which training leaves the GPU alone."""


class Simulation:
    """Quadrupeds that stand and tremble, one for each world; a step is one captured graph of kernels."""

    def __init__(self, worlds: int, substeps: int) -> None:
        self._substeps = substeps
        robot = newton.ModelBuilder()
        robot.add_urdf(
            newton.examples.get_asset("quadruped.urdf"),
            xform=wp.transform((0.0, 0.0, 0.7), wp.quat_identity()),
            floating=True,
            enable_self_collisions=False,
        )
        builder = newton.ModelBuilder()
        builder.replicate(robot, worlds)
        builder.add_ground_plane()
        self.model = builder.finalize()
        self.solver = newton.solvers.SolverXPBD(self.model)
        self.state, self._next = self.model.state(), self.model.state()
        self._control = self.model.control()
        newton.eval_fk(self.model, self.model.joint_q, self.model.joint_qd, self.state)
        self._collisions = newton.CollisionPipeline(self.model)
        self._contacts = self._collisions.contacts()
        self._simulate()
        self._graph = None
        if self.model.device.is_cuda:
            with wp.ScopedCapture() as capture:
                self._simulate()
            self._graph = capture.graph

    def step(self) -> None:
        """Simulate one frame, and wait for it as a training loop does that reads observations."""
        if self._graph:
            wp.capture_launch(self._graph)
        else:
            self._simulate()
        wp.synchronize_device(self.model.device)

    def _simulate(self) -> None:
        for _ in range(self._substeps):
            self.state.clear_forces()
            self._collisions.collide(self.state, self._contacts)
            self.solver.step(self.state, self._next, self._control, self._contacts, _FRAME_S / self._substeps)
            self.state, self._next = self._next, self.state


def measure(
    step: Callable[[], None],
    record: Callable[[], None],
    steps: int,
    phase: Callable[[], AbstractContextManager[None]] = nullcontext,
    phase_s: float = 0.0,
) -> list[float]:
    """Return the time of each step [s]; with `phase_s`, something else goes on for so long every `_ROLLOUT` steps."""
    times = []
    for number in range(steps):
        start = time.perf_counter()
        step()
        record()
        times.append(time.perf_counter() - start)
        if phase_s and number % _ROLLOUT == _ROLLOUT - 1:
            with phase():
                time.sleep(phase_s)
    return times


def describe(times: list[float]) -> dict[str, float]:
    values = np.array(times) * 1e3
    p50, p99 = np.percentile(values, (50, 99))
    return {
        "steps_per_s": round(1e3 / float(values.mean()), 2),
        "p50_ms": round(float(p50), 3),
        "p99_ms": round(float(p99), 3),
        "longest_ms": round(float(values.max()), 3),
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """One way to record."""

    drawn: int
    """Worlds in the picture."""
    worker_device: str
    render_duty: float
    renderer: str
    hint: str
    """"none", "phases" (training pauses, and says nothing) or "idle" (it says so with `recorder.idle`)."""
    priority: str
    """"usual", or "low": the Warp renderer launches on a stream of low priority."""


def ways(arguments: argparse.Namespace) -> Iterator[Way]:
    """Yield what is compared."""
    for drawn, device, renderer, hint in product(
        arguments.drawn, arguments.worker_device, arguments.renderer, arguments.hint
    ):
        for duty in arguments.render_duty if device.startswith("cuda") else (1.0,):
            for priority in arguments.priority if renderer == "warp" else ("usual",):
                yield Way(
                    drawn=drawn,
                    worker_device=device,
                    render_duty=duty,
                    renderer=renderer,
                    hint=hint,
                    priority=priority,
                )


class LowPriorityRenderer:
    """Draws as another renderer does, with everything that Warp launches on a stream of the lowest priority."""

    def __init__(self, renderer: Any) -> None:
        self._renderer = renderer

    @property
    def name(self) -> str:
        return f"{self._renderer.name}, low priority"

    def open(self) -> None:
        self._renderer.open()
        self._stream = wp.Stream("cuda:0", priority=0)  # -1 is high, 0 low.

    def render(self, snapshot: Any) -> Any:
        with wp.ScopedStream(self._stream):
            return self._renderer.render(snapshot)

    def close(self) -> None:
        self._renderer.close()


class LowPriorityBackend(NewtonBackend):
    """A Newton backend whose renderer has a low priority on the GPU."""

    def open(self, **given: Any) -> Any:
        opened = super().open(**given)
        from newton_gpu import LowPriorityRenderer as Importable  # Not of `__main__`, which no worker can import.

        return replace(opened, renderer=Importable(opened.renderer))


def record(simulation: Simulation, arguments: argparse.Namespace, way: Way) -> dict[str, Any]:
    """Measure the steps of one clip."""
    with tempfile.TemporaryDirectory() as folder:
        config = RecorderConfig(
            output_dir=folder,
            video_length=arguments.steps,
            video_interval=0,
            width=1280,
            height=720,
            worker_device=way.worker_device,
            render_duty=way.render_duty,
        )
        kind = LowPriorityBackend if way.priority == "low" else NewtonBackend
        backend = kind(
            simulation.model,
            lambda: simulation.state,
            visible_worlds=range(way.drawn),
            steps_per_second=60.0,
            renderer=way.renderer,
        )
        with Recorder(config, backend) as recorder:
            warm_up(simulation, recorder)
            phase = recorder.idle if way.hint == "idle" else nullcontext
            phase_s = 0.0 if way.hint == "none" else arguments.phase_s
            times = measure(simulation.step, recorder.step, arguments.steps, phase, phase_s)
            facts: dict[str, Any] = describe(times)
            facts["encoded_meanwhile"] = recorder.statistics().frames.encoded
            start = time.perf_counter()
            recorder.flush()
            facts["finished_after_s"] = round(time.perf_counter() - start, 2)
        summary = recorder.summary()
        clip = summary.clips[0]
        facts["frames"] = {"requested": clip.frames.requested, "encoded": clip.frames.encoded}
        facts["capture_p99_ms"] = round(summary.statistics.capture.p99_s * 1e3, 3)
        facts["render_p50_ms"] = round(summary.statistics.render.p50_s * 1e3, 1)
        return facts


def warm_up(simulation: Simulation, recorder: Recorder) -> None:
    """Have the renderer open before the clip is measured, as it is at any but a run's first clip."""
    recorder.pause()
    for _ in range(20):
        simulation.step()
    recorder.resume()
    time.sleep(15.0)


def write(runs: list[dict[str, Any]], simulation: Simulation, arguments: argparse.Namespace) -> None:
    device = simulation.model.device
    cores = len(os.sched_getaffinity(0))
    found = {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": f"{device.name if device.is_cuda else 'no GPU'}, {cores} cores, Python {platform.python_version()}",
        "command": f"python benchmarks/newton_gpu.py {shlex.join(sys.argv[1:])}",
        "worlds": arguments.worlds,
        "steps": arguments.steps,
        "substeps": arguments.substeps,
        "runs": runs,
    }
    arguments.json.write_text(json.dumps(found, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--worlds", type=int, default=4096)
    parser.add_argument("--substeps", type=int, default=20, help="of a step; an even number")
    parser.add_argument("--drawn", type=int, nargs="+", default=[16])
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--worker-device", nargs="+", default=["auto"])
    parser.add_argument("--render-duty", type=float, nargs="+", default=[1.0], help="where a GPU draws")
    parser.add_argument("--renderer", nargs="+", default=["auto"])
    parser.add_argument("--hint", nargs="+", choices=["none", "phases", "idle"], default=["none"])
    parser.add_argument("--phase-s", type=float, default=0.25, help="pause of training every 25 steps, for --hint")
    parser.add_argument("--priority", nargs="+", choices=["usual", "low"], default=["usual"])
    parser.add_argument("--json", type=Path, help="file to write besides")
    arguments = parser.parse_args()
    runs: list[dict[str, Any]] = []
    simulation = Simulation(arguments.worlds, arguments.substeps)
    for _ in range(50):
        simulation.step()
    for repetition in range(arguments.repetitions):
        for way in ways(arguments):
            before = describe(measure(simulation.step, lambda: None, arguments.steps))
            found = record(simulation, arguments, way)
            after = describe(measure(simulation.step, lambda: None, arguments.steps))
            baseline = {key: round((before[key] + after[key]) / 2, 3) for key in before}
            ratios = {key: round(found[key] / baseline[key], 3) for key in baseline}
            row = {"repetition": repetition, **asdict(way)}
            runs.append({**row, "ratio": ratios, "without": baseline, "with": found})
            print(json.dumps(runs[-1]), flush=True)  # noqa: T201
            if arguments.json:
                write(runs, simulation, arguments)


if __name__ == "__main__":
    main()
