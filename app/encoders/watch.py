"""A worker's second thread: it looks at what can't wait until the thread that works has time."""

from __future__ import annotations

import mmap
import os
import select
import time
from contextlib import ExitStack

from ..transport.control_bytes import SOMEBODY_WAITS
from .cpus import TrainingApart
from .priorities import Priorities

_LOOK_S = 0.03
_ORPHAN_GRACE_S = 1.5
"""What a worker whose parent died may still take to close its segments."""


class Watch:
    """Keeps off training's CPU, takes the whole machine while somebody waits, and outlives no parent.

    Args:
        parent: Process identifier of whoever started this program.
        command_fd: The pipe that the parent may close.
        orphaned_fd: Is written to when no command will come.
        memory: The shared memory, which begins with the control bytes.
        apart: Moves this process.
        priorities: Of its threads.
    """

    def __init__(
        self,
        *,
        parent: int,
        command_fd: int,
        orphaned_fd: int,
        memory: mmap.mmap,
        apart: TrainingApart,
        priorities: Priorities,
    ) -> None:
        self._parent = parent
        self._command_fd = command_fd
        self._orphaned_fd = orphaned_fd
        self._memory = memory
        self._apart = apart
        self._priorities = priorities
        self._unrestrained: ExitStack | None = None
        """Holds what is lifted while somebody waits."""

    def run(self) -> None:
        """Look now and then; end this process soon after its parent, even from inside a long compilation."""
        poll = select.poll()
        poll.register(self._command_fd, 0)
        while not poll.poll(_LOOK_S * 1000) and not self._is_orphaned:
            self._look()
        os.write(self._orphaned_fd, b"\0")
        while not self._is_orphaned:
            self._look()
            time.sleep(_LOOK_S)
        time.sleep(_ORPHAN_GRACE_S)
        os._exit(1)

    @property
    def _is_orphaned(self) -> bool:
        return os.getppid() != self._parent

    def _look(self) -> None:
        self._apart.keep()
        self._priorities.keep()
        is_free = self._memory[SOMEBODY_WAITS] != 0
        if is_free and self._unrestrained is None:
            self._unrestrained = ExitStack()
            self._unrestrained.enter_context(self._apart.lifted())
            self._unrestrained.enter_context(self._priorities.normal())
        elif not is_free and self._unrestrained:
            self._unrestrained.close()
            self._unrestrained = None
