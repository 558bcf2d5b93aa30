"""Accounting: what was asked for, clip by clip, and what became of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import msgspec

from ..clip import Clip, ClipState, DropCause, FrameCounts, Ranges, Segment, SnapshotFile

KEPT_CAUSES = (DropCause.NOT_RENDERED, DropCause.RENDER_FAILED, DropCause.WORKER_LOST, DropCause.CLOSED)
"""What keeps a snapshot from being drawn that can be drawn elsewhere, or another day."""


class Steps(msgspec.Struct):
    """Steps in the order in which they were added, as ranges of neighbours: memory grows with gaps, not with length."""

    stride: int
    ends: list[int] = []
    """First and last step of each range, one after the other."""
    count: int = 0

    def add(self, step: int) -> None:
        """Add one step."""
        self.count += 1
        if self.ends and step - self.ends[-1] == self.stride:
            self.ends[-1] = step
        else:
            self.ends += (step, step)

    def add_range(self, first: int, last: int) -> None:
        """Add all steps from `first` to `last`."""
        self.count += (last - first) // self.stride + 1
        if self.ends and first - self.ends[-1] == self.stride:
            self.ends[-1] = last
        else:
            self.ends += (first, last)

    def add_all(self, steps: Steps) -> None:
        """Add those of another."""
        self.count += steps.count
        self.ends += steps.ends

    def take_first(self, count: int) -> None:
        """Forget the steps that were added first."""
        self.count -= min(count, self.count)
        whole = 0
        while count and whole < len(self.ends):
            first, last = self.ends[whole : whole + 2]
            length = (last - first) // self.stride + 1
            if length > count:
                self.ends[whole] = first + count * self.stride
                break
            count -= length
            whole += 2
        del self.ends[:whole]

    def spans(self) -> Iterator[tuple[int, int]]:
        """Yield first and last step of each range, in the order of adding."""
        return zip(self.ends[::2], self.ends[1::2], strict=True)

    def ranges(self) -> Ranges:
        """Return inclusive ranges of neighbours, ascending."""
        found: list[tuple[int, int]] = []
        for first, last in sorted(self.spans()):
            if found and first - found[-1][1] == self.stride:
                found[-1] = (found[-1][0], last)
            else:
                found.append((first, last))
        return tuple(found)


class ClipProgress(msgspec.Struct, kw_only=True, tag="clip"):
    """How far one clip is.

    A frame is pending from its request until it is dropped or reported encoded. Frames of the open segment count
    as encoded, and are counted as dropped after all where a lost worker took them along. Reports of frames that are
    not pending change nothing.
    """

    index: int
    name: str
    stream: str
    backend: str
    start_step: int
    frame_stride: int
    fps: float
    is_named: bool = False
    """A file name was reserved for it."""
    end_step: int | None = None
    ended: str | None = None
    """How the run ended, where it ended before the clip did."""
    width: int | None = None
    height: int | None = None
    codec: str | None = None
    open_segment: str | None = None
    segments_opened: int = 0
    segments: list[Segment] = []
    snapshots: SnapshotFile | None = None
    pending_steps: set[int] = set()
    encoded: int = 0
    dropped: dict[DropCause, int] = {}
    missing: dict[DropCause, Steps] = {}
    open_steps: Steps | None = None
    has_salvage: bool = False
    """A segment was repaired."""
    has_failed: bool = False
    """It could not go on, whatever it holds by now."""

    @property
    def counts(self) -> FrameCounts:
        """What was requested, and became of it."""
        dropped = {cause: count for cause, count in self.dropped.items() if count}
        pending = len(self.pending_steps)
        requested = self.encoded + sum(dropped.values()) + pending
        return FrameCounts(requested=requested, encoded=self.encoded, dropped=dropped, pending=pending)

    @property
    def pending(self) -> int:
        """Frames requested and neither dropped nor encoded."""
        return len(self.pending_steps)

    @property
    def open_count(self) -> int:
        """Frames that went into the open segment."""
        return self.open_steps.count if self.open_steps else 0

    @property
    def is_silent(self) -> bool:
        """Whether nobody is to hear of it."""
        return False

    def frame_requested(self, step: int) -> None:
        """Count a request."""
        self.pending_steps.add(step)

    def frame_dropped(self, step: int, cause: DropCause) -> None:
        """Count a requested frame that comes into no segment."""
        if step in self.pending_steps:
            self.pending_steps.remove(step)
            self._count_dropped(cause, 1).add(step)

    def range_dropped(self, first: int, last: int, cause: DropCause) -> None:
        """Count frames as requested and dropped: all from `first` to `last`."""
        self._count_dropped(cause, (last - first) // self.frame_stride + 1).add_range(first, last)

    def frame_encoded(self, step: int) -> None:
        """Count a frame that went into the open segment."""
        if step in self.pending_steps:
            self.pending_steps.remove(step)
            self.encoded += 1
            self._opened().add(step)

    def segment_opened(self, file: str) -> None:
        """Note the segment, named `file`, that frames go into from now on."""
        self.segments_opened += 1
        self.open_segment = file

    def segment_closed(self, segment: Segment) -> None:
        """Note a segment that is whole on disk: it holds the first of the steps that were open."""
        self.segments.append(segment)
        self._opened().take_first(segment.frames)
        self.open_segment = None

    def segment_lost(self, saved: Segment | None, cause: DropCause, *, is_kept: bool = False) -> int:
        """Count the end of an open segment of which at most `saved` is left; return the frames lost.

        `is_kept`: its file is still there, unfinished, and stays in the manifest.
        """
        if not is_kept:
            self.open_segment = None
        if saved:
            self.segments.append(saved)
            self.has_salvage = True
            self._opened().take_first(saved.frames)
        lost, self.open_steps = self._opened(), None
        self.encoded -= lost.count
        if lost.count:
            self._count_dropped(cause, lost.count).add_all(lost)
        return lost.count

    def files_deleted(self) -> None:
        """Count all that was encoded as discarded: its files are gone."""
        self.dropped[DropCause.DISCARDED] = self.dropped.get(DropCause.DISCARDED, 0) + self.encoded
        self.encoded = 0

    def missing_for(self, causes: Iterable[DropCause]) -> list[int]:
        """Return the steps that are missing for one of these causes."""
        steps: list[int] = []
        for cause in causes:
            for first, last in self.missing[cause].spans() if cause in self.missing else ():
                steps += range(first, last + 1, self.frame_stride)
        return steps

    @property
    def final_state(self) -> ClipState:
        """What it is once every requested frame is accounted for."""
        if not self.encoded and self.counts.requested:
            return ClipState.UNRENDERED if self.snapshots else ClipState.FAILED
        if self.has_failed:
            return ClipState.FAILED
        if self.has_salvage:
            return ClipState.RECOVERED
        return ClipState.INCOMPLETE if sum(self.dropped.values()) else ClipState.COMPLETE

    def to_clip(self, folder: Path | None, *, is_final: bool) -> Clip:
        """Return what is known now."""
        by_cause = {cause: steps.ranges() for cause, steps in self.missing.items()}
        return Clip(
            name=self.name,
            stream=self.stream,
            backend=self.backend,
            state=self.final_state if is_final else ClipState.RECORDING,
            start_step=self.start_step,
            end_step=self.end_step,
            frame_stride=self.frame_stride,
            fps=self.fps,
            width=self.width,
            height=self.height,
            codec=self.codec,
            frames=self.counts,
            missing_steps=self._missing_steps(by_cause),
            missing_by_cause=by_cause,
            segments=tuple(self.segments),
            open_segment=self.open_segment,
            snapshots=self.snapshots,
            ended=self.ended,
            folder=folder,
        )

    def _opened(self) -> Steps:
        if self.open_steps is None:
            self.open_steps = Steps(self.frame_stride)
        return self.open_steps

    def _count_dropped(self, cause: DropCause, count: int) -> Steps:
        self.dropped[cause] = self.dropped.get(cause, 0) + count
        return self.missing.setdefault(cause, Steps(self.frame_stride))

    def _missing_steps(self, by_cause: Mapping[DropCause, Ranges]) -> Ranges:
        if len(by_cause) == 1:
            return next(iter(by_cause.values()))
        together = Steps(self.frame_stride)
        for steps in self.missing.values():
            together.add_all(steps)
        return together.ranges()


_MOST_DROPS = 65536


class RingProgress(ClipProgress, kw_only=True, tag="ring"):
    """How far the last seconds that are held are, which go back no further than they may.

    Nobody hears of it before it was saved; then it is the progress of a clip.
    """

    seconds: float = 0.0
    """How much of it is to be written; 0: nothing."""
    is_saved: bool = False
    """Its file was written, or can't be."""
    drops: list[tuple[int, DropCause]] = []

    @property
    def is_silent(self) -> bool:
        """Whether nobody is to hear of it."""
        return not self.is_saved

    def frame_encoded(self, step: int) -> None:
        """Count a frame that is held now."""
        self.pending_steps.discard(step)

    def frame_dropped(self, step: int, cause: DropCause) -> None:
        """Count a frame that is not held."""
        if step in self.pending_steps:
            self.pending_steps.remove(step)
            self._keep_drop(step, cause)

    def range_dropped(self, first: int, last: int, cause: DropCause) -> None:
        """Count frames that are not held."""
        for step in range(first, last + 1, self.frame_stride):
            self._keep_drop(step, cause)

    def saved(self, steps: Sequence[int], *, width: int, height: int, codec: str) -> None:
        """Count what was written: the clip begins with the first of `steps`. No steps: nothing was held."""
        self.is_saved = True
        if not steps:
            self.has_failed = True
            return
        self.width, self.height, self.codec = width, height, codec
        self.start_step = steps[0]
        self.encoded = len(steps)
        for step in steps:
            self._opened().add(step)
        for step, cause in sorted(self.drops):
            if step > steps[0]:
                self._count_dropped(cause, 1).add(step)

    def failed(self) -> None:
        """Note that nothing could be written."""
        self.is_saved = self.has_failed = True

    def _keep_drop(self, step: int, cause: DropCause) -> None:
        if len(self.drops) >= _MOST_DROPS:
            del self.drops[: _MOST_DROPS // 2]
        self.drops.append((step, cause))


class Totals(msgspec.Struct):
    """The sums over all clips that are closed."""

    requested: int = 0
    encoded: int = 0
    dropped: dict[DropCause, int] = {}
    clips_closed: int = 0
    clips_discarded: int = 0

    def add(self, counts: FrameCounts) -> None:
        """Add a clip that was closed."""
        self.requested += counts.requested
        self.encoded += counts.encoded
        for cause, count in counts.dropped.items():
            self.dropped[cause] = self.dropped.get(cause, 0) + count

    def with_open(self, progresses: Iterable[ClipProgress]) -> FrameCounts:
        """Return the sum over these clips, too."""
        return add_counts(
            [
                FrameCounts(requested=self.requested, encoded=self.encoded, dropped=self.dropped),
                *(progress.counts for progress in progresses if not progress.is_silent),
            ]
        )


def add_counts(counts: Iterable[FrameCounts]) -> FrameCounts:
    """Return the sum."""
    requested = encoded = pending = 0
    dropped: Counter[DropCause] = Counter()
    for one in counts:
        requested += one.requested
        encoded += one.encoded
        pending += one.pending
        dropped.update(one.dropped)
    return FrameCounts(requested=requested, encoded=encoded, dropped=dict(dropped), pending=pending)
