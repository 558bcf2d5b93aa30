"""`Camera`: where a picture is taken from, in the conventions of Newton's viewer; `CameraSource`: it, or what says."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import CaptureError, ConfigurationError

Vector = tuple[float, float, float]

_STEEPEST_PITCH = 89.0
"""Degrees; beyond it the viewer's up vector and its view direction fall together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Camera:
    """A pinhole camera at `eye`, looking at `lookat`, upright.

    Raises:
        ConfigurationError: a number that is not finite, `eye` at `lookat`, or a field of view that can't be.
    """

    eye: Vector = (7.5, 7.5, 7.5)
    """Position [m]."""
    lookat: Vector = (0.0, 0.0, 0.0)
    """The point in the middle of the picture [m]."""
    fov: float = 45.0
    """Vertical field of view [degrees]."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "eye", _point("eye", self.eye))
        object.__setattr__(self, "lookat", _point("lookat", self.lookat))
        object.__setattr__(self, "fov", _angle("fov", self.fov))
        if math.dist(self.eye, self.lookat) < 1e-6:
            raise ConfigurationError(f"lookat: got {self.lookat}, the same point as eye; allowed: any other point")

    def pitch_yaw(self, up_axis: int) -> tuple[float, float]:
        """Return the view's pitch and yaw [degrees] in a world whose up axis is 0 (X), 1 (Y) or 2 (Z).

        Pitch is positive upward and kept within 89 degrees, as Newton's viewer does.
        """
        distance = math.dist(self.eye, self.lookat)
        x, y, z = ((to - at) / distance for at, to in zip(self.eye, self.lookat, strict=True))
        up, ahead, side = ((x, y, z), (y, x, z), (z, x, y))[up_axis]
        pitch = math.degrees(math.asin(max(-1.0, min(1.0, up))))
        yaw = math.degrees(math.atan2(side, ahead))
        return max(-_STEEPEST_PITCH, min(_STEEPEST_PITCH, pitch)), yaw

    @classmethod
    def from_pitch_yaw(
        cls, eye: Vector, pitch: float, yaw: float, *, up_axis: int, fov: float, distance: float = 1.0
    ) -> Camera:
        """Return the camera at `eye` [m] that looks along `pitch` and `yaw` [degrees]; the inverse of `pitch_yaw`.

        `distance` is how far away its look-at lies [m].
        """
        x, y, z = _scaled(_forward(math.radians(pitch), math.radians(yaw), up_axis), distance)
        return cls(eye=eye, lookat=(eye[0] + x, eye[1] + y, eye[2] + z), fov=fov)

    def rotation(self, up_axis: int) -> tuple[float, float, float, float]:
        """Return the quaternion (x, y, z, w) that turns a camera's frame into the world's.

        A camera looks along its -Z, with +Y up and +X to the right (the USD and OpenGL convention).
        """
        pitch, yaw = (math.radians(angle) for angle in self.pitch_yaw(up_axis))
        forward = _forward(pitch, yaw, up_axis)
        world_up = tuple(1.0 if axis == up_axis else 0.0 for axis in range(3))
        right = _unit(_cross(forward, world_up))
        return _quaternion(right, _cross(right, forward), _scaled(forward, -1.0))

    def to_json(self) -> dict[str, object]:
        """Return the camera in JSON types."""
        return {"eye": list(self.eye), "lookat": list(self.lookat), "fov": self.fov}

    def to_floats(self) -> NDArray[np.float32]:
        """Return eye, lookat and fov, shape `[7]`, as they travel in a snapshot."""
        return np.array((*self.eye, *self.lookat, self.fov), dtype=np.float32)

    @classmethod
    def from_floats(cls, floats: NDArray[np.float32]) -> Camera:
        """Return the camera of `to_floats`.

        Raises:
            ConfigurationError: they are none's.
        """
        x, y, z, to_x, to_y, to_z, fov = floats.tolist()
        return cls(eye=(x, y, z), lookat=(to_x, to_y, to_z), fov=fov)


CAMERA_NBYTES = 28
"""Bytes of `Camera.to_floats`."""

CameraSource = Camera | Callable[[], Camera]
"""A camera that stands still, or a function that returns where it is now: asked at each capture, on the training
thread."""


def choose_camera(
    camera: CameraSource | None, *, eye: Vector | None, lookat: Vector | None, fov: float | None
) -> CameraSource:
    """Return `camera`, or a still one made of what is given of the rest.

    Raises:
        ConfigurationError: both are given, or neither can be a camera.
    """
    parts: dict[str, Any] = {"eye": eye, "lookat": lookat, "fov": fov}
    given = {name: value for name, value in parts.items() if value is not None}
    if camera is None:
        return Camera(**given)
    if given:
        raise ConfigurationError(
            f"camera: got {camera!r} beside {', '.join(f'{name}={value!r}' for name, value in given.items())}; "
            "allowed: a camera, or eye, lookat and fov"
        )
    if isinstance(camera, Camera) or callable(camera):
        return camera
    raise ConfigurationError(f"camera: got {camera!r}; allowed: a Camera, or a function that returns one")


def current_camera(source: CameraSource) -> Camera:
    """Return where a picture is taken from now.

    Raises:
        CaptureError: the function returned something else than a camera.
    """
    camera = source if isinstance(source, Camera) else source()
    if isinstance(camera, Camera):
        return camera
    raise CaptureError(f"the camera function returned {camera!r}; return a stepreel.backends.camera.Camera")


def _point(name: str, value: object) -> Vector:
    try:
        x, y, z = (float(part) for part in value)  # type: ignore[attr-defined]
    except (TypeError, ValueError):
        pass
    else:
        if all(math.isfinite(part) for part in (x, y, z)):
            return x, y, z
    raise ConfigurationError(f"{name}: got {value!r}; allowed: three finite numbers [m]")


def _angle(name: str, value: object) -> float:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if is_number and 1.0 <= value <= 170.0:  # type: ignore[operator]
        return float(value)  # type: ignore[arg-type]
    raise ConfigurationError(f"{name}: got {value!r}; allowed: 1 to 170 degrees")


def _forward(pitch: float, yaw: float, up_axis: int) -> Vector:
    """Return the unit view direction of angles [rad]."""
    up, ahead, side = math.sin(pitch), math.cos(pitch) * math.cos(yaw), math.cos(pitch) * math.sin(yaw)
    return ((up, ahead, side), (ahead, up, side), (ahead, side, up))[up_axis]


def _cross(a: Sequence[float], b: Sequence[float]) -> Vector:
    return a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]


def _scaled(vector: Sequence[float], factor: float) -> Vector:
    return vector[0] * factor, vector[1] * factor, vector[2] * factor


def _unit(vector: Sequence[float]) -> Vector:
    return _scaled(vector, 1.0 / math.hypot(*vector))


def _quaternion(right: Vector, up: Vector, back: Vector) -> tuple[float, float, float, float]:
    """Return the unit quaternion (x, y, z, w) of the rotation whose columns are the given axes."""
    # The four squared components, up to a factor; dividing by the root of the largest is always stable.
    m = (right, up, back)
    trace = m[0][0] + m[1][1] + m[2][2]
    squares = [1.0 + 2.0 * m[axis][axis] - trace for axis in range(3)] + [1.0 + trace]
    largest = max(range(4), key=squares.__getitem__)
    skew = (m[1][2] - m[2][1], m[2][0] - m[0][2], m[0][1] - m[1][0])
    if largest == 3:
        parts = [*skew, squares[3]]
    else:
        parts = [m[largest][axis] + m[axis][largest] for axis in range(3)] + [skew[largest]]
        parts[largest] = squares[largest]
    length = math.hypot(*parts)
    x, y, z, w = (part / length for part in parts)
    return x, y, z, w
