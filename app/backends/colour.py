"""Colours for what is no picture yet: depth, normals, labels.

Plain numpy, for a worker: on the training thread these would cost many times what copying the numbers does.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigurationError

Pixels = NDArray[np.uint8]

_TURBO = (
    # Turbo by A. Mikhailov, as the polynomial of fifth degree that R. Du published for it ("Turbo, An Improved Rainbow
    # Colormap for Visualization", Google AI Blog, 2019); coefficients of x**0 ... x**5 for red, green and blue.
    (0.13572138, 4.61539260, -42.66032258, 132.13108234, -152.94239396, 59.28637943),
    (0.09140261, 2.19418839, 4.84296658, -14.18503333, 4.27729857, 2.82956604),
    (0.10667330, 12.64194608, -60.58204836, 110.36276771, -89.90310912, 27.34824973),
)
_SHADES = 1024
_GOLDEN_RATIO = 0.6180339887498949


def depth_to_rgb(depth: NDArray[Any], *, near: float, far: float) -> Pixels:
    """Return depths in Turbo's colours: dark blue at `near` and before it, dark red at `far` and beyond.

    Args:
        depth: Distances [m], any shape. Nothing was hit where it is not finite, or not above 0: black.
        near: Distance at the lower end of the colours [m].
        far: Distance at the upper end [m].

    Returns:
        sRGB, the shape of `depth` with an axis of 3 behind it.
    """
    with np.errstate(invalid="ignore"):
        shade = (depth.astype(np.float32) - np.float32(near)) * np.float32((_SHADES - 1) / (far - near))
        is_hit = np.isfinite(depth) & (depth > 0)
        shade = np.where(is_hit, np.clip(shade, 0, _SHADES - 1) + 1.5, 0)
    colours: Pixels = _DEPTH_COLOURS[shade.astype(np.intp)]
    return colours


def normals_to_rgb(normals: NDArray[Any]) -> Pixels:
    """Return directions as colours: -1 to 1 along x, y, z becomes 0 to 255 of red, green, blue.

    Args:
        normals: Unit vectors, shape `[..., 3]`, or more than 3 of which the first are taken. Nothing was hit where
            all three are 0, or one is not finite: black.

    Returns:
        sRGB, shape `[..., 3]`.
    """
    vectors = normals[..., :3].astype(np.float32)
    is_hit = np.asarray(np.isfinite(vectors).all(axis=-1) & vectors.any(axis=-1))
    colours: Pixels = np.clip((np.nan_to_num(vectors) + 1.0) * 127.5 + 0.5, 0.0, 255.0).astype(np.uint8)
    colours *= is_hit[..., None]
    return colours


def labels_to_rgb(labels: NDArray[Any], *, background: int) -> Pixels:
    """Return labels in colours that are the same in every picture, neighbouring numbers far apart.

    Args:
        labels: Integers, any shape. 1,023 of them have a colour of their own, then colours repeat.
        background: The label of what belongs to nothing, and so does everything below it: black.

    Returns:
        sRGB, the shape of `labels` with an axis of 3 behind it.
    """
    number = labels.astype(np.int64) - background
    colours: Pixels = _LABEL_COLOURS[np.where(number > 0, (number - 1) % (_SHADES - 1) + 1, 0)]
    return colours


def checked_range(name: str, value: Any) -> tuple[float, float]:
    """Return a range of depths, nearest first [m].

    Raises:
        ConfigurationError: it is none.
    """
    try:
        near, far = (float(part) for part in value)
    except (TypeError, ValueError):
        pass
    else:
        if 0.0 <= near < far < float("inf"):
            return near, far
    raise ConfigurationError(f"{name}: got {value!r}; allowed: two finite numbers from 0, the smaller first [m]")


def _turbo() -> Pixels:
    x = np.linspace(0.0, 1.0, _SHADES)
    channels = [np.polynomial.polynomial.polyval(x, coefficients) for coefficients in _TURBO]
    return (np.clip(np.stack(channels, axis=-1), 0.0, 1.0) * 255.0 + 0.5).astype(np.uint8)


def _spread_hues() -> Pixels:
    """Return bright colours whose hues go round by the golden ratio, in three strengths."""
    number = np.arange(1, _SHADES)
    hue = number * _GOLDEN_RATIO % 1.0
    # A hue's colour: each channel is 1 for a third of the circle around its own hue, and ramps down beside that.
    ramps = np.clip(2.0 - np.abs((hue[:, None] * 6.0 - np.array([0.0, 2.0, 4.0]) + 3.0) % 6.0 - 3.0), 0.0, 1.0)
    value = np.array([0.95, 0.75, 0.6])[number % 3, None]
    saturation = np.array([0.8, 0.6, 0.95])[number % 3, None]
    colours: Pixels = (value * (1.0 - saturation + saturation * ramps) * 255.0 + 0.5).astype(np.uint8)
    return colours


def _with_black_first(colours: Pixels) -> Pixels:
    return np.concatenate([np.zeros((1, 3), np.uint8), colours])


_DEPTH_COLOURS = _with_black_first(_turbo())
_LABEL_COLOURS = _with_black_first(_spread_hues())
