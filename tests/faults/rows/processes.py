"""Training programs that start other processes, and several that share a folder."""

from __future__ import annotations

import json
import subprocess
import sys

from .. import evidence
from ..evidence import require
from ..harness import ROOT, Try
from ..matrix import row

_STEPS = 120


def _nothing_doubled(one: Try, *, clips: int, steps: int) -> int:
    found = evidence.check_done(one.folder)
    require(len(found) == clips, f"{len(found)} clips, not {clips}: {[clip.name for clip in found]}")
    shown = sum(len(clip.steps) for clip in found)
    require(shown == steps, f"{shown} frames, not {steps}")
    one.recover_nothing()
    return 0


def _with_others(one: Try, method: str) -> int:
    step = one.random.randint(0, _STEPS // 2)
    training = one.start("many_processes", method=method, steps=_STEPS, step_of_start=step)
    training.end_well()
    one.nothing_runs(3.0)
    summary = training.summary()
    require(summary["steps"] == _STEPS and summary["encoded"] == _STEPS, f"not everything was recorded: {summary}")
    require(summary["restarts"] == 0, f"{summary['restarts']} workers lost")
    return _nothing_doubled(one, clips=4, steps=_STEPS)


@row("Forked processes (data loaders) that outlive the recorder: no deadlock, nothing lost, nothing doubled.")
def fork_of_data_loaders(one: Try) -> int:
    return _with_others(one, "os_fork")


@row("multiprocessing with fork, in the middle of a clip: no deadlock, nothing lost, nothing doubled.")
def multiprocessing_fork(one: Try) -> int:
    return _with_others(one, "fork")


@row("multiprocessing with spawn, in the middle of a clip: no deadlock, nothing lost, nothing doubled.", tries=5)
def multiprocessing_spawn(one: Try) -> int:
    return _with_others(one, "spawn")


@row("multiprocessing with forkserver, in the middle of a clip: no deadlock, nothing lost, nothing doubled.", tries=5)
def multiprocessing_forkserver(one: Try) -> int:
    return _with_others(one, "forkserver")


@row("A forked child that leaves the `with` block as well: it closes nothing, and does not hang.")
def forked_child_closes(one: Try) -> int:
    training = one.start("forked_close", steps=60, step_of_fork=one.random.randint(0, 60))
    training.end_well()
    one.nothing_runs()
    return _nothing_doubled(one, clips=1, steps=60)


@row("A forked process that steps and closes its copy of the recorder: nothing of it is recorded, and nothing hangs.")
def forked_process_steps(one: Try) -> int:
    training = one.start("forked_steps", steps=60, step_of_fork=one.random.randint(0, 60))
    training.end_well()
    one.nothing_runs()
    one.nothing_held(training)
    (told,) = training.diary.events("child")
    require(told["status"] == 0, f"the child ended with {told['status']}: {training.output[-2000:]}")
    require(training.summary()["requested"] == 60, f"not the parent's steps alone: {training.summary()}")
    return _nothing_doubled(one, clips=1, steps=60)


@row("Processes forked while service and worker start, which outlive the recorder: close() waits for none of them.")
def forks_at_the_start(one: Try) -> int:
    training = one.start("forks_at_the_start", steps=60)
    training.end_well()
    one.nothing_runs()
    one.nothing_held(training)
    summary = training.summary()
    one.notes.append(f"{summary['forked']} forked, closed in {summary['took_s']:.2f} s")
    require(summary["forked"] > 3, f"only {summary['forked']} processes were forked")
    require(summary["took_s"] < 5.0, f"closing took {summary['took_s']:.1f} s")
    return _nothing_doubled(one, clips=1, steps=60)


_UNGUARDED = """
import sys

from stepreel import Recorder, RecorderConfig
from stepreel.backends.synthetic import SyntheticBackend

print("imported", flush=True)
config = RecorderConfig(output_dir=sys.argv[1], video_length=40, video_interval=0, worker_priority="normal")
with Recorder(config, SyntheticBackend(width=64, height=48, snapshot=True)) as recorder:
    for _ in range(40):
        recorder.step()
print(recorder.summary())
"""


@row("A training script without a `__main__` guard is run once: no worker imports it.", tries=1)
def no_main_guard(one: Try) -> int:
    script = one.scratch / "train.py"
    script.write_text(_UNGUARDED)
    run = subprocess.run(
        [sys.executable, str(script), str(one.folder)],
        cwd=ROOT,
        env=one.environment(),
        capture_output=True,
        text=True,
        timeout=40,
        check=False,
    )
    require(run.returncode == 0, f"it ended with status {run.returncode}: {run.stderr[-2000:]}")
    require(run.stdout.count("imported") == 1, "the script was run more than once")
    one.nothing_runs()
    return _nothing_doubled(one, clips=1, steps=40)


@row("Four ranks of one launcher in one folder: no clip is lost or doubled, and file names tell the ranks.", tries=3)
def four_ranks(one: Try) -> int:
    script = one.scratch / "train.py"
    script.write_text(_UNGUARDED)
    ranks = []
    for rank in range(4):
        variables = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "4"}
        ranks.append(
            subprocess.Popen(
                [sys.executable, str(script), str(one.folder)],
                cwd=ROOT,
                env={**one.environment(), **variables, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"},
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
            )
        )
    for rank, process in enumerate(ranks):
        _, errors = process.communicate(timeout=60)
        require(process.returncode == 0, f"rank {rank} ended with status {process.returncode}: {errors[-2000:]!r}")
    one.nothing_runs()
    _nothing_doubled(one, clips=4, steps=160)
    names = sorted(path.name for path in one.folder.glob("*.mp4"))
    told = [any(f"rank{rank}" in name or f"rank-{rank}" in name for name in names) for rank in range(4)]
    require(all(told), f"the names don't tell the ranks: {names}")
    for rank in range(4):
        session = json.loads((one.folder / f"session-rank{rank}.json").read_text())
        prefix = session["configuration"]["name_prefix"]
        require(session["ended_at"] and prefix.endswith(f"-rank{rank}"), f"the session of rank {rank}: {session}")
        pace = json.loads((one.folder / f"session-rank{rank}-pace.json").read_text())
        require(pace["samples"][-1][1] == 40, f"the pace of rank {rank}: {pace}")
        events = [json.loads(line) for line in (one.folder / f"session-rank{rank}.jsonl").read_text().splitlines()]
        opened = [event["clip"] for event in events if event["event"] == "clip.opened"]
        require(len(opened) == 1 and f"-rank{rank}-" in opened[0], f"the log of rank {rank} tells of {opened}")
    return 0
