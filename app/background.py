"""Recording that goes on by itself: which recording services run on this machine, and waiting until they are done."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from .storage.files import open_ordinary
from .storage.folder_lock import is_recorded_into
from .storage.session_files import status_path

_PROC = Path("/proc")
_MODULE = [b"-m", b"stepreel.service"]
_COMMAND_NBYTES = 65536
_STATUS_NBYTES = 4096
_START_FIELD = 19
"""Of `/proc/<pid>/stat`, counted after the program's name, see proc(5): clock ticks after the system's start."""
_LOOK_S = 0.2
_SETTLED_S = 1.0
"""How long nobody may be seen before a recording counts as over: a service that dies is replaced in less."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningService:
    """A recording service: the process that draws and encodes what one training process captures."""

    pid: int
    folder: Path
    """Where it records."""
    started_at: datetime
    is_training: bool
    """Whether the process that it records for still runs."""
    frames_left: int | None = None
    """Frames that are neither encoded nor dropped; None while the recorder is open, and where nobody says."""
    clips_left: int | None = None


def running_services() -> list[RunningService]:
    """Return the services on this machine whose processes may be looked at, in the order in which they were started."""
    found = {service.pid: service for entry in _PROC.iterdir() if entry.name.isdecimal() for service in _look_at(entry)}
    # A worker that is being started is a copy of its service until it is another program.
    services = [service for pid, service in found.items() if _parent_of(pid) not in found]
    return sorted((_with_status(service) for service in services), key=lambda service: service.started_at)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recording:
    """Who records into a folder now."""

    is_recorded: bool
    services: tuple[RunningService, ...] = ()
    """None, where the recorder is embedded in training, or on another machine."""

    @property
    def frames_left(self) -> int | None:
        """Frames that its services have left, as far as they say; None where none of them does."""
        told = [service.frames_left for service in self.services if service.frames_left is not None]
        return sum(told) if told else None


def recording_into(folder: Path) -> Recording:
    """Look who records into a folder, or repairs it. Blocks for some milliseconds; writes nothing."""
    # In this order: a service has the lock before training lets go of it, and exists until it has let go itself.
    is_locked = is_recorded_into(folder)
    services = tuple(service for service in running_services() if _is_same(service.folder, folder))
    return Recording(is_recorded=is_locked or bool(services), services=services)


def wait_until_finished(
    folder: Path, *, timeout_s: float | None = None, watch: Callable[[Recording], object] | None = None
) -> bool:
    """Wait until nobody records into a folder, at most `timeout_s`. Blocks.

    Args:
        folder: Need not be there any more.
        timeout_s: None: as long as it takes; 0: one look.
        watch: Called with what is seen, some times a second.

    Returns:
        False where somebody still recorded when the time was over.
    """
    deadline = math.inf if timeout_s is None else time.monotonic() + timeout_s
    last_seen_s = -math.inf
    while True:
        recording = recording_into(folder)
        now = time.monotonic()
        if recording.is_recorded:
            last_seen_s = now
            if watch:
                watch(recording)
            if now >= deadline:
                return False
        elif now - last_seen_s >= _SETTLED_S:
            return True
        time.sleep(_LOOK_S)


def _look_at(process: Path) -> Iterator[RunningService]:
    """Yield the service that a process is, if it is one; processes come and go meanwhile."""
    with suppress(OSError, ValueError, IndexError):
        with (process / "cmdline").open("rb") as file:
            arguments = file.read(_COMMAND_NBYTES).split(b"\0")
        place = arguments.index(_MODULE[0])
        options = dict(argument.split(b"=", 1) for argument in arguments[place + 2 :] if b"=" in argument)
        if arguments[place : place + 2] != _MODULE or b"--folder" not in options:
            return
        yield RunningService(
            pid=int(process.name),
            folder=Path(os.fsdecode(options[b"--folder"])),
            started_at=_started_at(process),
            is_training=int(options.get(b"--training", b"0")) == _parent_of(int(process.name)),
        )


def _with_status(service: RunningService) -> RunningService:
    """Add what a service writes beside its clips while it finishes them."""
    try:
        with open_ordinary(status_path(service.folder, service.pid)) as file:
            status = json.loads(file.read(_STATUS_NBYTES))
    except (OSError, ValueError, RecursionError):
        return service
    told = status if isinstance(status, dict) else {}
    return replace(service, frames_left=_count(told.get("frames_left")), clips_left=_count(told.get("clips_left")))


def _count(value: Any) -> int | None:
    return value if type(value) is int and value >= 0 else None


def _parent_of(process: int) -> int:
    """Return a process's parent: whoever started it, and somebody else once that has ended; 0: it is gone."""
    try:
        return int(_stat(_PROC / str(process))[1])
    except (OSError, ValueError, IndexError):
        return 0


def _started_at(process: Path) -> datetime:
    uptime_s = time.clock_gettime(time.CLOCK_BOOTTIME)
    age_s = uptime_s - int(_stat(process)[_START_FIELD]) / os.sysconf("SC_CLK_TCK")
    return datetime.fromtimestamp(time.time() - age_s, UTC)


def _stat(process: Path) -> list[str]:
    return (process / "stat").read_text(errors="replace").rpartition(")")[2].split()


def _is_same(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:
        return os.path.realpath(one) == os.path.realpath(other)
