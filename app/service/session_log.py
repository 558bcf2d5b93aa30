"""The session's records: structured log events, for `session.jsonl` and for the caller, and `session.json`."""

from __future__ import annotations

import json
import os
import platform
import time
from collections import deque
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ..storage.files import open_appending, replace_whole
from ..transport.messages import Logged, sendable
from .waking import Notifier

_REPEAT_S = 10.0
"""Repeated trouble of one kind is logged once in this time, with its count."""
_MOST_LINES = 10_000
"""Lines that wait for a disk that takes none."""
_VERSIONED = ("stepreel", "av", "numpy", "gymnasium", "newton", "warp-lang", "mujoco")


class SessionLog:
    """Structured events with constant names; belongs to the service's event loop.

    An event is handed to training at once, for the caller's own log, and goes as a line of JSON to `session.jsonl`
    with the next `write_lines`, which does the I/O and may be called on another thread.

    Args:
        folder: Output folder.
        stem: What the session's files are called.
        hand_over: Takes each event for the caller.
    """

    def __init__(self, folder: Path, stem: str, hand_over: Callable[[Logged], None]) -> None:
        self.stem = stem
        self.appended = Notifier()
        """Notifies when `write_lines` has something to write."""
        self._path = folder / f"{stem}.jsonl"
        self._hand_over = hand_over
        self._events: deque[dict[str, Any]] = deque(maxlen=_MOST_LINES)
        self._trouble: dict[tuple[str, str], tuple[float, int]] = {}

    def info(self, event: str, **facts: Any) -> None:
        """Log what happened."""
        self._log("info", event, facts)

    def warning(self, event: str, **facts: Any) -> None:
        """Log something that costs frames or information."""
        self._log("warning", event, facts)

    def trouble(self, event: str, *, kind: str, count: int = 1, **facts: Any) -> None:
        """Warn of something that may repeat with every frame; repetitions are counted and logged now and then."""
        last, waiting = self._trouble.get((event, kind), (-_REPEAT_S, 0))
        now = time.monotonic()
        if now - last < _REPEAT_S:
            self._trouble[event, kind] = (last, waiting + count)
            return
        self._trouble[event, kind] = (now, 0)
        self.warning(event, kind=kind, count=waiting + count, **facts)

    def flush_trouble(self) -> None:
        """Log the repetitions that are still waiting."""
        for (event, kind), (last, waiting) in self._trouble.items():
            if waiting:
                self.warning(event, kind=kind, count=waiting)
                self._trouble[event, kind] = (last, 0)

    def append(self, level: str, event: str, facts: Mapping[str, Any]) -> None:
        """Log something for the file only: the caller knows of it."""
        moment = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
        self._events.append({**facts, "event": event, "level": level, "timestamp": moment})
        self.appended.notify()

    @property
    def has_lines(self) -> bool:
        """Whether `write_lines` has anything to write."""
        return bool(self._events)

    def write_lines(self) -> None:
        """Append what was logged to `session.jsonl`, never through a link.

        Raises:
            OSError: the lines can't be written; they are lost.
        """
        events = [self._events.popleft() for _ in range(len(self._events))]
        lines = [json.dumps(event, default=str) for event in events]
        if lines:
            with open_appending(self._path) as file:
                # After an error half a line may be there: what follows begins a new one.
                end = file.seek(0, os.SEEK_END)
                is_torn = end > 0 and (file.seek(end - 1), file.read(1))[1] != b"\n"
                file.write(b"\n" * is_torn + "\n".join(lines).encode() + b"\n")

    def _log(self, level: str, event: str, facts: dict[str, Any]) -> None:
        self.append(level, event, facts)
        self._hand_over(Logged(event=event, level=level, facts=sendable(facts)))


def write_session(path: Path, facts: Mapping[str, Any], *, training_process: int, program: str) -> None:
    """Replace `session.json` by `facts` and a description of the machine. Blocks, on files.

    Raises:
        OSError: the file can't be written.
    """
    host = {
        "name": platform.node(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "cpu_count": os.cpu_count(),
        "pid": training_process,
        "program": program,
        "versions": {name: found for name in _VERSIONED if (found := _version(name))},
    }
    text = json.dumps({**facts, "host": host}, indent=1, default=str)
    replace_whole(path, (text + "\n").encode())


def now_iso() -> str:
    """Return the time of day, UTC."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _version(name: str) -> str | None:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(name)
    except PackageNotFoundError:
        return None
