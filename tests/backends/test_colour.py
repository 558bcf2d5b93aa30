"""Colours of depth, normals and labels, held against what is published and against one another."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from stepreel.backends.colour import checked_range, depth_to_rgb, labels_to_rgb, normals_to_rgb
from stepreel.errors import ConfigurationError


@pytest.mark.parametrize(
    ("place", "published", "error"),
    [  # Rows of the table that the polynomial approximates, which it leaves at the ends.
        (0.0, (48, 18, 59), 32),
        (0.2, (62, 155, 254), 15),
        (0.5, (164, 252, 59), 21),
        (0.8, (239, 90, 17), 7),
        (1.0, (122, 4, 2), 22),
    ],
)
def test_depth_is_shown_in_the_published_colours(place: float, published: tuple[int, int, int], error: int) -> None:
    depth = np.array([[2.0 + place * 6.0]], np.float32)
    shown = depth_to_rgb(depth, near=2.0, far=8.0)
    assert shown.shape == (1, 1, 3)
    assert np.abs(shown[0, 0].astype(int) - published).max() <= error


def test_depth_beyond_the_range_has_the_colour_of_its_end() -> None:
    ends = depth_to_rgb(np.array([0.1, 10.0]), near=0.1, far=10.0)
    beyond = depth_to_rgb(np.array([0.01, 1e6]), near=0.1, far=10.0)
    np.testing.assert_array_equal(ends, beyond)


@pytest.mark.parametrize("nothing", [math.inf, math.nan, -1.0, 0.0])
def test_depth_where_nothing_was_hit_is_black_and_nothing_else_is(nothing: float) -> None:
    shown = depth_to_rgb(np.array([nothing, 0.001, 5.0, 500.0], np.float32), near=0.1, far=10.0)
    assert shown[0].tolist() == [0, 0, 0]
    assert (shown[1:].max(axis=-1) > 0).all()


def test_each_axis_of_a_normal_has_its_channel() -> None:
    normals = np.array([[1, 0, 0], [0, -1, 0], [0, 0, 1], [0, 0, 0], [math.nan, 0, 1]], np.float32)
    assert normals_to_rgb(normals).tolist() == [[255, 128, 128], [128, 0, 128], [128, 128, 255], [0, 0, 0], [0, 0, 0]]


def test_a_fourth_component_of_normals_is_left_out() -> None:
    normals = np.array([[0.0, 0.0, 1.0, 7.0]])
    assert normals_to_rgb(normals).tolist() == [[128, 128, 255]]


def test_labels_are_told_apart_and_keep_their_colour() -> None:
    shown = labels_to_rgb(np.arange(1, 200, dtype=np.int32), background=0).astype(int)
    distances = np.abs(shown[:, None] - shown[None]).sum(axis=-1)
    assert (distances + 99 * np.eye(199, dtype=int) > 0).all(), "all are different"
    neighbours = np.abs(np.diff(shown, axis=0)).sum(axis=-1)
    assert neighbours.min() > 100
    np.testing.assert_array_equal(labels_to_rgb(np.array([[7]]), background=0)[0, 0], shown[6])


@pytest.mark.parametrize("background", [0, -1])
def test_the_background_is_black_and_the_label_after_it_is_not(background: int) -> None:
    labels = background + np.array([0, -1, 1, 1024])
    shown = labels_to_rgb(labels, background=background)
    assert shown[:2].tolist() == [[0, 0, 0]] * 2
    assert shown[2:].max(axis=-1).min() > 0


@pytest.mark.parametrize("value", [(1.0,), (2.0, 1.0), (1.0, 1.0), (-1.0, 1.0), (0.0, math.inf), "ab", (math.nan, 1.0)])
def test_a_range_that_is_none_is_refused(value: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"depth_range: got .*; allowed: two finite numbers"):
        checked_range("depth_range", value)
