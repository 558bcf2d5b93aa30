"""A program started while other threads may fork."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress

_LOOK_S = 0.01


class ChildProcess:
    """A running program. `subprocess` would wait for the end of a pipe, which a process forked meanwhile keeps open.

    It reads nothing, and is in a process group of its own. Inheritable descriptors it has to close by itself.

    Args:
        arguments: The program's path, and what it is called with.
        environment: Its variables.
        output: Descriptor of the file that it writes to.
        kept: Descriptors that it has under the same numbers.

    Raises:
        OSError: it can't be started.
    """

    def __init__(
        self, arguments: list[str], *, environment: Mapping[str, str], output: int, kept: Sequence[int]
    ) -> None:
        nothing = os.open(os.devnull, os.O_RDONLY)
        places = [(nothing, 0), (output, 1), (output, 2), *((fd, fd) for fd in kept)]
        try:
            self.pid = os.posix_spawn(
                arguments[0],
                arguments,
                environment,
                file_actions=[(os.POSIX_SPAWN_DUP2, fd, place) for fd, place in places],
                setpgroup=0,
                setsigdef=[signal.SIGPIPE, signal.SIGXFSZ],  # Python ignores them, and a program would go on to.
            )
        finally:
            os.close(nothing)
        self.status: int | None = None
        """How it ended, as `subprocess` tells it; None: it runs. -1: somebody else has taken note of its end."""

    def poll(self) -> int | None:
        """Return how it ended, or None while it runs."""
        if self.status is None:
            self._look(os.WNOHANG)
        return self.status

    def wait(self, timeout_s: float) -> int | None:
        """Wait for its end; None where the time is over first."""
        deadline = time.monotonic() + timeout_s
        while self.poll() is None and time.monotonic() < deadline:
            time.sleep(_LOOK_S)
        return self.status

    def reap(self) -> None:
        """Wait for its end, however long it takes: until then it stays in the list of processes."""
        if self.status is None:
            self._look(0)

    def kill(self) -> None:
        """End it at once."""
        if self.poll() is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)

    def _look(self, options: int) -> None:
        try:
            pid, status = os.waitpid(self.pid, options)
        except ChildProcessError:
            self.status = -1
        else:
            self.status = os.waitstatus_to_exitcode(status) if pid else None
