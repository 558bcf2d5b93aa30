"""Small pictures of a clip, decoded from its files: one to show before it plays, and a strip of what happens in it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..clip import Clip
from ..errors import StepreelError
from ..storage.contact_strip import contact_strip
from ..storage.pictures import to_jpeg
from .folder import FoundClip

PICTURE_COUNT = 4
_POSTER_HEIGHT = 216
_STRIP_HEIGHT = 72
"""A divisor of `_POSTER_HEIGHT`."""
_MOST_ASPECT = 8
"""Of a picture: wider ones are not shown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pictures:
    """JPEG files of one clip, and the sizes of what they show [pixels]."""

    poster: bytes
    poster_size: tuple[int, int]
    strip: bytes
    strip_size: tuple[int, int]


def make_pictures(folder: Path, found: FoundClip) -> Pictures | None:
    """Decode the pictures of a clip; None where no file of it can be decoded."""
    clip = found.clip
    path = folder / f"{clip.name}.json" if found.files else folder / found.part if found.part else None
    if path is None or not _is_showable(clip):
        return None
    try:
        strip = contact_strip(path, PICTURE_COUNT, _POSTER_HEIGHT)
        return _cut(strip, clip)
    except StepreelError:
        return None  # Whoever wants to know why asks `stepreel inspect`.


def _is_showable(clip: Clip) -> bool:
    width, height = clip.width or 16, clip.height or 9
    return width <= _MOST_ASPECT * height and height <= _MOST_ASPECT * width


def _cut(strip: NDArray[np.uint8], clip: Clip) -> Pictures:
    expected = _POSTER_HEIGHT * (clip.width or 16) / (clip.height or 9)
    count = min(max(1, round(strip.shape[1] / expected)), PICTURE_COUNT)
    width = strip.shape[1] // count
    poster = strip[:, count // 2 * width : (count // 2 + 1) * width]
    small = _reduce(strip[:, : count * width], _POSTER_HEIGHT // _STRIP_HEIGHT)
    return Pictures(
        poster=to_jpeg(poster),
        poster_size=(poster.shape[1], poster.shape[0]),
        strip=to_jpeg(small),
        strip_size=(small.shape[1], small.shape[0]),
    )


def _reduce(pixels: NDArray[np.uint8], factor: int) -> NDArray[np.uint8]:
    """Return a picture whose pixels are the means of `factor` x `factor` ones."""
    height, width = pixels.shape[0] // factor, pixels.shape[1] // factor
    blocks = pixels[: height * factor, : width * factor].reshape(height, factor, width, factor, 3)
    reduced: NDArray[np.uint8] = blocks.mean(axis=(1, 3)).round().astype(np.uint8)
    return reduced
