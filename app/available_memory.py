"""How much memory this process may still take: of what the machine has, within limits on its group and on itself."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_UNLIMITED_NBYTES = 2**60
"""Control groups of version 1 tell of no limit by a number near the largest there is."""
_PAGE_NBYTES = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True, kw_only=True)
class AvailableMemory:
    """What may still be taken [bytes], and what bounds it."""

    nbytes: int
    bound_by: str
    """"machine", "cgroup" or "RLIMIT_AS"."""


def available_memory(root: Path = Path("/")) -> AvailableMemory:
    """Return what this process may still take, page cache that the kernel can drop counted as available.

    Reads `MemAvailable` of /proc/meminfo, see proc(5); `memory.max`, `memory.high` and `memory.current` of the control
    group (version 2) or `memory.limit_in_bytes` and `memory.usage_in_bytes` (version 1), and of those above it; and
    `RLIMIT_AS`. What can't be read bounds nothing.

    Args:
        root: Where /proc and /sys lie.
    """
    bounds = [
        AvailableMemory(nbytes=nbytes, bound_by=name)
        for name, nbytes in (
            ("machine", _of_machine(root)),
            ("cgroup", _of_groups(root)),
            ("RLIMIT_AS", _of_address_space(root)),
        )
        if nbytes is not None
    ]
    return min(bounds, key=lambda bound: bound.nbytes, default=AvailableMemory(nbytes=0, bound_by="machine"))


def _of_machine(root: Path) -> int | None:
    kilobytes = _numbers(root / "proc/meminfo").get("MemAvailable:")
    return None if kilobytes is None else kilobytes * 1024


def _of_groups(root: Path) -> int | None:
    """Return the least that the control groups of this process have left; a group's limit holds for those below."""
    found = []
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            found += [_left_of_v2(folder) for folder in _upwards(root / "sys/fs/cgroup", path)]
        elif "memory" in controllers.split(","):
            found += [_left_of_v1(folder) for folder in _upwards(root / "sys/fs/cgroup/memory", path)]
    return min((left for left in found if left is not None), default=None)


def _upwards(mount: Path, path: str) -> Iterator[Path]:
    """Yield a group's folder and those above it; inside of a container the path may not be there, but its top is."""
    folder = mount / path.lstrip("/")
    while folder != mount and mount in folder.parents:
        yield folder
        folder = folder.parent
    yield mount


def _left_of_v2(folder: Path) -> int | None:
    limits = [limit for name in ("memory.max", "memory.high") if (limit := _number(folder / name)) is not None]
    used = _number(folder / "memory.current")
    if not limits or used is None:
        return None
    return max(min(limits) - used + _numbers(folder / "memory.stat").get("inactive_file", 0), 0)


def _left_of_v1(folder: Path) -> int | None:
    limit, used = _number(folder / "memory.limit_in_bytes"), _number(folder / "memory.usage_in_bytes")
    if limit is None or limit >= _UNLIMITED_NBYTES or used is None:
        return None
    return max(limit - used + _numbers(folder / "memory.stat").get("total_inactive_file", 0), 0)


def _of_address_space(root: Path) -> int | None:
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit == resource.RLIM_INFINITY:
        return None
    try:
        pages = int((root / "proc/self/statm").read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return limit
    return max(limit - pages * _PAGE_NBYTES, 0)


def _number(path: Path) -> int | None:
    """Return the number in a file; None where there is none, as in a `memory.max` of "max"."""
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None


def _numbers(path: Path) -> dict[str, int]:
    """Return the numbers of a file that has a name and a number in each line, whatever follows."""
    try:
        lines = [line.split() for line in path.read_text().splitlines()]
    except OSError:
        return {}
    return {line[0]: int(line[1]) for line in lines if len(line) > 1 and line[1].isdecimal()}
