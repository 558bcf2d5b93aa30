"""What is to be done for one clip that was not closed properly: decided from its manifest and its files."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path

import av

from ..clip import Clip, ClipState, DropCause, FrameCounts, Ranges, Segment, SnapshotFile, steps_in, to_ranges
from .files import PART_SUFFIX
from .manifest import MAX_STEPS
from .remux import Tally, measure
from .segment_reader import ends_before_first_frame
from .snapshot_format import SnapshotsAbout

_REFUND_ORDER = (
    DropCause.NOT_RENDERED,
    DropCause.DISK_FULL,
    DropCause.ENCODE_FAILED,
    DropCause.WORKER_LOST,
    DropCause.CLOSED,
    *DropCause,
)
"""Causes under which frames may be counted that are in a file after all, likeliest first."""


class UnrepairableError(Exception):
    """Why a clip is left as it is; one line."""


@dataclass(frozen=True, kw_only=True)
class _Found:
    """What a file really holds, a frame at least."""

    segment: Segment
    """As it is to be listed; an open one without its final name."""
    tally: Tally

    @property
    def file(self) -> str:
        return self.segment.file

    @property
    def is_part(self) -> bool:
        return self.file.endswith(PART_SUFFIX)

    @property
    def numbered_name(self) -> str:
        return self.file.removesuffix(PART_SUFFIX)

    @property
    def plain_name(self) -> str | None:
        """The name that the segment gets where it is the only one of its clip; None where it was not the first."""
        plain = f"{self.tally.label.clip}.mp4"
        return plain if self.numbered_name in (plain, f"{self.tally.label.clip}.000.mp4") else None

    @cached_property
    def steps(self) -> frozenset[int]:
        return frozenset(self.tally.steps)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is to be done for one name."""

    clip: Clip | None
    """As its manifest is to say; None where there is nothing of a clip."""
    to_close: Mapping[str, str]
    """Names of open segments, and the names that they get."""
    to_remove: tuple[str, ...]
    actions: tuple[str, ...]


