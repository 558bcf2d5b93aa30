"""Clips held against their manifests, by decoding every frame."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

from ..clip import Clip, ClipState, FrameCounts, Segment, SnapshotFile, steps_in
from ..errors import OutputError
from .files import PART_SUFFIX
from .manifest import MAX_STEPS, files_of, is_file_of, read_manifest
from .segment_container import SegmentLabel
from .segment_reader import SegmentReader, open_segment
from .session_files import is_record
from .snapshot_file import SnapshotReader
from .video_colors import FROM_VIDEO_COLORS

MP4_SUFFIXES = (".mp4", ".mp4" + PART_SUFFIX)
_MAX_PIXELS = 2**27
"""A picture with more is refused before there is memory for it."""
_UNREADABLE = (av.FFmpegError, OSError, ValueError, ArithmeticError, MemoryError)
"""What reading a damaged or hostile file may raise."""
_BLACK = 16
"""A frame without a brighter value than this is black to the eye."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspection:
    """What was found in a folder or a clip."""

    clips: tuple[Clip, ...]
    """As their manifests say, or as their files say where there is no manifest."""
    differences: tuple[str, ...]
    """One line for each thing that is not as the manifest says."""
    notes: tuple[str, ...]
    """One line for each thing that is right and yet worth knowing."""


def inspect(path: Path) -> Inspection:
    """Decode a clip (by its manifest or one of its segments), or all clips of a folder.

    Raises:
        OutputError: there is nothing at `path` that could be a clip.
    """
    if path.is_dir():
        return _inspect_folder(path)
    if path.name.endswith(".json"):
        return _inspect_manifest(path)
    if not path.is_file():
        raise OutputError(f"{path} is neither a manifest nor a segment nor a folder")
    with _open(path) as reader:
        label = reader.label
    manifest = path.parent / f"{label.clip}.json"
    if is_file_of(label.clip, path.name) and manifest.is_file():
        return _inspect_manifest(manifest)
    return _inspect_file(path)


def decode_frames(path: Path) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """Decode a segment, open or closed, or every closed segment of a manifest.

    Yields:
        The step shown, and the picture, shape `[height, width, 3]`, uint8, sRGB.

    Raises:
        OutputError: the file is not there, damaged, or does not say which steps it shows.
    """
    if path.name.endswith(".json"):
        for segment in read_manifest(path).segments:
            yield from decode_frames(path.parent / segment.file)
        return
    reformatter = VideoReformatter()
    with open_decodable(path) as reader:
        for pts, frame in timed_frames(reader, path):
            rgb = reformatter.reformat(frame, format="rgb24", **FROM_VIDEO_COLORS).to_ndarray()
            yield reader.label.step(pts), rgb.astype(np.uint8, copy=False)


@contextmanager
def open_decodable(path: Path) -> Iterator[SegmentReader]:
    """Open a segment, closed or open, to decode its pictures.

    Raises:
        OutputError: as `decode_frames` does; also where the file turns out to be damaged inside of the block.
    """
    with _open(path) as reader, _decoding(path):
        reader.stream.codec_context.options = {"max_pixels": str(_MAX_PIXELS)}
        yield reader


@contextmanager
def _open(path: Path) -> Iterator[SegmentReader]:
    with ExitStack() as stack:
        try:
            reader = stack.enter_context(open_segment(path))
        except _UNREADABLE as exc:
            raise OutputError(f"{path} can't be played: {_reason(exc)}") from exc
        if reader is None:
            raise OutputError(f"{path} can't be played: it ends before its first frame, or is no MP4")
        yield reader


@contextmanager
def _decoding(path: Path) -> Iterator[None]:
    try:
        yield
    except _UNREADABLE as exc:
        raise OutputError(f"{path} can't be decoded: {_reason(exc)}") from exc


def timed_frames(reader: SegmentReader, path: Path) -> Iterator[tuple[int, av.VideoFrame]]:
    """Decode from where the file was sought to; yield each frame with its `pts`, in frames."""
    for packet in reader.container.demux(reader.stream):
        # The end of a file that is still growing: decode what came before.
        is_end = packet.is_corrupt and path.name.endswith(PART_SUFFIX)
        for frame in reader.stream.decode(None if is_end else packet):
            yield reader.pts(frame.pts), frame
        if is_end:
            return


def _reason(exc: Exception) -> str:
    return getattr(exc, "strerror", None) or " ".join(str(exc).split())


