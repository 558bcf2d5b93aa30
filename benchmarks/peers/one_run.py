"""The process of one recorder: `python -m peers.one_run PLAN PEER FOLDER RESULT` trains, records, and writes times."""

from __future__ import annotations

import importlib
import json
import sys
import time
from pathlib import Path
from typing import Any

from .plan import Phase, Plan
from .processes import children_cpu_s, children_nbytes, peak_resident_nbytes, start_measuring_memory
from .recorders import PEERS, Session
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
    resident = start_measuring_memory()
    start = time.perf_counter()
    programs_nbytes = []
    with peer.setup(plan, env, folder) as session:
        env.shown_step = -1
        ready = time.perf_counter()
        children_before = children_cpu_s()
        noted = Session(step=session.step, finish=lambda: (programs_nbytes.append(children_nbytes()), session.finish()))
        steps_s, finish_s = train(plan, noted, env if peer.draws else None)
        children_s = children_cpu_s() - children_before
    return {
        "peer": key,
        "title": peer.describe(),
        "setup_s": ready - start,
        "finish_s": finish_s,
        "memory_nbytes": peak_resident_nbytes() - resident,
        "children_cpu_s": children_s,
        "children_nbytes": max(programs_nbytes),
        "own_cpu_s": time.process_time(),
        "steps_s": steps_s,
    }


def train(plan: Plan, session: Session, drawn: PictureEnv | None) -> tuple[list[float], list[float]]:
    """Step through a plan; return the time of each step, and how long each clip took to finish after its gap [s].

    Args:
        plan: What to do at which step.
        session: Steps the environment, and records.
        drawn: What is drawn in a baseline; None: nothing is.
    """
    phases = [plan.phase(number) for number in range(plan.step_count)]
    clip_ends = set(plan.rest_starts[1:])
    steps_s, finish_s = [], []
    for number, phase in enumerate(phases):
        if number in clip_ends:
            begin = time.perf_counter()
            session.finish()
            finish_s.append(time.perf_counter() - begin)
        begin = time.perf_counter()
        session.step(number)
        if drawn and phase is Phase.BASELINE:
            drawn.render()
        steps_s.append(time.perf_counter() - begin)
    return steps_s, finish_s


if __name__ == "__main__":
    main()
