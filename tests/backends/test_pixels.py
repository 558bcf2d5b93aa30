"""What a simulator may hand over as a picture, and what becomes of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest
from numpy.typing import NDArray

from stepreel.backends.pixels import copy_pixels, tile_pixels
from stepreel.capture.frame_pool import PoolSlot
from stepreel.clip import Frame
from stepreel.errors import CaptureError

from ..memory import make_pool

Picture = NDArray[np.uint8]


@pytest.fixture
def slot() -> Iterator[PoolSlot]:
    with make_pool(2**20) as pool:
        slot = pool.lease()
        yield slot
        slot.release()


def _noise(*shape: int) -> Picture:
    return np.random.default_rng(7).integers(0, 256, shape, np.uint8)


def _in_slot(slot: PoolSlot, frame: Frame) -> Picture:
    return slot.array(frame.nbytes).reshape(frame.height, frame.width, 3)


@pytest.mark.parametrize(
    "view",
    [
        pytest.param(lambda picture: picture, id="contiguous"),
        pytest.param(lambda picture: picture[::-1], id="bottom row first"),
        pytest.param(lambda picture: picture[..., ::-1], id="BGR"),
        pytest.param(lambda picture: picture[3:17, 5:-1], id="a part"),
        pytest.param(lambda picture: picture[::2, ::3], id="every third pixel of every second row"),
        pytest.param(lambda picture: picture.transpose(1, 0, 2), id="turned"),
        pytest.param(np.asfortranarray, id="column-major"),
        pytest.param(lambda picture: np.broadcast_to(picture[0, 0], (5, 7, 3)), id="one colour, without strides"),
    ],
)
def test_a_picture_arrives_whatever_its_strides(slot: PoolSlot, view: Callable[[Picture], Picture]) -> None:
    picture = view(_noise(20, 30, 3))
    frame = copy_pixels(picture, slot)
    assert (frame.height, frame.width) == picture.shape[:2]
    np.testing.assert_array_equal(_in_slot(slot, frame), picture)


def test_alpha_is_left_out(slot: PoolSlot) -> None:
    picture = _noise(20, 30, 4)
    np.testing.assert_array_equal(_in_slot(slot, copy_pixels(picture, slot)), picture[..., :3])


@pytest.mark.parametrize("shape", [(20, 30), (20, 30, 1)])
def test_grey_becomes_three_equal_channels(slot: PoolSlot, shape: tuple[int, ...]) -> None:
    picture = _noise(*shape)
    grey = picture.reshape(20, 30, 1)
    np.testing.assert_array_equal(_in_slot(slot, copy_pixels(picture, slot)), np.repeat(grey, 3, axis=2))


def test_the_slot_keeps_its_pixels_when_the_picture_changes(slot: PoolSlot) -> None:
    picture = _noise(20, 30, 3)
    before = picture.copy()
    frame = copy_pixels(picture, slot)
    picture[:] = 0
    np.testing.assert_array_equal(_in_slot(slot, frame), before)


def test_a_read_only_picture_is_copied(slot: PoolSlot) -> None:
    picture = _noise(20, 30, 3)
    picture.flags.writeable = False
    np.testing.assert_array_equal(_in_slot(slot, copy_pixels(picture, slot)), picture)


@pytest.mark.parametrize(
    ("picture", "found"),
    [
        (None, "None"),
        ([[[0, 0, 0]]], "a list of 1"),
        ((np.zeros((2, 2, 3), np.uint8),), "a tuple of 1"),
        ("ansi text", "a builtins.str"),
        (np.zeros((20, 30, 3), np.float32), r"float32, shape \[20, 30, 3\].*scale floats to 0..255"),
        (np.zeros((20, 30, 3), np.int64), "int64"),
        (np.zeros((20, 30, 3), np.bool_), "bool"),
        (np.zeros((20, 30, 3), np.int8), "int8"),
        (np.zeros((0, 30, 3), np.uint8), r"shape \[0, 30, 3\]"),
        (np.zeros((20, 30, 0), np.uint8), r"shape \[20, 30, 0\]"),
        (np.zeros((20, 30, 2), np.uint8), r"shape \[20, 30, 2\]"),
        (np.zeros((3, 20, 30), np.uint8), r"shape \[3, 20, 30\].*move the channels last"),
        (np.zeros(1800, np.uint8), r"shape \[1800\]"),
        (np.zeros((1, 20, 30, 3), np.uint8), r"shape \[1, 20, 30, 3\]"),
    ],
)
def test_what_is_no_picture_is_refused_with_what_came(slot: PoolSlot, picture: object, found: str) -> None:
    with pytest.raises(CaptureError, match=rf"got .*{found}"):
        copy_pixels(picture, slot)


def test_a_picture_larger_than_the_frame_pool_is_refused(slot: PoolSlot) -> None:
    with pytest.raises(CaptureError, match="queue_bytes"):
        copy_pixels(_noise(1000, 1000, 3), slot)


def test_pictures_are_put_side_by_side_and_what_is_left_over_is_black(slot: PoolSlot) -> None:
    colour, alpha, grey = _noise(4, 6, 3), _noise(4, 6, 4), _noise(4, 6)
    slot.array(8 * 12 * 3)[:] = 77  # From the capture before.
    frame = tile_pixels([colour, alpha, grey], slot, columns=2)
    assert (frame.height, frame.width) == (8, 12)
    found = _in_slot(slot, frame)
    np.testing.assert_array_equal(found[:4, :6], colour)
    np.testing.assert_array_equal(found[:4, 6:], alpha[..., :3])
    np.testing.assert_array_equal(found[4:, :6], np.repeat(grey[..., None], 3, axis=2))
    assert not found[4:, 6:].any()


@pytest.mark.parametrize(
    ("pictures", "found"),
    [
        ([np.zeros((4, 6, 3), np.uint8), np.zeros((6, 4, 3), np.uint8)], "must be of one size; got 4x6, 6x4"),
        ([], "must be of one size; got none at all"),
        ([np.zeros((4, 6, 3), np.uint8), None], "not a picture: got None"),
    ],
)
def test_pictures_that_do_not_fit_together_are_refused(slot: PoolSlot, pictures: list[object], found: str) -> None:
    with pytest.raises(CaptureError, match=found):
        tile_pixels(pictures, slot, columns=2)
