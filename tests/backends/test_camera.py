from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from numpy.typing import NDArray

from stepreel.backends.camera import Camera, choose_camera, current_camera
from stepreel.errors import CaptureError, ConfigurationError

coordinates = st.floats(min_value=-50, max_value=50, allow_nan=False)
points = st.tuples(coordinates, coordinates, coordinates)


def turned(quaternion: tuple[float, float, float, float], vector: tuple[float, float, float]) -> NDArray[np.float64]:
    x, y, z, w = quaternion
    axis, subject = np.array([x, y, z]), np.array(vector, dtype=np.float64)
    turned: NDArray[np.float64] = subject + 2 * np.cross(axis, np.cross(axis, subject) + w * subject)
    return turned


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("eye", (math.nan, 0.0, 0.0)),
        ("eye", (0.0, math.inf, 0.0)),
        ("eye", (1.0, 2.0)),
        ("eye", "above"),
        ("lookat", (0.0, 0.0, -math.inf)),
        ("lookat", 3.0),
        ("lookat", (None, 0.0, 0.0)),
        ("fov", 0.0),
        ("fov", 180.0),
        ("fov", math.nan),
        ("fov", "wide"),
        ("fov", True),
    ],
)
def test_a_value_that_can_not_work_is_refused_by_name(field: str, value: Any) -> None:
    with pytest.raises(ConfigurationError, match=f"^{field}: got .*; allowed: "):
        Camera(**{field: value})


def test_an_eye_at_its_own_target_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="the same point as eye"):
        Camera(eye=(1.0, 2.0, 3.0), lookat=(1.0, 2.0, 3.0))


def test_numbers_of_any_kind_become_floats() -> None:
    camera = Camera(eye=tuple(np.array([1, 2, 3], dtype=np.int32)), lookat=(0, 0, 0), fov=60)
    assert camera.to_json() == {"eye": [1.0, 2.0, 3.0], "lookat": [0.0, 0.0, 0.0], "fov": 60.0}


@given(eye=points, lookat=points, fov=st.floats(1.0, 170.0))
def test_a_camera_comes_back_from_its_floats(
    eye: tuple[float, float, float], lookat: tuple[float, float, float], fov: float
) -> None:
    assume(math.dist(eye, lookat) > 1e-3)
    camera = Camera(eye=eye, lookat=lookat, fov=fov)
    again = Camera.from_floats(camera.to_floats())
    assert (*again.eye, *again.lookat, again.fov) == pytest.approx((*eye, *lookat, fov), rel=1e-6, abs=1e-6)


def test_what_is_not_given_of_a_still_camera_is_its_default() -> None:
    assert choose_camera(None, eye=None, lookat=None, fov=None) == Camera()
    assert choose_camera(None, eye=(1, 2, 3), lookat=None, fov=30) == Camera(eye=(1, 2, 3), fov=30)


def test_a_camera_beside_an_eye_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"^camera: got Camera\(.*beside eye=\(1, 2, 3\); allowed: "):
        choose_camera(Camera(), eye=(1, 2, 3), lookat=None, fov=None)


def test_what_is_no_camera_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"^camera: got 'above'; allowed: "):
        choose_camera("above", eye=None, lookat=None, fov=None)  # type: ignore[arg-type]


def test_a_camera_function_is_asked_each_time() -> None:
    cameras = [Camera(fov=30), Camera(fov=40)]
    source = choose_camera(lambda: cameras.pop(0), eye=None, lookat=None, fov=None)
    assert [current_camera(source).fov, current_camera(source).fov] == [30, 40]


def test_a_camera_function_that_returns_no_camera_costs_the_capture() -> None:
    with pytest.raises(CaptureError, match=r"the camera function returned \(1, 2, 3\); return a .*Camera"):
        current_camera(lambda: (1, 2, 3))  # type: ignore[arg-type,return-value]


@pytest.mark.parametrize(
    ("lookat", "up_axis", "pitch", "yaw"),
    [
        ((1, 0, 0), 2, 0.0, 0.0),
        ((0, 1, 0), 2, 0.0, 90.0),
        ((-1, 0, 0), 2, 0.0, 180.0),
        ((1, 0, 1), 2, 45.0, 0.0),
        ((0, 0, -1), 2, -89.0, 0.0),
        ((0, 0, 1), 1, 0.0, 90.0),
        ((1, -1, 0), 1, -45.0, 0.0),
        ((0, 0, 1), 0, 0.0, 90.0),
        ((1, 1, 0), 0, 45.0, 0.0),
    ],
)
def test_pitch_and_yaw_follow_the_worlds_up_axis(
    lookat: tuple[float, float, float], up_axis: int, pitch: float, yaw: float
) -> None:
    assert Camera(eye=(0, 0, 0), lookat=lookat).pitch_yaw(up_axis) == pytest.approx((pitch, yaw))


@given(eye=points, lookat=points, up_axis=st.integers(0, 2))
def test_a_rotated_camera_looks_at_its_target_and_stands_upright(
    eye: tuple[float, float, float], lookat: tuple[float, float, float], up_axis: int
) -> None:
    assume(math.dist(eye, lookat) > 1e-3)
    camera = Camera(eye=eye, lookat=lookat)
    assume(abs(camera.pitch_yaw(up_axis)[0]) < 89)
    rotation = camera.rotation(up_axis)
    view = (np.array(lookat) - np.array(eye)) / math.dist(eye, lookat)
    assert turned(rotation, (0, 0, -1)) == pytest.approx(view, abs=1e-6)
    assert turned(rotation, (1, 0, 0))[up_axis] == pytest.approx(0, abs=1e-6)
    assert turned(rotation, (0, 1, 0))[up_axis] > 0


@pytest.mark.parametrize("up_axis", [0, 1, 2])
def test_a_camera_made_of_its_angles_looks_the_same_way(up_axis: int) -> None:
    camera = Camera(eye=(3.0, -2.0, 1.5), lookat=(0.5, 0.25, -0.75), fov=50.0)
    again = Camera.from_pitch_yaw(camera.eye, *camera.pitch_yaw(up_axis), up_axis=up_axis, fov=50.0)
    assert (again.eye, again.fov) == (camera.eye, camera.fov)
    assert math.dist(again.eye, again.lookat) == pytest.approx(1.0)
    assert again.rotation(up_axis) == pytest.approx(camera.rotation(up_axis))
