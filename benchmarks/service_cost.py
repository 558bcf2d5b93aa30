"""What recording services cost by themselves: the time until they record, and their memory.

    python benchmarks/service_cost.py --recorders 1 16

Each row is a training process of its own that opens so many recorders, one after the other, leaves them alone for a
while, and then records a clip with each. Numbers are those of all services together, and of all workers. `anon` is the
memory that they have written themselves (RssAnon), `own` what they share with no other process (USS), both without
`shared`, the memory that frames go through: services fault it in for training, and it is counted once for each recorder
(RssShmem of its service). `--json FILE` writes the numbers into a file besides.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

_WIDTH, _HEIGHT = 320, 240
_STEP_S = 0.002
_LOOK_S = 0.001
_SETTLE_S = 1.0
"""Until processes that have just been started have done what they do at their start."""
_IDLE_S = 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What several processes have, together."""

    count: int
    anon_nbytes: int
    own_nbytes: int
    shared_nbytes: int
    cpu_s: float

    @classmethod
    def of(cls, processes: list[int]) -> Usage:
        """Look at processes."""
        ticks = os.sysconf("SC_CLK_TCK")
        stats = [Path(f"/proc/{one}/stat").read_text().rpartition(")")[2].split() for one in processes]
        return cls(
            count=len(processes),
            anon_nbytes=sum(_status_nbytes(one, "RssAnon") for one in processes),
            own_nbytes=sum(_own_nbytes(one) for one in processes),
            shared_nbytes=sum(_status_nbytes(one, "RssShmem") for one in processes),
            cpu_s=sum(int(stat[11]) + int(stat[12]) for stat in stats) / ticks,
        )


def _status_nbytes(process: int, name: str) -> int:
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith(f"{name}:")) * 1024


def _own_nbytes(process: int) -> int:
    """Return what a process shares with nobody, but for memory that was made to be shared, whoever touched it."""
    total, is_shared = 0, False
    for line in Path(f"/proc/{process}/smaps").read_text().splitlines():
        name, _, value = line.partition(":")
        if "-" in name.split(" ")[0]:
            is_shared = "/memfd:" in line
        elif not is_shared and name in ("Private_Clean", "Private_Dirty"):
            total += int(value.split()[0]) * 1024
    return total


def _services_and_workers() -> tuple[list[int], list[int]]:
    """Return this process's children, which are services, and theirs, which are workers."""
    services = _children(os.getpid())
    return services, [worker for service in services for worker in _children(service)]


def _children(process: int) -> list[int]:
    tasks = Path(f"/proc/{process}/task").iterdir()
    return [int(child) for task in tasks for child in (task / "children").read_text().split()]


def train(recorders: int, frames: int) -> dict[str, Any]:
    """Be a training process: open recorders, record a clip of so many frames with each, and tell what it cost."""
    from stepreel import Recorder, RecorderConfig
    from stepreel.backends.synthetic import SyntheticBackend

    with tempfile.TemporaryDirectory(prefix="stepreel-bench-") as folder, ExitStack() as stack:
        starts_s: list[float] = []
        opens_s: list[float] = []
        opened = []
        for number in range(recorders):
            config = RecorderConfig(
                output_dir=f"{folder}/{number}", video_length=frames, video_interval=0, codec="libx264"
            )
            recorder = Recorder(config, SyntheticBackend(width=_WIDTH, height=_HEIGHT))
            watch = threading.Thread(target=_note_start, args=(recorder, time.perf_counter(), starts_s))
            begin = time.perf_counter()
            watch.start()
            opened.append(stack.enter_context(recorder))
            opens_s.append(time.perf_counter() - begin)
            watch.join()
        time.sleep(_SETTLE_S)
        services, workers = _services_and_workers()
        settled = [Usage.of(services), Usage.of(workers)]
        time.sleep(_IDLE_S)
        idle = [Usage.of(services), Usage.of(workers)]
        for _ in range(frames):
            time.sleep(_STEP_S)
            for recorder in opened:
                recorder.step()
        recorded = [Usage.of(services), Usage.of(workers)]
    return {
        "recorders": recorders,
        "frames": frames,
        "start_s": median(starts_s),
        "open_s": median(opens_s),
        "all_open_s": sum(opens_s),
        "idle_share": [(after.cpu_s - before.cpu_s) / _IDLE_S for before, after in zip(settled, idle, strict=True)],
        **{
            when: {"services": asdict(of_services), "workers": asdict(of_workers)}
            for when, (of_services, of_workers) in (("idle", idle), ("recorded", recorded))
        },
    }


def _note_start(recorder: Any, begin: float, starts_s: list[float]) -> None:
    """Note when the service's loop turns for the first time."""
    from stepreel.transport.shared_memory import ServiceWord

    memory = recorder._core.memory
    while memory.fd >= 0 and not memory.service[ServiceWord.HEARTBEAT]:
        time.sleep(_LOOK_S)
    starts_s.append(time.perf_counter() - begin)


def _measure(recorders: int, frames: int) -> dict[str, Any]:
    """Run a training process of its own."""
    command = [sys.executable, __file__, "--train", str(recorders), "--frames", str(frames)]
    told = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    found: dict[str, Any] = json.loads(told.splitlines()[-1])
    return found


def _table(runs: list[dict[str, Any]]) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("recorders", justify="right")
    table.add_column("what")
    headings = ("service runs [s]", "open [s]", "all open [s]", "idle: CPU")
    memory = ("anon [MB]", "own [MB]", "shared [MB]")
    for heading in (*headings, *memory, "after a clip: anon [MB]", *memory[1:]):
        table.add_column(heading, justify="right")
    for run in runs:
        times = [f"{run[name]:.2f}" for name in ("start_s", "open_s", "all_open_s")]
        for what, share in zip(("services", "workers"), run["idle_share"], strict=True):
            measured = [run["idle"][what], run["recorded"][what]]
            cells = [f"{one[f'{name}_nbytes'] / 1e6:.1f}" for one in measured for name in ("anon", "own", "shared")]
            shown = times if what == "services" else ["", "", ""]
            table.add_row(f"{run['recorders']}", f"{measured[0]['count']} {what}", *shown, f"{share:.1%}", *cells)
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recorders", type=int, nargs="+", default=[1, 16], help="recorders in one training process")
    parser.add_argument("--frames", type=int, default=200, help="frames of each clip")
    parser.add_argument("--json", type=Path, help="file to write besides")
    parser.add_argument("--train", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.train:
        print(json.dumps(train(arguments.train, arguments.frames)))  # noqa: T201
        return
    runs = [_measure(count, arguments.frames) for count in arguments.recorders]
    Console(width=200).print(_table(runs))
    if arguments.json:
        machine = f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores, Python {platform.python_version()}"
        found = {"date": datetime.now(UTC).date().isoformat(), "machine": machine, "runs": runs}
        arguments.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
