"""`NewtonRenderSpec`: the scene, camera and size of a picture, and how a snapshot is decoded.

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
from .render_scene import Floats
from .tiled_scene import TiledScene

Pixels = NDArray[np.uint8]

LEAST_TILE = 16
"""Shortest side of a tile [pixels]."""
TILE_GAP = 2
"""Pixels between neighbouring tiles."""
_PLACE_NAMES = ("x", "y", "z", "qx", "qy", "qz", "qw")


class Channel(StrEnum):
    """The quantity that a picture shows."""

    RGB = "rgb"
    DEPTH = "depth"
    """Distances from the camera's plane, in Turbo's colours."""
    NORMALS = "normals"
    """Directions of the surfaces, in the world's axes: -1 to 1 along x, y, z as red, green, blue from 0 to 255."""
    SEGMENTATION = "segmentation"
    """A colour for each shape, which depends on its number in the model only."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NewtonRenderSpec:
    """A picture to draw: its scene, camera, size and channel. Travels to a worker."""

    tiled_scene: TiledScene
    camera: Camera
    """The camera when the recorder was opened; in a tile, relative to the origin of the tile's world."""
    width: int
    height: int
    renderer: str = "auto"
    """The renderer that was asked for: "gl", "warp" or "auto"."""
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
    """Whether pictures are drawn from that camera; else from `camera`."""

    @property
    def snapshot_nbytes(self) -> int:
        """Bytes of a snapshot."""
        return (
            28 * self.tiled_scene.body_count
            + 12 * self.tiled_scene.particle_count
            + CAMERA_NBYTES * self.is_camera_captured
        )

    @property
    def tile_size(self) -> tuple[int, int]:
        """Width and height of a tile [pixels]; of the picture, where there is one."""
        rows, columns = self.tiled_scene.grid
        return (self.width - TILE_GAP * (columns - 1)) // columns, (self.height - TILE_GAP * (rows - 1)) // rows

    def tile_places(self) -> Iterator[tuple[slice, slice]]:
        """Yield each tile's rows and columns of the picture, in the order of the tiles."""
        width, height = self.tile_size
        for number in range(len(self.tiled_scene.tiles)):
            row, column = divmod(number, self.tiled_scene.grid[1])
            top, left = row * (height + TILE_GAP), column * (width + TILE_GAP)
            yield slice(top, top + height), slice(left, left + width)

    def decode(self, snapshot: Pixels) -> DecodedSnapshot:
        """Return the bodies, particles and camera of a snapshot.

        Raises:
            CaptureError: it is of another scene, or a body or particle has no finite position.
            ConfigurationError: its camera is invalid.
        """
        if snapshot.nbytes != self.snapshot_nbytes:
            raise CaptureError(f"a snapshot of this scene has {self.snapshot_nbytes} bytes, got {snapshot.nbytes}")
        values = snapshot.view(np.float32)
        bodies, rest = np.split(values, [7 * self.tiled_scene.body_count])
        particles, camera = np.split(rest, [3 * self.tiled_scene.particle_count])
        decoded = DecodedSnapshot(
            bodies=bodies.reshape(-1, 7),
            particles=particles.reshape(-1, 3),
            camera=Camera.from_floats(camera) if camera.size and self.follows_captured_camera else self.camera,
        )
        if not np.isfinite(values[: bodies.size + particles.size]).all():
            raise CaptureError(_nowhere(decoded, self.tiled_scene))
        return decoded


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodedSnapshot:
    """Bodies, particles and camera of one snapshot."""

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


def _nowhere(decoded: DecodedSnapshot, tiled_scene: TiledScene) -> str:
    """Return a message about the bodies or particles whose positions are not finite, and the first of them."""
    lost = np.flatnonzero(~np.isfinite(decoded.bodies).all(axis=1))
    if len(lost):
        first = lost[0]
        name = tiled_scene.body_names[first]
        place = ", ".join(f"{axis}={part:g}" for axis, part in zip(_PLACE_NAMES, decoded.bodies[first], strict=True))
        return f"{len(lost)} of {len(decoded.bodies)} bodies are nowhere, the first {name}: {place}"
    lost = np.flatnonzero(~np.isfinite(decoded.particles).all(axis=1))
    return f"{len(lost)} of {len(decoded.particles)} particles are nowhere, the first in row {lost[0]} of the picture's"
