"""Clips whose snapshots were kept -> video, drawn now: what `stepreel render` does."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .backends.archives import make_renderer
from .backends.camera import Camera
from .clip import Clip, ClipState, FrameCounts, Segment, steps_in, to_ranges
from .config import STORED_ENCODE_SETTINGS, EncodeSettings, RecorderConfig
from .encoders.segment_writer import ClipWriter
from .errors import ConfigurationError, OutputError, RendererUnavailableError, StepreelError, describe
from .interfaces import Renderer
from .storage.folder_lock import FolderLock
from .storage.manifest import read_manifest, reserve_name, write_manifest
from .storage.repair import UnrepairableError, check_size, rebooked, with_missing
from .storage.snapshot_file import SnapshotReader, remove_snapshots
from .storage.snapshot_format import SNAPSHOTS_SUFFIX

Progress = Callable[[int, int], None]
"""Called with the frames drawn of a clip, and how many there are to draw."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RenderOptions:
    """Settings for drawing kept snapshots; None: as the recorder would have drawn them."""

    camera: Camera | None = None
    width: int | None = None
    """Width of the pictures [pixels]."""
    height: int | None = None
    """Height of the pictures [pixels]."""
    codec: str | None = None
    """An encoder's name in FFmpeg, or "auto"."""

    @property
    def gives_other_pictures(self) -> bool:
        """Whether the pictures differ from those in the clip's own segments."""
        return (self.camera, self.width, self.height) != (None, None, None)


@dataclass(frozen=True, slots=True, kw_only=True)
class RenderedClip:
    """A clip after it was rendered."""

    clip: Clip
    """As its manifest says now."""
    drawn: int
    """Frames drawn."""
    left: int
    """Snapshots left as they are: in a segment that is closed there is no room for another frame."""
    failures: tuple[str, ...]
    """Why frames could not be drawn, one line for each kind."""


def clips_to_render(folder: Path) -> tuple[str, ...]:
    """Return the names of the clips in a folder that have snapshots.

    Raises:
        OutputError: the folder can't be read.
    """
    try:
        names = [name.removesuffix(SNAPSHOTS_SUFFIX) for name in os.listdir(folder) if name.endswith(SNAPSHOTS_SUFFIX)]
    except OSError as exc:
        raise OutputError(f"{folder} can't be read: {exc.strerror or exc}") from exc
    return tuple(sorted(names))


def render_clip(
    folder: Path,
    name: str,
    *,
    options: RenderOptions = RenderOptions(),
    save_as: str | None = None,
    progress: Progress | None = None,
) -> RenderedClip:
    """Draw and encode a clip's snapshots. Blocks, on this thread, which the drawing context then belongs to.

    Without another camera or size the clip gets the frames that it lacks, and doing it again does nothing. With
    another one, a new clip `<name>-<save_as>` gets them all. The snapshots stay.

    Args:
        folder: The output folder of the recorder.
        name: The clip.
        options: How to draw.
        save_as: Names the new clip; given with another camera or size only, and then always.
        progress: Hears how far it is.

    Raises:
        ConfigurationError: `save_as` is missing, or there for nothing; or a stored setting can't be.
        OutputError: there is no such clip, it is damaged, is still being recorded, or can't be written.
        BackendError: nothing here draws its snapshots.
        EncodeError: a segment can't be written; those before it stay.
    """
    if options.gives_other_pictures is (save_as is None):
        raise ConfigurationError(
            f"save_as: got {save_as!r}; allowed: a name where camera or size are another, else None"
        )
    with _opened_snapshots(folder, name) as (before, reader):
        rendering = _Rendering(folder, before, reader, options, progress)
        return rendering.into_new_clip(save_as) if save_as else rendering.into_gaps()


def finish_clip(folder: Path, name: str, *, progress: Progress | None = None) -> RenderedClip:
    """Draw what a clip lacks, as `render_clip` does, and remove its snapshots once none of them is of use any more.

    Raises:
        OutputError, BackendError, EncodeError: as `render_clip`.
    """
    with _opened_snapshots(folder, name) as (before, reader):
        rendered = _Rendering(folder, before, reader, RenderOptions(), progress).into_gaps()
        missing = steps_in(rendered.clip.missing_steps, before.frame_stride)
        if not missing.isdisjoint(reader.steps) or not rendered.clip.frames.encoded:
            return rendered
        clip = replace(rendered.clip, snapshots=None)
        write_manifest(folder, clip)  # First, so that it never lists a file that is gone.
        remove_snapshots(folder, name)
        return replace(rendered, clip=clip)


