"""What a recorder tells of itself: statistics at any time, a summary at the end."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from .clip import Clip, FrameCounts
from .notebook import clips_to_html

_SAMPLE_COUNT = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Percentiles:
    """Of the last few thousand values [s]."""

    count: int = 0
    """Values ever seen."""
    p50_s: float = 0.0
    p99_s: float = 0.0
    longest_s: float = 0.0


class Timings:
    """Collects durations; cheap to add to from one thread, read from any."""

    def __init__(self) -> None:
        self._recent: deque[float] = deque(maxlen=_SAMPLE_COUNT)
        self._count = 0

    def add(self, duration_s: float) -> None:
        """Keep a duration [s]."""
        self._recent.append(duration_s)
        self._count += 1

    def percentiles(self) -> Percentiles:
        """Return them over what is kept."""
        values = np.array(self._recent.copy())
        if not values.size:
            return Percentiles()
        p50, p99 = np.percentile(values, (50, 99))
        return Percentiles(count=self._count, p50_s=float(p50), p99_s=float(p99), longest_s=float(values.max()))


@dataclass(frozen=True, slots=True, kw_only=True)
class Statistics:
    """A recorder at one moment."""

    steps: int
    """Calls of `step` so far."""
    clips_open: int
    """Clips that are being captured, rendered or encoded."""
    clips_closed: int
    clips_discarded: int
    """Clips that `keep` did not want."""
    frames: FrameCounts
    queue_depth: int
    """Captures that wait for a worker."""
    queue_depth_high_water: int
    queue_nbytes: int
    worker_restarts: int
    capture: Percentiles = field(default_factory=Percentiles)
    """Time of a capture on the training thread."""
    render: Percentiles = field(default_factory=Percentiles)
    """Time to draw a snapshot in a worker."""
    encode: Percentiles = field(default_factory=Percentiles)
    """Time to convert and encode a frame in a worker."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """What a recorder has recorded. As a string: a line for each clip, and one for the sum."""

    output_dir: Path
    clips: tuple[Clip, ...]
    frames: FrameCounts
    statistics: Statistics

    def __str__(self) -> str:
        lines = [describe_clip(clip) for clip in self.clips]
        return "\n".join([*lines, self._sum()])

    def _repr_html_(self) -> str:
        return clips_to_html(self.clips, self._sum())

    def _sum(self) -> str:
        clips = "1 clip" if len(self.clips) == 1 else f"{len(self.clips)} clips"
        return f"{clips} in {self.output_dir}: {describe_counts(self.frames)}"


def describe_clip(clip: Clip) -> str:
    """Return a clip as one line of text."""
    duration_s = sum(segment.duration_s for segment in clip.segments)
    files = ", ".join(segment.file for segment in clip.segments) or "no file"
    return f"{clip.name}: {clip.state}, {duration_s:.2f} s, {describe_counts(clip.frames)} ({files})"


def describe_counts(counts: FrameCounts) -> str:
    """Return counts as one line of text."""
    parts = [f"{counts.encoded} of {counts.requested} frames"]
    parts += [f"{count} {cause}" for cause, count in counts.dropped.items()]
    parts += [f"{counts.pending} pending"] if counts.pending else []
    return ", ".join(parts)
