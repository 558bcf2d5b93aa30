from __future__ import annotations

import io

import av
import numpy as np
import pytest

from stepreel.errors import EncodeError
from stepreel.storage.pictures import to_jpeg


def test_a_jpeg_shows_the_picture_in_its_colours() -> None:
    pixels = np.zeros((72, 300, 3), np.uint8)
    pixels[:, :100] = (200, 90, 10)
    pixels[:, 100:200] = (10, 90, 240)
    jpeg = to_jpeg(pixels)
    assert jpeg.startswith(b"\xff\xd8\xff")
    with av.open(io.BytesIO(jpeg), "r") as container:
        shown = next(container.decode(video=0)).to_ndarray(format="rgb24")
    assert shown.shape == pixels.shape
    for x in (50, 150, 250):
        assert np.abs(shown[36, x].astype(int) - pixels[36, x]).max() < 6


def test_what_is_no_picture_is_refused() -> None:
    with pytest.raises(EncodeError, match=r"shape \[0, 4, 3\]"):
        to_jpeg(np.zeros((0, 4, 3), np.uint8))
    with pytest.raises(EncodeError, match=r"shape \[4, 4\]"):
        to_jpeg(np.zeros((4, 4), np.uint8))