class ClipReview:
    """Looks at the files of one name, and decides what is to be done."""

    def __init__(self, folder: Path, name: str, manifest: Clip | None) -> None:
        self._folder = folder
        self._name = name
        self._manifest = manifest
        self._listed = {segment.file: segment for segment in manifest.segments} if manifest else {}
        self._actions: list[str] = []
        self._to_close: dict[str, str] = {}
        self._to_remove: list[str] = []
        self._kept: list[str] = []
        """Open segments that stay as they are."""
        self.problems: list[str] = []
        """Why files stay as they are."""

    def plan(self, files: Iterable[str]) -> Plan:
        """Decide. Raises `UnrepairableError` where the whole clip has to stay as it is."""
        found = [one for file in sorted({*files, *self._listed}) if (one := self._read(file))]
        found.sort(key=lambda one: one.tally.steps[0])
        before = self._manifest or (self._from_label(found[0].tally) if found else None)
        clip = self._repaired(before, found) if before else None
        return Plan(clip=clip, to_close=self._to_close, to_remove=tuple(self._to_remove), actions=tuple(self._actions))

    def _read(self, file: str) -> _Found | None:
        path = self._folder / file
        try:
            tally = measure(path)
            if tally and tally.steps:
                _check_tally(tally, self._name)
                segment = tally.to_segment(file, os.lstat(path).st_size)
                return _Found(segment=segment, tally=tally) if segment else None
            if file.endswith(PART_SUFFIX) and ends_before_first_frame(path):
                self._to_remove.append(file)
                self._actions.append(f"{file} ended before its first frame: removed")
                return None
            problem = "it holds no frame that can be played"
        except (av.FFmpegError, OSError, ValueError) as exc:
            problem = getattr(exc, "strerror", None) or " ".join(str(exc).split())
        self._leave(file, f"{path} can't be repaired: {problem}")
        return None

    def _leave(self, file: str, problem: str) -> None:
        """Keep a file as it is, and with it the clip, where its manifest counts on that file."""
        if file in self._listed:
            raise UnrepairableError(f"{problem}; its manifest lists it, and is left as it is")
        self.problems.append(problem)
        if file.endswith(PART_SUFFIX):
            self._kept.append(file)

    def _from_label(self, tally: Tally) -> Clip:
        """Return what a segment tells of a clip that has no manifest."""
        label = tally.label
        self._actions.append("there was no manifest: made from the segments")
        return Clip(
            name=self._name,
            stream="",
            backend="",
            state=ClipState.RECORDING,
            start_step=label.start_step,
            end_step=None,
            frame_stride=label.frame_stride,
            fps=float(label.fps),
            width=None,
            height=None,
            codec=None,
            frames=FrameCounts(),
            missing_steps=(),
            segments=(),
        )

    def _repaired(self, before: Clip, found: list[_Found]) -> Clip:
        closed = self._closed(before, [one for one in found if not one.is_part])
        parts = self._parts(before, closed, [one for one in found if one.is_part])
        self._name_parts(parts, is_alone=len(closed) + len(parts) + len(self._kept) == 1)
        whole = sorted(closed + [one for one in parts if one.file in self._to_close], key=lambda one: min(one.steps))
        shown = [step for one in whole for step in one.tally.steps]
        clip = _settled(before, shown)
        state = self._state(before, clip)
        self._say_what_changed(before, clip, state)
        first = whole[0].tally if whole else None
        return replace(
            clip,
            state=state,
            ended=_how_it_ended(before, shown),
            width=clip.width or (first.size[0] if first else None),
            height=clip.height or (first.size[1] if first else None),
            codec=clip.codec or (first.codec if first else None),
            segments=tuple(self._as_listed(one) for one in whole),
            open_segment=self._kept[-1] if self._kept else None,
        )

    def _closed(self, before: Clip, found: list[_Found]) -> list[_Found]:
        """Return the closed segments that belong to the clip, those that the manifest lacks among them."""
        accepted: list[_Found] = []
        for one in sorted(found, key=lambda one: one.file not in self._listed):
            problem = _misfit(before, one, accepted)
            if problem:
                self._leave(one.file, f"{self._folder / one.file} is not of this clip: {problem}")
                continue
            accepted.append(one)
            if one.file not in self._listed:
                self._actions.append(f"{one.file} was not listed: {_frames(one)}")
        return accepted

    def _parts(self, before: Clip, closed: list[_Found], found: list[_Found]) -> list[_Found]:
        """Return the open segments to be closed; one that was repaired before, and only not taken away, is none."""
        accepted: list[_Found] = []
        for one in found:
            twin = next((other for other in closed if other.file in (one.numbered_name, one.plain_name)), None)
            if twin and one.tally.label == twin.tally.label and one.steps <= twin.steps:
                self._to_remove.append(one.file)
                self._actions.append(f"{one.file} was closed as {twin.file} before: removed")
            elif problem := _misfit(before, one, [*closed, *accepted]):
                self._leave(one.file, f"{self._folder / one.file} can't be closed: {problem}")
            else:
                accepted.append(one)
        return accepted

    def _name_parts(self, parts: Iterable[_Found], *, is_alone: bool) -> None:
        for one in parts:
            final = (one.plain_name if is_alone else None) or one.numbered_name
            if os.path.lexists(self._folder / final):
                self._leave(one.file, f"{self._folder / one.file} can't be closed: {final} is there; move it away")
                continue
            self._to_close[one.file] = final
            self._actions.append(f"{one.file} closed as {final}: {_frames(one)}")

    def _as_listed(self, one: _Found) -> Segment:
        listed = self._listed.get(one.file)
        real = one.segment
        if listed and (listed.first_step, listed.last_step, listed.frames) == (
            real.first_step,
            real.last_step,
            real.frames,
        ):
            return listed
        return replace(real, file=self._to_close.get(one.file, one.file))

    def _say_what_changed(self, before: Clip, clip: Clip, state: ClipState) -> None:
        newly_lost = clip.frames.dropped_total - before.frames.dropped_total
        if newly_lost > 0:
            self._actions.append(f"frames found in no file: {newly_lost}")
        if before.state is ClipState.RECORDING and clip.end_step is None:
            self._actions.append("its process died before its end: whether frames were waiting then is not known")
        if state is not before.state:
            self._actions.append(f"state: {before.state} -> {state}")

    def _state(self, before: Clip, clip: Clip) -> ClipState:
        if not clip.frames.encoded:
            return before.state if before.state is not ClipState.RECORDING else ClipState.FAILED
        is_cut_short = before.state is ClipState.RECORDING and clip.end_step is None
        if self._to_close or is_cut_short or before.state is ClipState.RECOVERED:
            return ClipState.RECOVERED
        return ClipState.INCOMPLETE if clip.frames.dropped_total else ClipState.COMPLETE


