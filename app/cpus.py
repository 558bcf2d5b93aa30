"""Which CPUs workers run on: not on the one that training is running on."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path

_CPU_FIELD = 36
"""Of `/proc/<pid>/stat`, counted after the program's name: the CPU that a thread last ran on, see proc(5)."""


def choose_worker_cpus(training_thread: int) -> tuple[int, ...]:
    """Return three quarters of the CPUs that this process may use, at most all but one; none where they can't be told.

    The one that the thread is on is left out.

    `SCHED_IDLE` alone does not keep a worker out of training's way: Linux takes a CPU that runs nothing else for an
    idle one, wakes the training thread there, and may end the worker's turn only at the next tick, up to 4 ms later.

    Args:
        training_thread: The native identifier of the thread that training runs on.
    """
    try:
        allowed = sorted(os.sched_getaffinity(training_thread))
        stat = Path(f"/proc/self/task/{training_thread}/stat").read_text()
        return _without(allowed, int(stat.rpartition(")")[2].split()[_CPU_FIELD]))
    except (AttributeError, OSError, ValueError, IndexError):
        return ()


def _without(allowed: Collection[int], taken: int) -> tuple[int, ...]:
    left_out = max(1, len(allowed) // 4)
    others = [cpu for cpu in allowed if cpu != taken]
    return tuple(others[left_out - 1 :]) if others else ()
