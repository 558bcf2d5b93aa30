"""`TiledScene`: a picture as a grid of tiles, each with a render scene and its rows of a snapshot.

A picture without tiles has one. Tiles whose worlds are copies of one another share a render scene, so that a robot's
meshes travel and are loaded once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..camera import Vector
from .render_scene import RenderScene, SceneSources, Selection, Source, build_render_scene, select, world_offsets

_CLOSE = 1e-4
"""Distance [m] within which shapes of two worlds count as being at the same place."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tile:
    """A part of the picture that shows one render scene."""

    scene: int
    """Index into the scenes."""
    origin: Vector
    """The origin of the tile's world [m]; the camera is relative to it."""
    body_rows: NDArray[np.int64]
    """The snapshot's bodies that are in the scene, in its order."""
    particle_rows: NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class TiledScene:
    """The render scenes of a model, and the tiles that show them."""

    scenes: tuple[RenderScene, ...]
    sources: tuple[Source, ...]
    """Geometry that the scenes' shapes share."""
    tiles: tuple[Tile, ...]
    """One for the whole picture, or in the order of rows, each from left to right."""
    grid: tuple[int, int]
    """Rows and columns of tiles."""
    body_names: tuple[str, ...]
    """Names of the bodies in a snapshot, for error messages."""
    particle_count: int

    @property
    def body_count(self) -> int:
        """Bodies in a snapshot."""
        return len(self.body_names)

    @property
    def up_axis(self) -> int:
        """0 (X), 1 (Y) or 2 (Z)."""
        return self.scenes[0].up_axis


def build_single_tile(model: Any, selection: Selection, world_spacing: Vector | None) -> TiledScene:
    """Return a scene of one tile, which shows the worlds of `selection` side by side.

    Raises:
        BackendError: nothing of it can be seen.
    """
    sources = SceneSources(model)
    offsets = world_offsets(model, selection.worlds, world_spacing)
    scene = build_render_scene(model, selection, sources, offsets)
    tile = _tile(0, selection, selection, (0.0, 0.0, 0.0))
    return _tiled_scene(model, selection, (scene,), sources, (tile,), (1, 1))


def build_tiles(
    model: Any, worlds: Sequence[int], grid: tuple[int, int], origins: NDArray[np.float64]
) -> tuple[TiledScene, Selection]:
    """Return a scene with a tile for each of `worlds`, and the rows of a state that it needs.

    Args:
        model: The `newton.Model`.
        worlds: Indices of the worlds, in the order of the tiles.
        grid: Rows and columns of tiles.
        origins: The origin of each world [m], shape `[world_count, 3]`.

    Raises:
        BackendError: nothing of a world can be seen.
    """
    whole = replace(select(model, worlds), worlds=tuple(worlds))
    sources = SceneSources(model)
    offsets = np.zeros((int(model.world_count) + 1, 3), dtype=np.float32)
    scenes: list[RenderScene] = []
    tiles = []
    for world in worlds:
        part = select(model, [world])
        anchor = origins[world] if origins.any() else None
        scene = build_render_scene(model, part, sources, offsets, anchor)
        number = next((index for index, known in enumerate(scenes) if _look_alike(known, scene)), len(scenes))
        if number == len(scenes):
            scenes.append(scene)
        x, y, z = origins[world].tolist()
        tiles.append(_tile(number, part, whole, (x, y, z)))
    return _tiled_scene(model, whole, tuple(scenes), sources, tuple(tiles), grid), whole


def _tiled_scene(
    model: Any,
    selection: Selection,
    scenes: tuple[RenderScene, ...],
    sources: SceneSources,
    tiles: tuple[Tile, ...],
    grid: tuple[int, int],
) -> TiledScene:
    return TiledScene(
        scenes=scenes,
        sources=tuple(sources),
        tiles=tiles,
        grid=grid,
        body_names=_body_names(model, selection),
        particle_count=len(selection.particles),
    )


def _tile(scene: int, part: Selection, whole: Selection, origin: Vector) -> Tile:
    return Tile(
        scene=scene,
        origin=origin,
        body_rows=np.searchsorted(whole.bodies, part.bodies),
        particle_rows=np.searchsorted(whole.particles, part.particles),
    )


def _body_names(model: Any, selection: Selection) -> tuple[str, ...]:
    worlds = model.body_world.numpy() if model.body_count else np.zeros(0, dtype=np.int32)
    return tuple(
        f"body {body} ({model.body_label[body]})" + (f" of world {worlds[body]}" if worlds[body] >= 0 else "")
        for body in selection.bodies.tolist()
    )


def _look_alike(one: RenderScene, other: RenderScene) -> bool:
    """Return whether two scenes draw the same; starting positions and the shapes' numbers may differ."""
    rest = {field.name for field in fields(RenderScene)} - {"bodies", "particles", "shape_number"}
    return (
        len(one.bodies) == len(other.bodies)
        and len(one.particles) == len(other.particles)
        and all(_is_close(getattr(one, name), getattr(other, name)) for name in rest)
    )


def _is_close(one: Any, other: Any) -> bool:
    if not (isinstance(one, np.ndarray) and isinstance(other, np.ndarray)):
        return one is other or (isinstance(one, int) and bool(one == other))
    if one.shape != other.shape:
        return False
    return bool(np.allclose(one, other, rtol=0.0, atol=_CLOSE) if one.dtype.kind == "f" else (one == other).all())