@contextmanager
def _opened_snapshots(folder: Path, name: str) -> Iterator[tuple[Clip, SnapshotReader]]:
    """Keep everybody else from the folder, and yield a clip and its snapshots."""
    lock = FolderLock.claim(folder, timeout_s=0.0)
    if lock is None:
        raise OutputError(f"{folder} is being recorded into; render when that has ended")
    try:
        before = read_manifest(folder / f"{name}.json")
        with SnapshotReader(folder / f"{name}{SNAPSHOTS_SUFFIX}") as reader:
            yield before, reader
    finally:
        lock.release()


class _Rendering:
    def __init__(
        self, folder: Path, before: Clip, reader: SnapshotReader, options: RenderOptions, progress: Progress | None
    ) -> None:
        if before.state is ClipState.RECORDING:
            raise OutputError(f"{before.name} was not closed; stepreel recover repairs it")
        if reader.about.clip != before.name or reader.about.frame_stride != before.frame_stride:
            raise OutputError(f"the snapshots beside {before.name}.json are those of {reader.about.clip!r}")
        try:
            check_size(before)
        except UnrepairableError as exc:
            raise OutputError(str(exc)) from exc
        self._folder = folder
        self._before = before
        self._reader = reader
        self._options = options
        self._progress = progress
        self._settings = _encode_settings(reader, options)
        self._failures: dict[str, str] = {}
        self._total = 0
        self._done = 0
        self._shown: set[int] = set()
        self._codec = before.codec
        self._size = (before.width, before.height)

    def into_gaps(self) -> RenderedClip:
        """Draw what the clip lacks."""
        before = self._before
        missing = steps_in(before.missing_steps, before.frame_stride)
        wanted = [step for step in self._reader.steps if step in missing]
        runs = list(_runs(wanted, [_span(before, segment) for segment in before.segments]))
        self._total = sum(len(run) for run in runs)
        segments, drawn = list(before.segments), 0
        if runs:
            with self._opened() as renderer:
                for run in runs:
                    closed = self._write(renderer, before.name, run, first_index=_next_index(before.name, segments))
                    segments += closed
                    drawn += sum(segment.frames for segment in closed)
        clip = self._completed(before, segments) if drawn else before
        if drawn:
            write_manifest(self._folder, clip)
        left = len(wanted) - self._total
        return RenderedClip(clip=clip, drawn=drawn, left=left, failures=tuple(self._failures.values()))

    def into_new_clip(self, save_as: str) -> RenderedClip:
        """Draw every snapshot, into a clip of its own."""
        before, steps = self._before, self._reader.steps
        self._total = len(steps)
        with self._opened() as renderer:
            name = reserve_name(self._folder, f"{before.name}-{save_as}")
            segments = self._write(renderer, name, steps, first_index=0)
        # What the clip had in its own segments was drawn then, from where nobody can look again.
        books = FrameCounts(requested=before.frames.requested, dropped=before.frames.dropped)
        asked = range(before.start_step, _last_step(before, steps) + 1, before.frame_stride)
        missing = to_ranges(asked, before.frame_stride)
        empty = replace(before, name=name, segments=(), snapshots=None, frames=books, missing_steps=missing)
        clip = self._completed(empty, segments)
        write_manifest(self._folder, clip)
        drawn = sum(segment.frames for segment in segments)
        return RenderedClip(clip=clip, drawn=drawn, left=0, failures=tuple(self._failures.values()))

    @contextmanager
    def _opened(self) -> Iterator[Renderer]:
        """Yield the renderer, open, and close it afterwards."""
        options = self._options
        try:
            renderer = make_renderer(
                self._reader.archive(), camera=options.camera, width=options.width, height=options.height
            )
            renderer.open()
        except StepreelError:
            raise
        except Exception as exc:  # A library is missing, or whatever a graphics driver raises.
            raise RendererUnavailableError(f"nothing here draws these snapshots: {exc}") from exc
        try:
            yield renderer
        finally:
            renderer.close()

    def _write(self, renderer: Renderer, name: str, steps: list[int], *, first_index: int) -> tuple[Segment, ...]:
        start, stride = self._before.start_step, self._before.frame_stride
        writer = ClipWriter(
            self._folder, name, self._settings, start_step=start, frame_stride=stride, first_index=first_index
        )
        try:
            for step in steps:
                picture = self._draw(renderer, step)
                if picture is not None:
                    writer.write(picture, step=step, pts=(step - start) // stride)
                    self._shown.add(step)
            writer.close((steps[-1] - start) // stride + 1)
        finally:
            writer.abandon()
        self._codec = writer.codec or self._codec
        self._size = writer.size or self._size
        return writer.segments

    def _completed(self, before: Clip, segments: Sequence[Segment]) -> Clip:
        """Return the clip with these segments, and counts that add up again."""
        encoded = sum(segment.frames for segment in segments)
        dropped = max(before.frames.requested - encoded, 0)
        frames = FrameCounts(
            requested=encoded + dropped, encoded=encoded, dropped=rebooked(before.frames.dropped, dropped)
        )
        return replace(
            with_missing(before, frames, steps_in(before.missing_steps, before.frame_stride) - self._shown),
            segments=tuple(sorted(segments, key=lambda segment: segment.first_step)),
            codec=self._codec,
            width=self._size[0],
            height=self._size[1],
            state=_state(before, dropped),
        )

    def _draw(self, renderer: Renderer, step: int) -> NDArray[np.uint8] | None:
        self._done += 1
        if self._progress:
            self._progress(self._done, self._total)
        snapshot = self._reader.snapshot(step)
        try:
            return renderer.render(snapshot)
        except Exception as exc:  # noqa: BLE001 - whatever a renderer raises costs this frame.
            self._failures.setdefault(type(exc).__name__, f"step {step}: {describe(exc)}")
            return None


def _state(before: Clip, dropped: int) -> ClipState:
    if before.state is ClipState.RECOVERED or before.end_step is None:
        return ClipState.RECOVERED  # It was cut short: more may have been asked for than is known.
    return ClipState.INCOMPLETE if dropped else ClipState.COMPLETE


def _encode_settings(reader: SnapshotReader, options: RenderOptions) -> EncodeSettings:
    """Return the settings that a file brings along, checked like any others."""
    stored = dict(reader.about.encoding)
    unknown = set(stored) - set(STORED_ENCODE_SETTINGS)
    if unknown:
        raise OutputError(f"the snapshots of {reader.about.clip} name settings that are not known: {sorted(unknown)}")
    config = RecorderConfig(output_dir=".", **{**stored, **({"codec": options.codec} if options.codec else {})})
    return config.encode_settings(fps=reader.about.fps)


def _span(clip: Clip, segment: Segment) -> range:
    """Return the steps for which a segment shows something, be it the frame before."""
    is_first = segment.file in (f"{clip.name}.mp4", f"{clip.name}.000.mp4")
    base = clip.start_step if is_first else segment.first_step
    return range(base, base + round(segment.duration_s * clip.fps) * clip.frame_stride, clip.frame_stride)


def _runs(steps: list[int], spans: list[range]) -> Iterator[list[int]]:
    """Yield the steps that lie in one gap between segments together; those inside of a segment are left out."""
    runs: dict[int, list[int]] = {}
    for step in steps:
        if not any(span.start <= step < span.stop for span in spans):
            runs.setdefault(sum(span.start < step for span in spans), []).append(step)
    yield from runs.values()


def _next_index(name: str, segments: list[Segment]) -> int:
    """Return a number above those that the clip's segments have."""
    numbers = [segment.file.removeprefix(f"{name}.").removesuffix(".mp4") for segment in segments]
    return max((int(number) + 1 if number.isdecimal() else 1 for number in numbers), default=0)


def _last_step(clip: Clip, kept: Sequence[int]) -> int:
    return kept[-1] if clip.end_step is None else clip.end_step
