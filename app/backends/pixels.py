"""The one place where a simulator's picture is checked and copied."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ..clip import Frame
from ..errors import CaptureError
from ..interfaces import Slot

_ALLOWED = "a numpy array of uint8, shape [height, width, 3], [height, width, 4] or [height, width], with sides above 0"


def copy_pixels(picture: object, slot: Slot) -> Frame:
    """Copy a picture into a slot: one copy, whatever its strides.

    Args:
        picture: sRGB, uint8, top row first: shape `[height, width, 3]`; `[height, width, 4]`, of which alpha is
            left out; or grey, `[height, width]` or `[height, width, 1]`. It is not kept.
        slot: Where the pixels go.

    Raises:
        CaptureError: the picture is something else, or does not fit into the frame pool.
    """
    pixels = _checked(picture)
    height, width = pixels.shape[:2]
    frame = Frame(height=height, width=width)
    copy_channels(slot.array(frame.nbytes).reshape(height, width, 3), pixels)
    return frame


def tile_pixels(pictures: Sequence[object], slot: Slot, *, columns: int) -> Frame:
    """Copy pictures of one size into a slot, side by side, row by row from the top left; room left over is black.

    Args:
        pictures: At least one, each as `copy_pixels` takes it.
        slot: Where the pixels go.
        columns: Pictures in a row.

    Raises:
        CaptureError: one of them is no picture, or of another size than the first, or together they do not fit into
            the frame pool.
    """
    tiles = [_checked(picture) for picture in pictures]
    sizes = sorted({(tile.shape[1], tile.shape[0]) for tile in tiles})
    if len(sizes) != 1:
        found = ", ".join(f"{width}x{height}" for width, height in sizes)
        raise CaptureError(f"pictures side by side must be of one size; got {found or 'none at all'}")
    (width, height), rows = sizes[0], math.ceil(len(tiles) / columns)
    frame = Frame(height=rows * height, width=columns * width)
    target = slot.array(frame.nbytes).reshape(rows, height, columns, width, 3)
    for number, tile in enumerate(tiles):
        copy_channels(target[number // columns, :, number % columns], tile)
    target[-1, :, columns - rows * columns + len(tiles) :] = 0
    return frame


def copy_channels(target: NDArray[np.uint8], pixels: NDArray[np.uint8]) -> None:
    """Copy the colours of `pixels`, shape `[height, width, 1 or more]`, into `target`, shape `[height, width, 3]`."""
    if pixels.strides[1:] == (3, 1):
        np.copyto(target, pixels)
        return
    # Channel by channel: numpy is slow at three bytes at a time, and quick at a whole row of one channel.
    for channel in range(3):
        np.copyto(target[..., channel], pixels[..., channel % pixels.shape[2]])


def _checked(picture: object) -> NDArray[np.uint8]:
    """Return `picture` with three axes, the last of 1, 3 or 4 channels."""
    if not isinstance(picture, np.ndarray) or picture.dtype != np.uint8 or picture.size == 0:
        raise _refusal(picture)
    if picture.ndim == 2:
        return picture[..., None]
    if picture.ndim != 3 or picture.shape[2] not in (1, 3, 4):
        raise _refusal(picture)
    return picture


def _refusal(picture: object) -> CaptureError:
    return CaptureError(f"not a picture: got {_describe(picture)}; needed: {_ALLOWED}{_advice(picture)}")


def _describe(picture: object) -> str:
    if isinstance(picture, np.ndarray):
        return f"an array of {picture.dtype}, shape {list(picture.shape)}"
    if picture is None:
        return "None"
    if isinstance(picture, list | tuple):
        return f"a {type(picture).__name__} of {len(picture)}"
    return f"a {type(picture).__module__}.{type(picture).__qualname__}"


def _advice(picture: object) -> str:
    if not isinstance(picture, np.ndarray):
        return ""
    if picture.dtype.kind == "f":
        return "; scale floats to 0..255 and convert them: (255 * picture).astype(numpy.uint8)"
    if picture.ndim == 3 and picture.shape[0] in (1, 3, 4):
        return "; move the channels last: numpy.moveaxis(picture, 0, -1)"
    return ""
