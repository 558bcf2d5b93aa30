"""The session's records: `session.json`, and structured log events for `session.jsonl` and the caller.

A rank of several, which a launcher started, has `session-rank<R>.json` and `session-rank<R>.jsonl` of its own.
"""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from collections import deque
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from .doorbell import Pulse

_REPEAT_S = 10.0
"""Repeated trouble of one kind is logged once in this time, with its count."""
_VERSIONED = ("stepreel", "av", "numpy", "gymnasium", "newton", "warp-lang", "mujoco")


class SessionLog:
    """Structured events with constant names; belongs to the event loop's thread.

    An event goes to the caller's structlog configuration at once, and as a line of JSON to `session.jsonl` with
    the next `write_lines`, which does the I/O and may be called on another thread.

    Args:
        folder: Output folder.
        stem: What the session's files are called.
    """

    def __init__(self, folder: Path, stem: str = "session") -> None:
        import structlog  # Takes a third of the time that importing stepreel may take.

        self.stem = stem
        self._path = folder / f"{stem}.jsonl"
        self._events: deque[dict[str, Any]] = deque()
        self.appended = Pulse()
        """Beats when `write_lines` has something to write."""
        self._trouble: dict[tuple[str, str], tuple[float, int]] = {}
        self._callers = structlog.get_logger("stepreel")

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

    @property
    def has_lines(self) -> bool:
        """Whether `write_lines` has anything to write."""
        return bool(self._events)

    def write_lines(self) -> None:
        """Append what was logged to `session.jsonl`.

        Raises:
            OSError: the lines can't be written; they are lost.
        """
        events = [self._events.popleft() for _ in range(len(self._events))]
        lines = [json.dumps(event, default=str) for event in events]
        if lines:
            with self._path.open("ab+") as file:
                # After an error half a line may be there: what follows begins a new one.
                end = file.seek(0, os.SEEK_END)
                is_torn = end > 0 and (file.seek(end - 1), file.read(1))[1] != b"\n"
                file.write(b"\n" * is_torn + "\n".join(lines).encode() + b"\n")

    def _log(self, level: str, event: str, facts: Mapping[str, Any]) -> None:
        self._append(level, event, facts)
        try:
            getattr(self._callers, level)(event, **facts)
        except Exception as exc:  # noqa: BLE001 - a caller's log processor must not end the recording.
            self._append_warning("log.failed", log_event=event, error=repr(exc))

    def _append_warning(self, event: str, **facts: Any) -> None:
        self._append("warning", event, facts)

    def _append(self, level: str, event: str, facts: Mapping[str, Any]) -> None:
        moment = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
        self._events.append({**facts, "event": event, "level": level, "timestamp": moment})
        self.appended.beat()


def launched_rank() -> int | None:
    """Return the number among several ranks that a launcher such as torchrun started, or None where there is one."""
    rank, world_size = os.environ.get("RANK", ""), os.environ.get("WORLD_SIZE", "")
    is_one_of_several = rank.isdecimal() and world_size.isdecimal() and int(world_size) > 1
    return int(rank) if is_one_of_several else None


def write_session(path: Path, facts: Mapping[str, Any]) -> None:
    """Replace `session.json` by `facts` and a description of the machine. Blocks, on files and subprocesses.

    Raises:
        OSError: the file can't be written.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        text = json.dumps({**facts, "host": _describe_host()}, indent=1, default=str)
        part.write_text(text + "\n", encoding="utf-8")
        part.replace(path)
    except OSError:
        part.unlink(missing_ok=True)
        raise


def _describe_host() -> dict[str, Any]:
    return {
        "name": platform.node(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "cpu_count": os.cpu_count(),
        "pid": os.getpid(),
        "program": os.path.basename(sys.argv[0]) if sys.argv else "",
        "versions": {name: found for name in _VERSIONED if (found := _version(name))},
    }


def now_iso() -> str:
    """Return the time of day, UTC."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _version(name: str) -> str | None:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(name)
    except PackageNotFoundError:
        return None
