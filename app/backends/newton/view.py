"""`View`: what a picture of a Newton simulation shows, from where, how large; and how its snapshots are read.

A snapshot is the transforms of the bodies in the picture (float32, `[bodies, 7]`), then the positions of its particles
(float32, `[particles, 3]`), then, where the camera follows something, the camera (float32, `[7]`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from ...errors import CaptureError
from ..camera import CAMERA_NBYTES, Camera, Vector
from .scene import Floats
from .scenery import Scenery

Pixels = NDArray[np.uint8]

LEAST_TILE = 16
"""Shortest side of a tile [pixels]."""
TILE_GAP = 2
"""Pixels between neighbouring tiles."""
_PLACE_NAMES = ("x", "y", "z", "qx", "qy", "qz", "qw")


class Channel(StrEnum):
    """What the ray tracer draws."""

    RGB = "rgb"
    DEPTH = "depth"
    """Distances from the camera's plane, in Turbo's colours."""
    NORMALS = "normals"
    """Directions of the surfaces, in the world's axes: -1 to 1 along x, y, z as red, green, blue from 0 to 255."""
    SEGMENTATION = "segmentation"
    """A colour for each shape, which depends on its number in the model only."""


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """What to draw, from where, how large."""

    scenery: Scenery
    camera: Camera
    """As it was when the recorder was opened, or as it stays; in a tile, relative to the origin of the tile's world."""
    width: int
    height: int
    renderer: str = "auto"
    """What was asked for: "gl", "warp" or "auto"."""
    channel: Channel = Channel.RGB
    depth_range: tuple[float, float] = (0.1, 10.0)
    """Distances at the two ends of the colours of depth [m]."""
    tracer_device: str = "cpu"
    """Warp device of the ray tracer: "cpu" or "cuda:0"."""
    egl_device: int = 0
    """Which of the EGL devices that the system lists draws with OpenGL."""
    is_camera_captured: bool = False
    """Whether each snapshot ends with a camera of its own."""
    follows_captured_camera: bool = True
    """Whether that camera is the one drawn from; else `camera` is."""

    @property
    def snapshot_nbytes(self) -> int:
        """Bytes of a snapshot."""
        return 28 * self.scenery.body_count + 12 * self.scenery.particle_count + CAMERA_NBYTES * self.is_camera_captured

    @property
    def tile_size(self) -> tuple[int, int]:
        """Width and height of a tile [pixels]; of the picture, where there is one."""
        rows, columns = self.scenery.grid
        return (self.width - TILE_GAP * (columns - 1)) // columns, (self.height - TILE_GAP * (rows - 1)) // rows

    def tile_places(self) -> Iterator[tuple[slice, slice]]:
        """Yield each tile's rows and columns of the picture, in the order of the tiles."""
        width, height = self.tile_size
        for number in range(len(self.scenery.tiles)):
            row, column = divmod(number, self.scenery.grid[1])
            top, left = row * (height + TILE_GAP), column * (width + TILE_GAP)
            yield slice(top, top + height), slice(left, left + width)

    def read(self, snapshot: Pixels) -> Shot:
        """Return what a snapshot says.

        Raises:
            CaptureError: it is of another scenery, or a body or particle is nowhere.
            ConfigurationError: its camera is none.
        """
        if snapshot.nbytes != self.snapshot_nbytes:
            raise CaptureError(f"a snapshot of this scene has {self.snapshot_nbytes} bytes, got {snapshot.nbytes}")
        values = snapshot.view(np.float32)
        bodies, rest = np.split(values, [7 * self.scenery.body_count])
        particles, camera = np.split(rest, [3 * self.scenery.particle_count])
        shot = Shot(
            bodies=bodies.reshape(-1, 7),
            particles=particles.reshape(-1, 3),
            camera=Camera.from_floats(camera) if camera.size and self.follows_captured_camera else self.camera,
        )
        if not np.isfinite(values[: bodies.size + particles.size]).all():
            raise CaptureError(_nowhere(shot, self.scenery))
        return shot


@dataclass(frozen=True, slots=True, kw_only=True)
class Shot:
    """What a snapshot says."""

    bodies: Floats
    """Transforms, position [m] and quaternion xyzw, shape `[bodies, 7]`."""
    particles: Floats
    """Positions [m], shape `[particles, 3]`."""
    camera: Camera


def moved(camera: Camera, origin: Vector) -> Camera:
    """Return `camera` as seen from a world whose origin is at `origin` [m]."""
    if not any(origin):
        return camera
    eye, lookat = (
        (point[0] + origin[0], point[1] + origin[1], point[2] + origin[2]) for point in (camera.eye, camera.lookat)
    )
    return replace(camera, eye=eye, lookat=lookat)


def _nowhere(shot: Shot, scenery: Scenery) -> str:
    """Return the words for the first body or particle whose place is not finite."""
    lost = np.flatnonzero(~np.isfinite(shot.bodies).all(axis=1))
    if len(lost):
        place = ", ".join(f"{name}={part:g}" for name, part in zip(_PLACE_NAMES, shot.bodies[lost[0]], strict=True))
        return f"{len(lost)} of {len(shot.bodies)} bodies are nowhere, the first {scenery.body_names[lost[0]]}: {place}"
    lost = np.flatnonzero(~np.isfinite(shot.particles).all(axis=1))
    return f"{len(lost)} of {len(shot.particles)} particles are nowhere, the first in row {lost[0]} of the picture's"
