"""What a recorder tells of itself: statistics at any time, a summary at the end."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from pathlib import Path

from .clip import Clip, FrameCounts
from .notebook import clips_to_html
from .transport.journal import CAUSES
from .transport.shared_memory import ServiceWord, SharedMemory

_SAMPLE_COUNT = 4096
_MOST_TRIES = 64


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
        self._percentiles = Percentiles()

    def add(self, duration_s: float) -> None:
        """Keep a duration [s]."""
        self._recent.append(duration_s)
        self._count += 1

    def percentiles(self, *, is_fresh: bool = True) -> Percentiles:
        """Return them over what is kept; those of the last call where they need not be fresh."""
        if is_fresh and self._count != self._percentiles.count:
            ordered = sorted(self._recent.copy())
            last = len(ordered) - 1
            self._percentiles = Percentiles(
                count=self._count,
                p50_s=ordered[round(last * 0.5)],
                p99_s=ordered[round(last * 0.99)],
                longest_s=ordered[-1],
            )
        return self._percentiles


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceStatistics:
    """What the service publishes: a block of words, of which the first is odd while the others are being written."""

    requested_seen: int
    """Frames that it has read of in the journal."""
    clips_seen: int
    frames: FrameCounts
    clips_open: int
    clips_closed: int
    clips_discarded: int
    restarts: int
    render: Percentiles
    encode: Percentiles

    def to_words(self) -> list[int]:
        """Return the words that follow the first one."""
        return [
            self.requested_seen,
            self.clips_seen,
            self.clips_open,
            self.clips_closed,
            self.clips_discarded,
            self.restarts,
            self.frames.requested,
            self.frames.encoded,
            *(self.frames.dropped.get(cause, 0) for cause in CAUSES),
            *_percentile_words(self.render),
            *_percentile_words(self.encode),
        ]

    @classmethod
    def read(cls, memory: SharedMemory) -> ServiceStatistics:
        """Return what was published last, all of one moment."""
        words = memory.service
        place = int(ServiceWord.STATISTICS)
        count = 8 + len(CAUSES) + 8
        values: list[int] = [0] * count
        for _ in range(_MOST_TRIES):  # A service that died while it wrote leaves it odd.
            sequence = words[place]
            values = list(words[place + 1 : place + 1 + count])
            if not sequence & 1 and words[place] == sequence:
                break
        seen, clips, opened, closed, discarded, restarts, requested, encoded, *rest = values
        dropped = {cause: number for cause, number in zip(CAUSES, rest, strict=False) if number}
        pending = max(requested - encoded - sum(dropped.values()), 0)
        render, encode = rest[len(CAUSES) : len(CAUSES) + 4], rest[len(CAUSES) + 4 :]
        return cls(
            requested_seen=seen,
            clips_seen=clips,
            frames=FrameCounts(requested=requested, encoded=encoded, dropped=dropped, pending=pending),
            clips_open=opened,
            clips_closed=closed,
            clips_discarded=discarded,
            restarts=restarts,
            render=_to_percentiles(render),
            encode=_to_percentiles(encode),
        )


def _percentile_words(value: Percentiles) -> list[int]:
    return [value.count, *(round(seconds * 1e9) for seconds in (value.p50_s, value.p99_s, value.longest_s))]


def _to_percentiles(words: list[int]) -> Percentiles:
    count, p50, p99, longest = words
    return Percentiles(count=count, p50_s=p50 / 1e9, p99_s=p99 / 1e9, longest_s=longest / 1e9)


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
    queue_limit_nbytes: int
    """Bytes of captures that may wait."""
    memory_nbytes: int
    """Memory that captures have taken up; it grows as they need it, and shrinks some seconds after the last clip."""
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
