"""How fast a run steps: `session-pace.json`, the step count at moments some time apart.

A rank of several, which a launcher started, has a `session-rank<R>-pace.json` of its own.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import anyio
import anyio.to_thread

from .errors import OutputError
from .session import SessionLog, now_iso
from .storage.files import open_ordinary

PACE_FILE = "session-pace.json"
SCHEMA = 1
_MOST_SAMPLES = 2048
_INTERVAL_S = 0.25
_WRITE_S = 5.0
_MOST_NBYTES = 2**20
_MOST = 2**53


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """Moments of a run, in order."""

    started_at: str
    """Time of day, UTC, of second 0."""
    seconds: tuple[float, ...]
    """Since the start [s], ascending."""
    steps: tuple[int, ...]
    """Calls of `step` until each of `seconds`, ascending."""


class PaceKeeper:
    """Looks at a step count now and then, and keeps `session-pace.json`. For one task of the event loop.

    Training pays nothing for it: the count is there anyway, and is looked at from the event loop. Of at most 2048
    samples every second one is let go when there is no more room, and from then on half as many are taken.

    Args:
        folder: Output folder.
        count_steps: Returns the number of steps so far.
        log: Hears of a file that can't be written.
    """

    def __init__(self, folder: Path, count_steps: Callable[[], int], log: SessionLog) -> None:
        self._path = folder / pace_file(log.stem)
        self._count_steps = count_steps
        self._log = log
        self._started_at = now_iso()
        self._start_s = time.monotonic()
        self._interval_s = _INTERVAL_S
        # Text already: what a write does with the GIL should not grow with the run.
        self._samples: list[str] = []

    async def run(self) -> None:
        """Take samples until cancelled, and then the last one."""
        written_s = -math.inf
        try:
            while True:
                self._sample()
                if time.monotonic() - written_s >= _WRITE_S:
                    await self._write()
                    written_s = time.monotonic()
                await anyio.sleep(self._interval_s)
        finally:
            self._sample()
            with anyio.CancelScope(shield=True):
                await self._write()

    def _sample(self) -> None:
        if len(self._samples) >= _MOST_SAMPLES:
            del self._samples[1::2]
            self._interval_s *= 2
        self._samples.append(f"[{time.monotonic() - self._start_s:.3f}, {self._count_steps()}]")

    async def _write(self) -> None:
        text = (
            f'{{"schema": {SCHEMA}, "started_at": "{self._started_at}", "interval_s": {self._interval_s}, '
            f'"samples": [{", ".join(self._samples)}]}}\n'
        )
        try:
            await anyio.to_thread.run_sync(_replace, self._path, text)
        except OSError as exc:
            self._log.trouble("pace.not_written", kind=type(exc).__name__, error=str(exc))


def _replace(path: Path, text: str) -> None:
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        draft.write_text(text, encoding="utf-8")
        draft.replace(path)
    except OSError:
        draft.unlink(missing_ok=True)
        raise


def pace_file(stem: str) -> str:
    """Return the name of the file that belongs to the session whose files are called `stem`."""
    return f"{stem}-pace.json"


def read_pace(folder: Path, name: str = PACE_FILE) -> Pace | None:
    """Return the pace of the latest run in a folder, or None where there is none.

    Raises:
        OutputError: the file is damaged, or not stepreel's.
    """
    path = folder / name
    try:
        with open_ordinary(path) as file:
            data = file.read(_MOST_NBYTES + 1)
        if len(data) > _MOST_NBYTES:
            raise ValueError(f"it has more than {_MOST_NBYTES} bytes")
        return _parse(json.loads(data))
    except FileNotFoundError:
        return None
    except OSError as exc:
        raise OutputError(f"{path} can't be read: {exc.strerror or exc}") from exc
    except (ValueError, RecursionError) as exc:
        raise OutputError(f"{path} is not the pace of a run: {' '.join(str(exc).split())[:200]}") from exc


def _parse(found: object) -> Pace:
    match found:
        case {"schema": 1, "started_at": str(started_at), "samples": [*samples]}:
            seconds: list[float] = []
            steps: list[int] = []
            for sample in samples:
                second, step = _checked(sample)
                if seconds and (second < seconds[-1] or step < steps[-1]):
                    raise ValueError("its samples are out of order")
                seconds.append(second)
                steps.append(step)
            return Pace(started_at=started_at[:40], seconds=tuple(seconds), steps=tuple(steps))
        case _:
            raise ValueError("it has other fields")


def _checked(sample: object) -> tuple[float, int]:
    match sample:
        case [int() | float() as second, int(step)] if 0 <= second <= _MOST and 0 <= step <= _MOST:
            return float(second), step
        case _:
            raise ValueError("a sample is no [seconds, steps]")
