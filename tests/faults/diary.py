"""What a training program under test tells the harness, so that it survives whatever kills the program."""

from __future__ import annotations

import errno
import json
import mmap
import os
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_FIELDS = ("steps", "encoded", "dropped", "closed", "complete", "longest_ns", "is_open", "stop")


class Progress:
    """Numbers in a file that both processes map: what one wrote is there for the other, even after SIGKILL."""

    def __init__(self, path: Path) -> None:
        if not path.exists():
            path.write_bytes(bytes(8 * len(_FIELDS)))
        with open(path, "r+b") as file:
            self._numbers = memoryview(mmap.mmap(file.fileno(), 8 * len(_FIELDS))).cast("Q")

    def get(self, name: str) -> int:
        return self._numbers[_FIELDS.index(name)]

    def set(self, name: str, value: int) -> None:
        self._numbers[_FIELDS.index(name)] = value


class StepTimes:
    """When each of the first steps was taken, in a file that both processes map [ns, `time.monotonic_ns`]."""

    MOST = 65536

    def __init__(self, path: Path) -> None:
        if not path.exists():
            path.touch()
            os.truncate(path, 8 * self.MOST)
        with open(path, "r+b") as file:
            self._times = memoryview(mmap.mmap(file.fileno(), 8 * self.MOST)).cast("Q")

    def note(self, step: int) -> None:
        """A step was taken and counted just now."""
        if step < self.MOST:
            self._times[step] = time.monotonic_ns()

    def of(self, step: int) -> int:
        return self._times[step]


class Diary:
    """Events as lines of JSON."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._unwritten = b""

    def tell(self, event: str, **facts: Any) -> None:
        """Write it down; while a limit on the size of files is the fault of the day, later, and keep nobody waiting."""
        line = json.dumps({"event": event, **facts}, default=str).encode() + b"\n"
        with self._lock:
            self._unwritten += line
            fd = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
            try:
                while self._unwritten:
                    self._unwritten = self._unwritten[os.write(fd, self._unwritten) :]
            except OSError as exc:
                if exc.errno != errno.EFBIG:
                    raise
            finally:
                os.close(fd)

    def events(self, event: str) -> list[dict[str, Any]]:
        if not self._path.exists():
            return []
        whole = self._path.read_text().rpartition("\n")[0]
        found = [json.loads(line) for line in whole.splitlines()]
        return [one for one in found if one["event"] == event]


@dataclass(frozen=True, kw_only=True)
class Holdings:
    """What this process holds that a recorder might leave behind."""

    descriptors: frozenset[str]
    threads: frozenset[str]
    task_count: int
    children: frozenset[int]
    memory_files: int

    @classmethod
    def now(cls) -> Holdings:
        tasks = os.listdir("/proc/self/task")
        return cls(
            descriptors=frozenset(_descriptors()),
            threads=frozenset(f"{thread.name} {thread.native_id}" for thread in threading.enumerate()),
            task_count=len(tasks),
            children=frozenset(pid for task in tasks for pid in _children(task)),
            memory_files=Path("/proc/self/maps").read_text().count("memfd:stepreel"),
        )

    def excess(self, before: Holdings) -> list[str]:
        """Return a line for each thing that is held here and was not before."""
        lines = [f"descriptor {one}" for one in sorted(self.descriptors - before.descriptors)]
        lines += [f"thread {one}" for one in sorted(self.threads - before.threads)]
        lines += [f"child {pid}" for pid in sorted(self.children - before.children)]
        if self.memory_files > before.memory_files:
            lines.append(f"{self.memory_files} mappings of a frame pool")
        if self.task_count > before.task_count:
            lines.append(f"{self.task_count} threads of the system, {before.task_count} before")
        return lines


def held_beyond(before: Holdings) -> list[str]:
    """Return what is held now and was not before. The system takes a moment to see a thread off."""
    deadline = time.monotonic() + 1.0
    while (lines := Holdings.now().excess(before)) and time.monotonic() < deadline:
        time.sleep(0.01)
    return lines


def _descriptors() -> list[str]:
    found = []
    for fd in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{fd}")
        except FileNotFoundError:
            continue  # That of the listing itself.
        found.append(f"{fd} {target}")
    return found


def _children(task: str) -> list[int]:
    try:
        return [int(pid) for pid in Path(f"/proc/self/task/{task}/children").read_text().split()]
    except FileNotFoundError:
        return []
