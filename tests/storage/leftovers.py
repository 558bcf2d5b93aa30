"""What killed processes leave in an output folder, made of real segments and manifests."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stepreel.clip import Clip, ClipState, DropCause, FrameCounts, Segment
from stepreel.encoders.codecs import EncodeSettings
from stepreel.encoders.segment_writer import ClipWriter
from stepreel.storage.manifest import write_manifest

SETTINGS = EncodeSettings(
    codec="libx264",
    preset="ultrafast",
    crf=30,
    pix_fmt="yuv420p",
    gop_s=1 / 3,
    segment_s=1.0,
    segment_bytes=None,
    fps=Fraction(30),
)
STRIDE = 2
NAME = "run-step-0"


def picture(pts: int) -> NDArray[np.uint8]:
    pixels = np.full((48, 64, 3), 30, dtype=np.uint8)
    pixels[8:24, pts % 48 : pts % 48 + 16] = (200, 90, 10)
    return pixels


def leave(
    folder: Path, frame_count: int, *, name: str = NAME, missing: Iterable[int] = (), encode: EncodeSettings = SETTINGS
) -> tuple[Segment, ...]:
    """Write frames of every second step from 0, in segments of a second, and leave the last one open."""
    writer = ClipWriter(folder, name, encode, start_step=0, frame_stride=STRIDE)
    left_out = set(missing)
    for pts in range(frame_count):
        if pts * STRIDE not in left_out:
            writer.write(picture(pts), step=pts * STRIDE, pts=pts)
    writer.abandon()
    return writer.segments


def state_of(name: str = NAME, **changes: object) -> Clip:
    """Return a clip that is being recorded, of which nothing is known yet but its beginning."""
    clip = Clip(
        name=name,
        stream="default",
        backend="synthetic",
        state=ClipState.RECORDING,
        start_step=0,
        end_step=None,
        frame_stride=STRIDE,
        fps=30.0,
        width=64,
        height=48,
        codec="libx264",
        frames=FrameCounts(),
        missing_steps=(),
        segments=(),
    )
    return replace(clip, **changes)  # type: ignore[arg-type]


def dropped(cause: DropCause, count: int, encoded: int) -> FrameCounts:
    return FrameCounts(requested=count + encoded, encoded=encoded, dropped={cause: count})


def leave_clip(folder: Path, frame_count: int, name: str = NAME) -> Clip:
    """Leave a clip whose worker and training were killed: its manifest is as of the last closed segment."""
    segments = leave(folder, frame_count, name=name)
    number = len(segments)
    clip = state_of(name, segments=segments, open_segment=f"{name}.{number:03d}.mp4.part")
    write_manifest(folder, clip)
    return clip


def contents(folder: Path) -> dict[str, bytes]:
    """Return every file below a folder, links as what they point to."""
    return {
        str(path.relative_to(folder)): str(path.readlink()).encode() if path.is_symlink() else path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_symlink() or path.is_file()
    }
