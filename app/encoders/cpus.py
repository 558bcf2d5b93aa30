"""Which CPUs a program of ours runs on: not on the one that training is running on."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock

_STATE_FIELD, _CPU_FIELD = 0, 36
"""Of `/proc/<pid>/stat`, counted after the program's name: what a thread does, and the CPU it last ran on, see
proc(5)."""
_ENDED = "ZXx"


class TrainingApart:
    """Keeps all threads of this process off the CPU that a thread of another process runs on. For any thread.

    `SCHED_IDLE` alone does not keep a worker out of training's way: Linux takes a CPU that runs nothing else for an
    idle one, wakes the training thread there, and may end the worker's turn only at the next tick, up to 4 ms later;
    and the worker, once confined, would wait there while another CPU is idle. So it has to be done again and again.

    Args:
        process: Identifier of the process in which training runs.
        thread: Native identifier of its thread; where the system doesn't tell its CPU, or the thread has ended, there
            is nobody to keep away from.
        allowed: CPUs that this process may use; None: those that it may use now. Whoever starts a program while it is
            itself confined has to say.
    """

    def __init__(self, process: int, thread: int, allowed: Collection[int] | None = None) -> None:
        self._stat = Path(f"/proc/{process}/task/{thread}/stat")
        self._current = frozenset(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else frozenset()
        self.allowed = frozenset(allowed) if allowed and self._current else self._current
        """CPUs that this process may use."""
        self._own = self.allowed
        self._lifted = 0
        self._lock = Lock()

    def keep(self) -> None:
        """Move away where training has come to a CPU of this process."""
        taken = self._training_cpu()
        with self._lock:
            if taken is None:
                self._own = self.allowed
            elif taken in self._own:
                self._own = without(self.allowed, taken) or self.allowed
            self._apply()

    @contextmanager
    def lifted(self) -> Iterator[None]:
        """Run on every CPU that this process may use, meanwhile."""
        self._lift(1)
        try:
            yield
        finally:
            self._lift(-1)

    def _lift(self, change: int) -> None:
        with self._lock:
            self._lifted += change
            self._apply()

    def _apply(self) -> None:
        target = self.allowed if self._lifted else self._own
        if target != self._current:
            self._current = target
            for_own_threads(lambda thread: os.sched_setaffinity(thread, target))

    def _training_cpu(self) -> int | None:
        try:
            fields = self._stat.read_text().rpartition(")")[2].split()
            return None if fields[_STATE_FIELD] in _ENDED else int(fields[_CPU_FIELD])
        except (OSError, ValueError, IndexError):
            return None


def without(allowed: Collection[int], taken: int) -> frozenset[int]:
    """Return three quarters of the CPUs, at most all but one, without the one that is taken."""
    left_out = max(1, len(allowed) // 4)
    others = [cpu for cpu in sorted(allowed) if cpu != taken]
    return frozenset(others[left_out - 1 :])


def for_own_threads(act: Callable[[int], object]) -> None:
    """Call `act` with each thread of this process by its native identifier, also those that libraries have started.

    What the system does not permit is left. Threads that are started meanwhile, by one whose turn has not come, get
    their own.
    """
    done: set[int] = set()
    while new := _own_threads() - done:
        for thread in new:
            with contextlib.suppress(OSError):
                act(thread)
        done |= new


def _own_threads() -> set[int]:
    try:
        return {int(name) for name in os.listdir("/proc/self/task")}
    except OSError:
        return set()