@dataclass(slots=True, kw_only=True)
class _Decoded:
    """What one file really holds."""

    label: SegmentLabel
    width: int
    height: int
    codec: str
    nbytes: int
    end: Fraction
    """Time at which the last frame ends [s]."""
    steps: list[int] = field(default_factory=list)
    black: list[int] = field(default_factory=list)
    """Steps whose frame is black."""
    unchanged: list[int] = field(default_factory=list)
    """Steps whose frame is the one before."""

    @property
    def end_step(self) -> int:
        """The step at which the next segment goes on."""
        return self.label.step(self.label.pts(self.end))

    def to_segment(self, file: str) -> Segment:
        return Segment(
            file=file,
            first_step=self.steps[0],
            last_step=self.steps[-1],
            frames=len(self.steps),
            nbytes=self.nbytes,
            duration_s=float(self.end),
        )


def _decode(path: Path) -> _Decoded:
    """Decode a file to its end. Raises `OutputError`, also where there is not a single frame."""
    with _open(path) as reader, _decoding(path):
        ends = [(packet.dts or 0) + (packet.duration or 0) for packet in reader.packets()]
        found = _Decoded(
            label=reader.label,
            width=reader.stream.width,
            height=reader.stream.height,
            codec=reader.stream.codec_context.name,
            nbytes=path.stat().st_size,
            end=max(ends, default=0) * reader.time_base,
        )
    previous: NDArray[np.uint8] | None = None
    for step, pixels in decode_frames(path):
        found.steps.append(step)
        if not pixels.max() > _BLACK:
            found.black.append(step)
        if previous is not None and np.array_equal(pixels, previous):
            found.unchanged.append(step)
        previous = pixels
    if not found.steps:
        raise OutputError(f"{path} holds no frame")
    return found


def _inspect_file(path: Path) -> Inspection:
    """Inspect a segment that has no manifest."""
    found = _decode(path)
    label = found.label
    requested = (found.end_step - label.start_step) // label.frame_stride
    is_whole = len(found.steps) == requested and not path.name.endswith(PART_SUFFIX)
    clip = Clip(
        name=label.clip,
        stream="",
        backend="",
        state=ClipState.COMPLETE if is_whole else ClipState.INCOMPLETE,
        start_step=label.start_step,
        end_step=found.end_step - label.frame_stride,
        frame_stride=label.frame_stride,
        fps=float(label.fps),
        width=found.width,
        height=found.height,
        codec=found.codec,
        frames=FrameCounts(requested=len(found.steps), encoded=len(found.steps)),
        missing_steps=(),
        segments=(found.to_segment(path.name),),
    )
    notes = [f"{path.name}: there is no manifest, so nothing to hold it against", *_picture_notes(path.name, found)]
    return Inspection(clips=(clip,), differences=(), notes=tuple(notes))


def _inspect_folder(folder: Path) -> Inspection:
    entries = _list(folder)
    names = [entry.removesuffix(".json") for entry in entries if entry.endswith(".json")]
    parts = [_inspect_manifest(folder / f"{name}.json", entries) for name in names if not is_record(name)]
    orphans = [
        entry
        for entry in entries
        if entry.endswith(MP4_SUFFIXES) and not any(is_file_of(name, entry) for name in names)
    ]
    lines = [line for entry in orphans for line in _orphan_lines(folder / entry)]
    return Inspection(
        clips=tuple(clip for part in parts for clip in part.clips),
        differences=(*(line for part in parts for line in part.differences), *lines),
        notes=tuple(note for part in parts for note in part.notes),
    )


def _list(folder: Path) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except OSError as exc:
        raise OutputError(f"{folder} can't be read: {exc.strerror or exc}") from exc


def _orphan_lines(path: Path) -> list[str]:
    """Return what is wrong with an MP4 without manifest: nothing, where it is not one of ours."""
    try:
        with _open(path) as reader:
            label = reader.label
    except OutputError:
        return []
    return [f"{path.name}: no manifest of {label.clip} lists it"]


def _inspect_manifest(path: Path, entries: list[str] | None = None) -> Inspection:
    folder, name = path.parent, path.name.removesuffix(".json")
    entries = _list(folder) if entries is None else entries
    files = [entry for entry in files_of(folder, name, entries) if entry != path.name]
    try:
        clip = read_manifest(path)
    except OutputError as exc:
        # Without any segment it may be anybody's JSON, or a name just reserved.
        return Inspection(clips=(), differences=(str(exc),) if files else (), notes=() if files else (str(exc),))
    review = _Review(folder, clip)
    review.run(files)
    return Inspection(clips=(clip,), differences=tuple(review.differences), notes=tuple(review.notes))


