"""What a service that died has left besides its state: workers that still end, and segments that nobody reported."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

from ..storage.files import PART_SUFFIX
from ..transport.shared_memory import MOST_WORKERS, ServiceWord, SharedMemory
from .accounting import ClipProgress

_PATIENCE_S = 3.0
"""A worker that lost its service closes its segments first."""
_LOOK_S = 0.02


def wait_for_workers(memory: SharedMemory) -> None:
    """Return once the workers of the service before are gone; those that take too long are ended. Blocks."""
    words = memory.service
    pids = [pid for place in range(MOST_WORKERS) if (pid := words[ServiceWord.WORKERS + place])]
    deadline = time.monotonic() + _PATIENCE_S
    while (alive := [pid for pid in pids if _is_worker(pid)]) and time.monotonic() < deadline:
        time.sleep(_LOOK_S)
    for pid in alive:
        with suppress(OSError):
            os.kill(pid, signal.SIGKILL)
    while any(_is_worker(pid) for pid in alive):
        time.sleep(_LOOK_S)


def unlisted_parts(progress: ClipProgress, entries: Collection[str]) -> list[str]:
    """Return the segments of a clip that its state does not know as closed, in order, by their names while open.

    Args:
        progress: What the state knows of the clip.
        entries: Names in the output folder.
    """
    known = {segment.file for segment in progress.segments}
    pattern = re.compile(re.escape(progress.name) + r"(?:\.(\d{3,9}))?\.mp4(\.part)?", re.ASCII)
    parts: dict[int, str] = {}
    for entry in entries:
        match = pattern.fullmatch(entry)
        if match and entry not in known:
            number = int(match[1] or 0)
            parts[number] = f"{progress.name}.{number:03d}.mp4{PART_SUFFIX}"
    return [part for _, part in sorted(parts.items())]


def _is_worker(pid: int) -> bool:
    try:
        return b"stepreel.encoders.worker" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False
