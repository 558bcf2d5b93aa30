"""What a segment says of itself; read without FFmpeg, so that the recording service can, too."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from .files import open_ordinary

_MOST_STEPS = 2**53
_HEAD_NBYTES = 2**16
"""A segment's description comes first in its file, also once it is closed."""
_COMMENT = re.compile(rb'\{"stepreel": 1, [^\0]{1,4000}?"fps": "[0-9/]+"\}')


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentLabel:
    """What a segment says of itself, in the container's `comment`: enough to tell the step of each frame."""

    clip: str
    start_step: int
    """The step shown by the frame at `pts` 0 of this file."""
    frame_stride: int
    fps: Fraction

    def step(self, pts: int) -> int:
        """Return the step shown at `pts` of this file, counted in frames."""
        return self.start_step + pts * self.frame_stride

    def pts(self, time_s: Fraction) -> int:
        """Return the frame at a time of this file [s]."""
        return round(time_s * self.fps)

    def to_comment(self) -> str:
        """Return the label as a container's comment holds it."""
        return json.dumps(
            {
                "stepreel": 1,
                "clip": self.clip,
                "start_step": self.start_step,
                "frame_stride": self.frame_stride,
                "fps": str(self.fps),
            }
        )

    @classmethod
    def from_comment(cls, comment: str | bytes | None) -> SegmentLabel | None:
        """Return the label in a container's comment, or None where there is none that makes sense."""
        try:
            found = msgspec.json.decode(comment or "", type=_Comment)
            rate = Fraction(found.fps)
        except (msgspec.DecodeError, UnicodeError, RecursionError, ZeroDivisionError):
            return None
        if rate <= 0 or not found.clip.isprintable() or {"/", "\\"} & set(found.clip):
            return None
        return cls(clip=found.clip, start_step=found.start_step, frame_stride=found.frame_stride, fps=rate)


class _Comment(Struct, kw_only=True):
    stepreel: Literal[1]
    clip: Annotated[str, Meta(min_length=1, max_length=200)]
    start_step: Annotated[int, Meta(ge=-_MOST_STEPS, le=_MOST_STEPS)]
    frame_stride: Annotated[int, Meta(ge=1, le=_MOST_STEPS)]
    fps: Annotated[str, Meta(pattern=r"^[0-9]{1,9}(/[0-9]{1,9})?\Z")]


def labelled_clip(path: Path) -> str | None:
    """Return the name of the clip that a segment, closed or open, says it belongs to; None where it doesn't say.

    Raises:
        OSError: the file can't be read, or is a link.
    """
    with open_ordinary(path) as file:
        found = _COMMENT.search(file.read(_HEAD_NBYTES))
    label = SegmentLabel.from_comment(found[0]) if found else None
    return label.clip if label else None
