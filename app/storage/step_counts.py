"""How fast a run steps: `session-pace.json`, the step count at moments some time apart.

A rank of several, which a launcher started, has a `session-rank<R>-pace.json` of its own.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from ..errors import OutputError
from .files import open_ordinary

STEP_COUNTS_FILE = "session-pace.json"
SCHEMA = 1
_MOST_NBYTES = 2**20
_MOST = 2**53


@dataclass(frozen=True, slots=True, kw_only=True)
class StepCounts:
    """Moments of a run, in order."""

    started_at: str
    """Time of day, UTC, of second 0."""
    seconds: tuple[float, ...]
    """Since the start [s], ascending."""
    steps: tuple[int, ...]
    """Calls of `step` until each of `seconds`, ascending."""


def step_counts_file(stem: str) -> str:
    """Return the name of the file that belongs to the session whose files are called `stem`."""
    return f"{stem}-pace.json"


def read_step_counts(folder: Path, name: str = STEP_COUNTS_FILE) -> StepCounts | None:
    """Return the step counts of the latest run in a folder, or None where there is none.

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
        raise OutputError(f"{path} is not the step counts of a run: {' '.join(str(exc).split())[:200]}") from exc


def _parse(found: object) -> StepCounts:
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
            return StepCounts(started_at=started_at[:40], seconds=tuple(seconds), steps=tuple(steps))
        case _:
            raise ValueError("it has other fields")


def _checked(sample: object) -> tuple[float, int]:
    match sample:
        case [int() | float() as second, int(step)] if 0 <= second <= _MOST and 0 <= step <= _MOST:
            return float(second), step
        case _:
            raise ValueError("a sample is no [seconds, steps]")
