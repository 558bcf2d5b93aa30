"""The rows besides step times; each has a module that measures it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from . import encoder, memory, opening, start, streams
from .row_settings import RowSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What `python -m peers rows <name>` measures."""

    title: str
    measure: Callable[[RowSettings], dict[str, Any]]
    minutes: float
    """What it is thought to take at full length; only the estimate of how long all takes rests on it."""


ROWS = {
    "encoder": Row(title="encoding alone, against the ffmpeg program", measure=encoder.measure, minutes=2.0),
    "memory": Row(title="memory of the training process", measure=memory.measure, minutes=3.0),
    "start": Row(title="from the start of a program to its first picture", measure=start.measure, minutes=0.5),
    "opening": Row(title="opening a clip, on the training thread", measure=opening.measure, minutes=2.0),
    "streams": Row(title="several streams at once", measure=streams.measure, minutes=2.0),
}