class _Review:
    """Holds one clip's files against its manifest."""

    def __init__(self, folder: Path, clip: Clip) -> None:
        self._folder = folder
        self._clip = clip
        self.differences: list[str] = []
        self.notes: list[str] = []

    def run(self, files: Iterable[str]) -> None:
        found: list[_Decoded] = []
        for segment in self._clip.segments:
            found += self._segment(segment)
        self._sizes(found)
        self._borders(found)
        self._steps([step for decoded in found for step in decoded.steps])
        self._counts()
        self._open_segment()
        if self._clip.ended:
            self._notes(f"its run did not close it: {self._clip.ended}")
        listed = {segment.file for segment in self._clip.segments} | {self._clip.open_segment}
        if self._clip.snapshots:
            listed.add(self._clip.snapshots.file)
            self._snapshots(self._clip.snapshots)
        for file in sorted(set(files) - listed):
            self._differs(f"{file} is there and not in the manifest")

    def _snapshots(self, snapshots: SnapshotFile) -> None:
        try:
            with SnapshotReader(self._folder / snapshots.file) as reader:
                self._same(f"{snapshots.file}: snapshots", snapshots.frames, len(reader.steps))
        except OutputError as exc:
            self._differs(str(exc))

    def _differs(self, line: str) -> None:
        self.differences.append(f"{self._clip.name}: {line}")

    def _notes(self, line: str) -> None:
        self.notes.append(f"{self._clip.name}: {line}")

    def _same(self, what: str, manifest: object, file: object) -> None:
        if manifest != file:
            self._differs(f"{what}: manifest says {manifest}, found {file}")

    def _segment(self, segment: Segment) -> list[_Decoded]:
        try:
            found = _decode(self._folder / segment.file)
        except OutputError as exc:
            self._differs(str(exc))
            return []
        real = found.to_segment(segment.file)
        label = found.label
        for what in ("frames", "first_step", "last_step", "nbytes"):
            self._same(f"{segment.file} {what}", getattr(segment, what), getattr(real, what))
        if abs(segment.duration_s - real.duration_s) > 0.5 / float(label.fps):
            self._same(f"{segment.file} duration_s", segment.duration_s, real.duration_s)
        self._same(f"{segment.file} clip", self._clip.name, label.clip)
        self._same(f"{segment.file} frame_stride", self._clip.frame_stride, label.frame_stride)
        if abs(self._clip.fps - label.fps) > 0.001 * label.fps:
            self._same(f"{segment.file} fps", self._clip.fps, float(label.fps))
        self.notes += _picture_notes(segment.file, found)
        return [found]

    def _sizes(self, found: list[_Decoded]) -> None:
        stated = (self._clip.width, self._clip.height)
        sizes = list(dict.fromkeys((decoded.width, decoded.height) for decoded in found))
        if sizes and stated not in sizes:
            self._same("size", stated, sizes[0])
        if len(sizes) > 1:
            self._notes("the size changes: " + ", ".join(f"{width}x{height}" for width, height in sizes))

    def _borders(self, found: list[_Decoded]) -> None:
        if len(found) != len(self._clip.segments):
            return  # A segment that can't be decoded was named.
        for before, after in pairwise(found):
            self._border(before.end_step, after.label.start_step, "the next begins")
        # A later segment begins with its own first frame: the ones before it may be lost.
        if found and self._clip.segments[0].file in (f"{self._clip.name}.mp4", f"{self._clip.name}.000.mp4"):
            self._same("start_step of the first segment", self._clip.start_step, found[0].label.start_step)
        if found and self._clip.end_step is not None and self._clip.open_segment is None:
            self._border(found[-1].end_step, self._clip.end_step + self._clip.frame_stride, "the clip ends")

    def _border(self, end_step: int, next_step: int, what: str) -> None:
        line = f"a segment ends before step {end_step}, {what} at {next_step}"
        if end_step > next_step:
            self._differs(line)
        elif end_step < next_step and self._clip.frames.dropped_total:
            self._notes(line)
        elif end_step < next_step:
            self._differs(line)

    def _steps(self, steps: list[int]) -> None:
        clip = self._clip
        if any(after <= before for before, after in pairwise(steps)):
            self._differs("steps are shown twice or out of order")
        spans = [range(first, last + 1, clip.frame_stride) for first, last in clip.missing_steps]
        known = [*steps[-1:], *(last for _, last in clip.missing_steps)]
        last_step = max(known, default=clip.start_step) if clip.end_step is None else clip.end_step
        grid = range(clip.start_step, last_step + 1, clip.frame_stride)
        by_cause = [
            range(first, last + 1, clip.frame_stride)
            for found in clip.missing_by_cause.values()
            for first, last in found
        ]
        if any(sum(map(_length, found)) > MAX_STEPS for found in ([grid], spans, by_cause)):
            self._differs(f"it can't have more than {MAX_STEPS} steps")
            return
        missing = {step for span in spans for step in span}
        both = sorted(missing.intersection(steps))
        if both:
            self._differs(f"{len(both)} steps are called missing and are there, the first is {both[0]}")
        self._same("dropped frames and missing steps", clip.frames.dropped_total, len(missing))
        self._causes(missing)
        outside = [step for step in (*steps, *sorted(missing)) if step not in grid]
        if outside:
            self._differs(f"{len(outside)} steps are not on the clip's grid, the first is {outside[0]}")
        if clip.end_step is not None:
            self._unasked(set(grid) - missing - set(steps))

    def _causes(self, missing: set[int]) -> None:
        """Hold what is said of causes step by step, if it is, against their counts and the steps that are missing."""
        clip = self._clip
        by_cause = {cause: steps_in(spans, clip.frame_stride) for cause, spans in clip.missing_by_cause.items()}
        if not by_cause or (len(by_cause) == 1 and len(clip.frames.dropped) == 1):
            return  # What there is one cause for was counted as a whole.
        for cause in sorted({*by_cause, *clip.frames.dropped}):
            steps = by_cause.get(cause, set())
            self._same(f"dropped by {cause} and its missing steps", clip.frames.dropped.get(cause, 0), len(steps))
        if set().union(*by_cause.values()) != missing:
            self._differs("the missing steps by cause are not those that are missing")

    def _unasked(self, silent: set[int]) -> None:
        if not silent:
            return
        line = f"{len(silent)} steps are neither there nor called missing, the first is {min(silent)}"
        in_span = (self._clip.end_step or 0) - self._clip.start_step
        if self._clip.frames.requested < in_span // self._clip.frame_stride + 1:
            self._notes(line)  # They were not asked for: the recorder was paused.
        else:
            self._differs(line)

    def _counts(self) -> None:
        frames = self._clip.frames
        self._same("encoded", frames.encoded, sum(segment.frames for segment in self._clip.segments))
        self._same("requested = encoded + dropped", frames.requested, frames.encoded + frames.dropped_total)
        is_short = frames.dropped_total > 0
        if self._clip.state is ClipState.COMPLETE and is_short:
            self._differs(f"the manifest says complete, and {frames.dropped_total} frames were dropped")

    def _open_segment(self) -> None:
        clip = self._clip
        if clip.open_segment and clip.state is not ClipState.RECORDING:
            self._differs(f"{clip.open_segment} was left open, and the clip is {clip.state}")
        if clip.state is ClipState.RECORDING:
            self._notes(f"still recorded, or left so by a process that died; {self._open_frames()}")

    def _open_frames(self) -> str:
        if self._clip.open_segment is None:
            return "no segment is open"
        try:
            found = _decode(self._folder / self._clip.open_segment)
        except OutputError:
            return f"{self._clip.open_segment} can't be played yet"
        return f"{self._clip.open_segment} can be played from step {found.steps[0]} to {found.steps[-1]}"


def _length(steps: range) -> int:
    """Return the length, also where it is more than `len` can tell."""
    return max(0, (steps.stop - steps.start - 1) // steps.step + 1)


def _picture_notes(file: str, found: _Decoded) -> list[str]:
    notes = []
    if found.black:
        count = f"{len(found.black)} of {len(found.steps)}"
        notes.append(f"{file}: {count} frames are black, the first at step {found.black[0]}")
    if found.unchanged:
        notes.append(
            f"{file}: {len(found.unchanged)} of {len(found.steps)} frames are equal to the one before, "
            f"the first at step {found.unchanged[0]}"
        )
    return notes