def _frames(one: _Found) -> str:
    return f"steps {one.segment.first_step} to {one.segment.last_step}, frames: {one.segment.frames}"


def _check_tally(tally: Tally, name: str) -> None:
    """Check that a file shows a clip's steps in order. Raises `ValueError`."""
    if tally.label.clip != name:
        raise ValueError(f"it belongs to {tally.label.clip}")
    if any(after <= before for before, after in pairwise(tally.steps)):
        raise ValueError("it shows steps twice or out of order")


def _misfit(clip: Clip, one: _Found, others: Iterable[_Found]) -> str | None:
    """Return why a segment has no place in a clip, else None."""
    first, last = one.segment.first_step, one.segment.last_step
    if one.tally.label.frame_stride != clip.frame_stride or (first - clip.start_step) % clip.frame_stride:
        return "its steps are not the clip's"
    if first < clip.start_step or (clip.end_step is not None and last > clip.end_step):
        return "its steps lie outside of the clip"
    other = next(
        (other for other in others if first <= other.segment.last_step and other.segment.first_step <= last), None
    )
    return f"its steps are those of {other.file}" if other else None


def _settled(before: Clip, shown: list[int]) -> Clip:
    """Return a clip of which exactly the steps `shown` are in files, ascending, with counts that add up.

    What a clip left open asked for is not known: up to its last step that is, every one is taken to have been.
    """
    stride, start = before.frame_stride, before.start_step
    check_size(before, shown)
    missing = steps_in(before.missing_steps, stride)
    lost = missing.difference(shown)
    if before.state is ClipState.RECORDING:
        last = max([start - stride, *shown[-1:], *missing]) if before.end_step is None else before.end_step
        lost.update(set(range(start, last + 1, stride)).difference(shown))
        unplaced = max(0, before.frames.dropped_total - len(missing))
        dropped_count = len(lost) + unplaced
    else:
        dropped_count = max(before.frames.requested - len(shown), len(lost))
    frames = FrameCounts(
        requested=len(shown) + dropped_count,
        encoded=len(shown),
        dropped=rebooked(before.frames.dropped, dropped_count),
    )
    return with_missing(before, frames, lost)


def clip_of_snapshots(about: SnapshotsAbout) -> Clip:
    """Return what a file of snapshots tells of a clip that has no manifest yet."""
    return Clip(
        name=about.clip,
        stream="",
        backend=about.kind,
        state=ClipState.RECORDING,
        start_step=about.start_step,
        end_step=None,
        frame_stride=about.frame_stride,
        fps=float(about.fps),
        width=None,
        height=None,
        codec=None,
        frames=FrameCounts(),
        missing_steps=(),
        segments=(),
    )


