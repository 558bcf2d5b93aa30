"""What the system tells of processes, and the programs that a measurement runs in processes of their own."""

from __future__ import annotations

import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import click
import psutil

_BENCHMARKS = Path(__file__).resolve().parents[1]
_TIME_LIMIT_S = 3600


def run_program(module: str, *arguments: object, python: Path | str = sys.executable) -> Any:
    """Run `python -m peers.<module> ARGUMENTS RESULT`, and return the JSON that it writes into the file RESULT.

    Raises:
        click.ClickException: the program failed; the message ends with what it wrote.
    """
    with tempfile.TemporaryDirectory(prefix="stepreel-bench-") as folder:
        result = Path(folder) / "result.json"
        command = [str(python), "-m", f"peers.{module}", *map(str, arguments), str(result)]
        ended = subprocess.run(
            command,
            cwd=_BENCHMARKS,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=_TIME_LIMIT_S,
            check=False,
        )
        if ended.returncode:
            raise click.ClickException(f"{' '.join(command)} failed:\n{ended.stdout.decode(errors='replace')}")
        return json.loads(result.read_text())


def children_cpu_s() -> float:
    """Return the processor time of all programs started by this one, and by those: also of those that ended."""
    total = ended_children_cpu_s()
    for child in psutil.Process(os.getpid()).children(recursive=True):
        times = child.cpu_times()
        total += times.user + times.system + times.children_user + times.children_system
    return total


def ended_children_cpu_s() -> float:
    """Return the processor time of the programs started by this one that have ended, to the microsecond."""
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return ended.ru_utime + ended.ru_stime


def children_nbytes() -> int:
    """Return the memory that the programs started by this one, and by those, share with nobody [bytes].

    Where none runs any more: what the largest of them had.
    """
    found = []
    for child in psutil.Process(os.getpid()).children(recursive=True):
        with suppress(psutil.Error):  # It has just ended.
            found.append(child.memory_full_info().uss)
    return sum(found) if found else resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024


def start_measuring_memory() -> int:
    """Forget the highest resident memory so far; return what is resident now [bytes]."""
    Path("/proc/self/clear_refs").write_text("5")
    return resident_nbytes()


def resident_nbytes() -> int:
    return int(psutil.Process().memory_info().rss)


def peak_resident_nbytes() -> int:
    """Return the highest resident memory of this process [bytes]."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise OSError("no VmHWM in /proc/self/status")


def machine() -> dict[str, Any]:
    """Return what a reader has to know of this machine."""
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
