"""What share of the processor a worker's threads get: less than training, but for a while when somebody waits."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from threading import Lock, get_native_id

from ..config import WorkerPriority
from .cpus import for_own_threads

_LOW = 10
"""Added to the nice value, for the priority "low"."""
_MOST_NICE = 19
_REAL_TIME = {getattr(os, name) for name in ("SCHED_FIFO", "SCHED_RR") if hasattr(os, name)}


@dataclass(frozen=True, slots=True)
class _Share:
    policy: int
    nice: int

    @classmethod
    def of(cls, thread: int) -> _Share:
        policy = os.sched_getscheduler(thread) if hasattr(os, "sched_getscheduler") else 0
        return cls(policy, os.getpriority(os.PRIO_PROCESS, thread))

    def give_to(self, thread: int) -> None:
        """Have a thread scheduled like this, as far as the system permits."""
        with contextlib.suppress(OSError):
            if hasattr(os, "sched_setscheduler") and os.sched_getscheduler(thread) != self.policy:
                os.sched_setscheduler(thread, self.policy, os.sched_param(0))
        with contextlib.suppress(OSError):
            if os.getpriority(os.PRIO_PROCESS, thread) != self.nice:
                os.setpriority(os.PRIO_PROCESS, thread, self.nice)


class Priorities:
    """The policies and nice values of this process's threads; what it is made with counts as normal. For any thread."""

    def __init__(self) -> None:
        self._normal = _Share.of(0)
        self._lowered = self._normal
        """Of the thread that works, and those that it starts."""
        self._before: dict[int, _Share] | None = None
        """By thread, what it goes back to; None unless all are normal."""
        self._lock = Lock()

    def lower(self, priority: WorkerPriority) -> None:
        """Lower the calling thread, and all that it starts from now on, below training.

        Linux lets nobody leave `SCHED_IDLE` without privileges; but it is a thread that is in it, not the process. So
        a thread that was not lowered yet can still be lowered to something else.
        """
        with self._lock:
            self._lowered = self._share(priority)
            if self._before is None:
                self._lowered.give_to(get_native_id())
            else:
                self._before[get_native_id()] = self._lowered

    @contextmanager
    def normal(self) -> Iterator[None]:
        """Have all threads scheduled normally meanwhile, as far as the system permits. Not to be nested."""
        with self._lock:
            before = self._before = {}
            for_own_threads(lambda thread: self._make_normal(thread, before))
        try:
            yield
        finally:
            with self._lock:
                self._before = None
                for_own_threads(lambda thread: before.get(thread, self._lowered).give_to(thread))

    def keep(self) -> None:
        """Take away what lets a thread of a library run before training: SVT-AV1 makes its own real-time, where it may.

        To be done again and again: encoders make threads whenever they are opened.
        """
        with self._lock:
            share = self._lowered if self._before is None else self._normal
            for_own_threads(lambda thread: self._take_real_time(thread, share))

    def _take_real_time(self, thread: int, share: _Share) -> None:
        own = _Share.of(thread)
        if own.policy in _REAL_TIME and own.policy != self._normal.policy:
            share.give_to(thread)

    def _make_normal(self, thread: int, before: dict[int, _Share]) -> None:
        before[thread] = _Share.of(thread)
        self._normal.give_to(thread)

    def _share(self, priority: WorkerPriority) -> _Share:
        if priority is WorkerPriority.NORMAL:
            return self._normal
        if priority in (WorkerPriority.AUTO, WorkerPriority.IDLE) and hasattr(os, "SCHED_IDLE"):
            return replace(self._normal, policy=os.SCHED_IDLE)
        return replace(self._normal, nice=min(self._normal.nice + _LOW, _MOST_NICE))
