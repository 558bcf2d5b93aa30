"""The process of one recorder: `python -m peers.one_run PLAN PEER FOLDER RESULT` trains, records, and writes times."""

from __future__ import annotations

import importlib
import json
import os
import resource
import sys
import time
from pathlib import Path
from typing import Any

import psutil

from .plan import Plan
from .recorders import PEERS
from .workload import PictureEnv


def main() -> None:
    plan_path, key, folder, result = sys.argv[1:]
    Path(result).write_text(json.dumps(run(Plan.load(Path(plan_path)), key, Path(folder))))


def run(plan: Plan, key: str, folder: Path) -> dict[str, Any]:
    """Train under one recorder; return what was measured, durations in seconds, memory in bytes."""
    peer = PEERS[key]
    env = PictureEnv(plan)
    env.reset()
    env.render()  # numpy and the scenery are warm, whoever records.
    for module in peer.modules:
        importlib.import_module(module)
    resident = _start_measuring_memory()
    start = time.perf_counter()
    with peer.setup(plan, env, folder) as step:
        env.shown_step = -1
        ready = time.perf_counter()
        children_before = _children_cpu_s()
        steps = []
        for number in range(plan.step_count):
            begin = time.perf_counter()
            step(number)
            steps.append(time.perf_counter() - begin)
        loop_end = time.perf_counter()
    finish = time.perf_counter()
    return {
        "peer": key,
        "title": peer.describe(),
        "setup_s": ready - start,
        "loop_s": loop_end - ready,
        "finish_s": finish - loop_end,
        "memory_nbytes": _peak_resident() - resident,
        "children_cpu_s": _children_cpu_s() - children_before,
        "own_cpu_s": time.process_time(),
        "steps_s": steps,
    }


def _start_measuring_memory() -> int:
    """Forget the highest resident memory so far; return what is resident now [bytes]."""
    Path("/proc/self/clear_refs").write_text("5")
    return int(psutil.Process().memory_info().rss)


def _peak_resident() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise OSError("no VmHWM in /proc/self/status")


def _children_cpu_s() -> float:
    """Return the processor time of all programs started by this one, of those that ended too."""
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    total = ended.ru_utime + ended.ru_stime
    for child in psutil.Process(os.getpid()).children(recursive=True):
        times = child.cpu_times()
        total += times.user + times.system + times.children_user + times.children_system
    return total


if __name__ == "__main__":
    main()
