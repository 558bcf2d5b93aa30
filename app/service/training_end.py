"""How the training process ended, as far as another process can see."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import anyio

_EXIT_CODE_FIELD = 49
"""Of `/proc/<pid>/stat`, counted after the program's name, see proc(5): as `waitpid` gives it, while nobody has."""
_LOOK_S = 0.2


async def wait_for_end(process: int) -> None:
    """Return once a process has ended, of which this one need not be the parent."""
    try:
        fd = os.pidfd_open(process)
    except (AttributeError, OSError):
        while _is_alive(process):  # noqa: ASYNC110 - another process makes it so.
            await anyio.sleep(_LOOK_S)
        return
    try:
        await anyio.wait_readable(fd)
    finally:
        anyio.notify_closing(fd)
        os.close(fd)


def describe_end(process: int, last_step: int) -> str:
    """Return how a process has ended at a step: "killed at step 1234", unless it is seen that it exited by itself."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        status = int(fields[_EXIT_CODE_FIELD]) if fields[0] in "ZX" else -1
    except (OSError, ValueError, IndexError):
        status = -1  # Its parent has taken note of it already.
    if status >= 0 and os.WIFEXITED(status):
        return f"exited with status {os.WEXITSTATUS(status)} at step {last_step}"
    return f"killed at step {last_step}"


def signal_of(process: int) -> str | None:
    """Return the name of the signal that ended a process, where that can be seen."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        status = int(fields[_EXIT_CODE_FIELD]) if fields[0] in "ZX" else 0
        return signal.Signals(os.WTERMSIG(status)).name if os.WIFSIGNALED(status) else None
    except (OSError, ValueError, IndexError):
        return None


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
