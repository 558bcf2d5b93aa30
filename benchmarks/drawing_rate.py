"""How fast a Newton snapshot is drawn on the CPU, by several processes at once with several threads each.

    python benchmarks/drawing_rate.py --drawn 16 256 --ways 1x16 4x4 16x1

Prints one JSON object a line: for each picture and each way, `PROCESSESxTHREADS`, the frames a second of all processes
together. `--json benchmarks/drawing_rate.json` writes them into a file besides, which `docs/benchmarks.md` is made of.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import platform
import shlex
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from newton_gpu import Simulation
from shared_memory import frame_pool

from stepreel.backends.newton import NewtonBackend
from stepreel.clip import CaptureRequest, ClipRequest, Snapshot
from stepreel.interfaces import CaptureFormat

_SUBSTEPS = 4
_POOL_NBYTES = 64 << 20


def draw(path: Path, seconds: float) -> None:
    """Be one of the processes: open the renderer, wait for a line, draw for so long, and tell how many frames."""
    renderer, data = pickle.loads(path.read_bytes())
    snapshot = np.frombuffer(data, np.uint8)
    renderer.open()
    renderer.render(snapshot)
    print("ready", flush=True)  # noqa: T201
    sys.stdin.readline()
    count, end = 0, time.monotonic() + seconds
    while time.monotonic() < end:
        renderer.render(snapshot)
        count += 1
    print(count, flush=True)  # noqa: T201


def snapshot_of(simulation: Simulation, drawn: int) -> tuple[CaptureFormat, bytes]:
    """Return how `drawn` worlds are drawn on the CPU, and what is captured of them."""
    backend = NewtonBackend(
        simulation.model, lambda: simulation.state, visible_worlds=range(drawn), steps_per_second=60.0
    )
    opened = backend.open(width=1280, height=720, worker_device="cpu")
    clip = ClipRequest(name="clip", stream="default", start_step=0, frame_stride=1, clip_index=0)
    with frame_pool(_POOL_NBYTES) as pool:
        slot = pool.lease()
        captured = backend.capture(CaptureRequest(clip=clip, step=0, pts=0), slot)
        snapshot = captured if isinstance(captured, Snapshot) else captured.wait()
        data = slot.array(snapshot.nbytes).tobytes()
        slot.release()
    backend.close()
    return opened, data


def rate(opened: CaptureFormat, path: Path, processes: int, threads: int, seconds: float) -> float:
    """Return the frames a second of all processes together [Hz]."""
    environment = {**os.environ, **opened.worker_environment, "LP_NUM_THREADS": str(threads)}
    command = [sys.executable, __file__, "--draw", str(path), "--seconds", str(seconds)]
    drawing = [
        subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(processes)
    ]
    for one in drawing:
        assert one.stdout
        while one.stdout.readline().strip() != "ready":
            if one.poll() is not None:
                raise SystemExit(f"a process ended with status {one.returncode}")
    for one in drawing:
        assert one.stdin
        one.stdin.write("\n")
        one.stdin.flush()
    return sum(int(one.communicate()[0].split()[-1]) for one in drawing) / seconds


def write(path: Path, runs: list[dict[str, Any]]) -> None:
    found = {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores, Python {platform.python_version()}",
        "command": f"python benchmarks/drawing_rate.py {shlex.join(sys.argv[1:])}",
        "runs": runs,
    }
    path.write_text(json.dumps(found, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--drawn", type=int, nargs="+", default=[16, 256], help="worlds in the picture")
    parser.add_argument("--ways", nargs="+", default=["1x1", "1x8", "1x16", "4x4", "16x1"], help="PROCESSESxTHREADS")
    parser.add_argument("--seconds", type=float, default=5.0, help="of drawing, for each")
    parser.add_argument("--json", type=Path, help="file to write besides")
    parser.add_argument("--draw", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.draw:
        draw(arguments.draw, arguments.seconds)
        return
    simulation = Simulation(max(arguments.drawn), _SUBSTEPS)
    runs: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for drawn in arguments.drawn:
            opened, data = snapshot_of(simulation, drawn)
            path = Path(folder) / f"{drawn}.pickle"
            path.write_bytes(pickle.dumps((opened.renderer, data)))
            for way in arguments.ways:
                processes, threads = map(int, way.split("x"))
                found = rate(opened, path, processes, threads, arguments.seconds)
                runs.append({"drawn": drawn, "processes": processes, "threads": threads, "frames_per_s": found})
                print(json.dumps(runs[-1]), flush=True)  # noqa: T201
                if arguments.json:
                    write(arguments.json, runs)


if __name__ == "__main__":
    main()