def with_snapshots(clip: Clip, snapshots: SnapshotFile, kept: Sequence[int]) -> Clip:
    """Return a clip that was repaired with its snapshots listed, of the steps `kept`, and counts that add up.

    Raises:
        UnrepairableError: they are not its snapshots.
    """
    stride = clip.frame_stride
    check_size(clip)
    if any(step < clip.start_step or (step - clip.start_step) % stride for step in kept):
        raise UnrepairableError(f"{snapshots.file} can't be listed: its steps are not those of {clip.name}")
    missing = steps_in(clip.missing_steps, stride)
    shown = {step for one in clip.segments for step in range(one.first_step, one.last_step + 1, stride)}
    unknown = set(kept) - missing - shown
    dropped = {**clip.frames.dropped}
    if unknown:
        dropped[DropCause.NOT_RENDERED] = dropped.get(DropCause.NOT_RENDERED, 0) + len(unknown)
    frames = replace(clip.frames, requested=clip.frames.requested + len(unknown), dropped=dropped)
    return replace(
        with_missing(clip, frames, missing | unknown, newly=DropCause.NOT_RENDERED),
        snapshots=snapshots,
        state=clip.state if clip.frames.encoded else ClipState.UNRENDERED,
        ended=_how_it_ended(clip, [*kept, *shown]),
    )


def _how_it_ended(clip: Clip, steps: Iterable[int]) -> str | None:
    """Return how the run ended that left the clip open, of which `steps` are known of."""
    last = max(steps, default=None)
    if clip.end_step is not None or last is None or not (clip.ended or "killed").startswith("killed"):
        return clip.ended
    return f"killed after step {last}"


def with_missing(
    before: Clip, frames: FrameCounts, missing: set[int], *, newly: DropCause = DropCause.WORKER_LOST
) -> Clip:
    """Return a clip that lacks exactly these steps: for the reasons known before, or else for `newly`.

    Where that does not agree with the counts by cause, it is not known of each step why.
    """
    stride = before.frame_stride
    steps = {cause: steps_in(spans, stride) & missing for cause, spans in before.missing_by_cause.items()}
    steps[newly] = steps.get(newly, set()) | missing.difference(*steps.values())
    by_cause: dict[DropCause, Ranges] = {}
    if {cause: len(found) for cause, found in steps.items() if found} == frames.dropped:
        by_cause = {cause: to_ranges(found, stride) for cause, found in steps.items() if found}
    return replace(before, frames=frames, missing_steps=to_ranges(missing, stride), missing_by_cause=by_cause)


def check_size(clip: Clip, shown: Sequence[int] = ()) -> None:
    """Check that a clip of which the steps `shown` are in files, ascending, is no larger than one can be.

    Raises:
        UnrepairableError: it is.
    """
    ends = [*shown[-1:], *(last for _, last in clip.missing_steps)]
    last = max(ends, default=clip.start_step) if clip.end_step is None else clip.end_step
    by_cause = [span for spans in clip.missing_by_cause.values() for span in spans]
    spans = [(clip.start_step, last), *clip.missing_steps]
    sizes = [sum((last - first) // clip.frame_stride + 1 for first, last in found) for found in (spans, by_cause)]
    if max(sizes) > MAX_STEPS:
        raise UnrepairableError(f"{clip.name}.json can't be repaired: a clip has at most {MAX_STEPS} steps")


def rebooked(dropped: Mapping[DropCause, int], count: int) -> dict[DropCause, int]:
    """Return `dropped` with `count` frames in all: fewer where some are in a file after all."""
    booked = {cause: dropped.get(cause, 0) for cause in _REFUND_ORDER}
    surplus = sum(booked.values()) - count
    booked[DropCause.WORKER_LOST] += max(0, -surplus)
    for cause in _REFUND_ORDER:
        refund = min(booked[cause], max(0, surplus))
        booked[cause] -= refund
        surplus -= refund
    return {cause: number for cause, number in booked.items() if number}
