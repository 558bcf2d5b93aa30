"""Which CPUs a worker runs on: not on the one that training is running on."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Iterable
from pathlib import Path

_CPU_FIELD = 36
"""Of `/proc/<pid>/stat`, counted after the program's name: the CPU that a thread last ran on, see proc(5)."""


class TrainingApart:
    """Keeps all threads of this process off the CPU that a thread of another process runs on.

    `SCHED_IDLE` alone does not keep a worker out of training's way: Linux takes a CPU that runs nothing else for an
    idle one, wakes the training thread there, and may end the worker's turn only at the next tick, up to 4 ms later;
    and the worker, once confined, would wait there while another CPU is idle. So it has to be done again and again.

    Args:
        process: Identifier of the process in which training runs.
        thread: Native identifier of its thread; where the system doesn't tell its CPU, nothing is done.
    """

    def __init__(self, process: int, thread: int) -> None:
        self._stat = Path(f"/proc/{process}/task/{thread}/stat")
        self._allowed = frozenset(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else frozenset()
        self._own: frozenset[int] = self._allowed

    def keep(self) -> None:
        """Move away where training has come to a CPU of this process."""
        taken = self._training_cpu()
        if taken in self._own and (others := without(self._allowed, taken)):
            self._own = others
            _confine(others)

    def _training_cpu(self) -> int:
        try:
            return int(self._stat.read_text().rpartition(")")[2].split()[_CPU_FIELD])
        except (OSError, ValueError, IndexError):
            return -1


def without(allowed: Collection[int], taken: int) -> frozenset[int]:
    """Return three quarters of the CPUs, at most all but one, without the one that is taken."""
    left_out = max(1, len(allowed) // 4)
    others = [cpu for cpu in sorted(allowed) if cpu != taken]
    return frozenset(others[left_out - 1 :])


def _confine(cpus: Iterable[int]) -> None:
    """Have all threads, also those that libraries have started by now, run on these CPUs."""
    for thread in os.listdir("/proc/self/task"):
        with contextlib.suppress(OSError):
            os.sched_setaffinity(int(thread), cpus)
