"""A `NewtonRenderSpec` as plain arrays and settings, and back. An archive may come from anybody and is checked.

Every number that is used as an index (bodies of shapes, corners of triangles, rows of tiles) is checked against the
length of what it points into, since Newton and OpenGL would read past the end of an array.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import BackendError
from ...interfaces import RendererArchive
from ..camera import Camera, Vector
from ..colour import checked_range
from .render_scene import Floats, HeightfieldSource, Ints, MeshSource, RenderScene, Source
from .render_spec import Channel, NewtonRenderSpec
from .tiled_scene import Tile, TiledScene

KIND = "newton"
RENDERERS = ("auto", "gl", "warp")

_LARGEST_SIDE = 16384
_LARGEST_AREA = 2**26
"""Pixels; 200 MB."""
_SHAPES_BY_SIZE = (1, 3, 4, 5, 6, 7, 9)
"""Of `newton.GeoType`: plane, sphere, capsule, ellipsoid, cylinder, box, cone."""
_MESHES = (8, 10)
_HEIGHTFIELD = 2

_log = logging.getLogger(__name__)


def to_archive(spec: NewtonRenderSpec) -> RendererArchive:
    """Return the archive that `spec_of` makes the same spec of; textures that meshes name by a path are read now."""
    tiled_scene = spec.tiled_scene
    arrays: dict[str, NDArray[Any]] = {"body_names": np.array(tiled_scene.body_names, dtype=np.str_).reshape(-1)}
    for number, scene in enumerate(tiled_scene.scenes):
        arrays |= {f"scene{number}.{name}": value for name, value in _arrays_of(scene).items()}
    for number, tile in enumerate(tiled_scene.tiles):
        arrays |= {f"tile{number}.{name}": value for name, value in _arrays_of(tile).items()}
    for number, source in enumerate(tiled_scene.sources):
        arrays |= {f"source{number}.{name}": value for name, value in _arrays_of(source).items()}
    settings = {
        "renderer": spec.renderer,
        "camera": spec.camera.to_json(),
        "is_camera_captured": spec.is_camera_captured,
        "width": spec.width,
        "height": spec.height,
        "channel": spec.channel.value,
        "depth_range": list(spec.depth_range),
        "grid": list(tiled_scene.grid),
        "up_axis": tiled_scene.up_axis,
        "particle_count": tiled_scene.particle_count,
        "scenes": [{"is_anchored": scene.is_anchored} for scene in tiled_scene.scenes],
        "tiles": [{"scene": tile.scene, "origin": list(tile.origin)} for tile in tiled_scene.tiles],
        "sources": [_settings_of(source) for source in tiled_scene.sources],
    }
    return RendererArchive(kind=KIND, arrays=arrays, settings=settings)


def spec_of(
    archive: RendererArchive, *, camera: Camera | None, width: int | None, height: int | None
) -> NewtonRenderSpec:
    """Return the render spec of an archive.

    Raises:
        BackendError: the archive is not whole.
        KeyError, TypeError, ValueError: likewise.
    """
    settings = archive.settings
    spec = NewtonRenderSpec(
        tiled_scene=_tiled_scene(archive),
        camera=camera or Camera(**{name: settings["camera"][name] for name in ("eye", "lookat", "fov")}),
        width=_whole("width", width or settings["width"], 1, _LARGEST_SIDE),
        height=_whole("height", height or settings["height"], 1, _LARGEST_SIDE),
        renderer=str(settings["renderer"]),
        channel=Channel(settings["channel"]),
        depth_range=checked_range("depth_range", settings["depth_range"]),
        is_camera_captured=bool(settings["is_camera_captured"]),
        follows_captured_camera=camera is None,
    )
    _demand(spec.width * spec.height <= _LARGEST_AREA, f"a picture of {spec.width}x{spec.height} pixels")
    _demand(min(spec.tile_size) >= 1, f"tiles of {spec.tile_size} pixels")
    _demand(spec.renderer in RENDERERS, f"a renderer {spec.renderer!r}")
    return spec


def _tiled_scene(archive: RendererArchive) -> TiledScene:
    settings = archive.settings
    sources = tuple(
        _source(_Part(archive.arrays, f"source{number}"), facts) for number, facts in enumerate(settings["sources"])
    )
    up_axis = _whole("up_axis", settings["up_axis"], 0, 2)
    scenes = tuple(
        _scene(_Part(archive.arrays, f"scene{number}"), bool(facts["is_anchored"]), up_axis, sources)
        for number, facts in enumerate(settings["scenes"])
    )
    names = tuple(np.asarray(archive.arrays["body_names"], dtype=np.str_).reshape(-1).tolist())
    particle_count = _whole("particle_count", settings["particle_count"], 0, 2**31)
    tiles = tuple(
        _tile(_Part(archive.arrays, f"tile{number}"), facts, scenes, len(names), particle_count)
        for number, facts in enumerate(settings["tiles"])
    )
    rows, columns = (_whole("grid", side, 1, _LARGEST_SIDE) for side in settings["grid"])
    _demand(0 < len(tiles) <= rows * columns, f"{len(tiles)} tiles in a grid of {rows} x {columns}")
    return TiledScene(
        scenes=scenes,
        sources=sources,
        tiles=tiles,
        grid=(rows, columns),
        body_names=names,
        particle_count=particle_count,
    )


def _tile(
    part: _Part, facts: Mapping[str, Any], scenes: tuple[RenderScene, ...], body_count: int, particle_count: int
) -> Tile:
    scene = _whole("scene", facts["scene"], 0, len(scenes) - 1)
    tile = Tile(
        scene=scene,
        origin=_point(facts["origin"]),
        body_rows=part.ints("body_rows", 0, body_count).astype(np.int64),
        particle_rows=part.ints("particle_rows", 0, particle_count).astype(np.int64),
    )
    _demand(len(tile.body_rows) == len(scenes[scene].bodies) - scenes[scene].is_anchored, "a tile of other bodies")
    _demand(len(tile.particle_rows) == len(scenes[scene].particles), "a tile of other particles")
    return tile


def _scene(part: _Part, is_anchored: bool, up_axis: int, sources: tuple[Source, ...]) -> RenderScene:
    bodies, particles = part.floats("bodies", 7), part.floats("particles", 3)
    types = part.ints("shape_type", 0, 12)
    shapes, triangles = len(types), part.ints("triangles", 0, len(particles), 3)
    _demand(len(bodies) >= is_anchored, "an anchor that is not there")
    scene = RenderScene(
        up_axis=up_axis,
        is_anchored=is_anchored,
        bodies=bodies,
        body_offsets=part.floats("body_offsets", 3, rows=len(bodies)),
        shape_type=types,
        shape_body=part.ints("shape_body", -1, len(bodies), rows=shapes),
        shape_transform=part.floats("shape_transform", 7, rows=shapes),
        shape_scale=part.floats("shape_scale", 3, rows=shapes),
        shape_margin=part.floats("shape_margin", rows=shapes),
        shape_is_solid=part.flags("shape_is_solid", shapes),
        shape_color=part.floats("shape_color", 3, rows=shapes),
        shape_opacity=part.floats("shape_opacity", rows=shapes),
        shape_source=part.ints("shape_source", -1, len(sources), rows=shapes),
        shape_number=part.ints("shape_number", 0, 2**31 - 4, rows=shapes),
        particles=particles,
        particle_offsets=part.floats("particle_offsets", 3, rows=len(particles)),
        particle_radius=part.floats("particle_radius", rows=len(particles)),
        particle_drawn=part.flags("particle_drawn", len(particles)),
        triangles=triangles,
        triangle_color=part.floats("triangle_color", 3, rows=len(triangles)) if "triangle_color" in part else None,
        triangle_opacity=part.floats("triangle_opacity", rows=len(triangles)) if "triangle_opacity" in part else None,
    )
    for geo_type, index in zip(types.tolist(), scene.shape_source.tolist(), strict=True):
        _demand(_fits(geo_type, sources[index] if index >= 0 else None), f"a shape of type {geo_type}")
    return scene


def _fits(geo_type: int, source: Source | None) -> bool:
    """Return whether a shape of this type can be made of this geometry."""
    if geo_type in _MESHES:
        return isinstance(source, MeshSource)
    return isinstance(source, HeightfieldSource) if geo_type == _HEIGHTFIELD else geo_type in _SHAPES_BY_SIZE


def _source(part: _Part, facts: Mapping[str, Any]) -> Source:
    if facts["kind"] == "heightfield":
        data = part.floats("data", None)
        _demand(min(data.shape) >= 2, f"a heightfield of shape {list(data.shape)}")
        hx, hy, min_z, max_z = (_number(facts[name]) for name in ("hx", "hy", "min_z", "max_z"))
        return HeightfieldSource(data=data, hx=hx, hy=hy, min_z=min_z, max_z=max_z)
    _demand(facts["kind"] == "mesh", f"geometry of kind {facts['kind']!r}")
    vertices = part.floats("vertices", 3)
    indices = part.ints("indices", 0, len(vertices))
    _demand(len(indices) >= 3 and len(indices) % 3 == 0, f"a mesh of {len(indices)} corners")
    rows = [[_number(value) for value in row] for row in facts["texture_transform"]]
    _demand([len(row) for row in rows] == [3, 3], "a texture's transform of another shape")
    return MeshSource(
        vertices=vertices,
        indices=indices,
        normals=part.floats("normals", 3, rows=len(vertices)) if "normals" in part else None,
        uvs=part.floats("uvs", 2, rows=len(vertices)) if "uvs" in part else None,
        texture=part.pixels("texture") if "texture" in part else None,
        texture_transform=tuple(tuple(row) for row in rows),
        roughness=None if facts["roughness"] is None else _number(facts["roughness"]),
        metallic=None if facts["metallic"] is None else _number(facts["metallic"]),
        is_solid=bool(facts["is_solid"]),
    )


class _Part:
    """The arrays whose names begin with one word, each checked when it is taken."""

    def __init__(self, arrays: Mapping[str, NDArray[Any]], word: str) -> None:
        self._arrays = arrays
        self._word = word

    def __contains__(self, name: str) -> bool:
        return f"{self._word}.{name}" in self._arrays

    def floats(self, name: str, columns: int | None = 1, *, rows: int | None = None) -> Floats:
        """Return finite numbers; `columns` 1: shape `[rows]`; None: of any two sides."""
        array = self._of_kind(name, "f", {1: 1}.get(columns or 0, 2))
        self._demand_shape(name, array, rows, columns)
        _demand(bool(np.isfinite(array).all()), f"{self._word}.{name}, which is not finite")
        return array.astype(np.float32)

    def ints(self, name: str, low: int, high: int, columns: int = 1, *, rows: int | None = None) -> Ints:
        """Return whole numbers from `low` to before `high`."""
        array = self._of_kind(name, "iu", 1 if columns == 1 else 2)
        self._demand_shape(name, array, rows, columns)
        is_inside = not array.size or (low <= int(array.min()) and int(array.max()) < high)
        _demand(is_inside, f"{self._word}.{name}, which is not within {low} and {high}")
        return array.astype(np.int32)

    def flags(self, name: str, rows: int) -> NDArray[np.bool_]:
        array = self._of_kind(name, "b", 1)
        self._demand_shape(name, array, rows, 1)
        return array.astype(np.bool_)

    def pixels(self, name: str) -> NDArray[np.uint8]:
        array = np.ascontiguousarray(self._of_kind(name, "u", 3), dtype=np.uint8)
        _demand(array.size > 0 and array.shape[2] in (3, 4), f"{self._word}.{name} of shape {list(array.shape)}")
        return array

    def _of_kind(self, name: str, kinds: str, ndim: int) -> NDArray[Any]:
        array = np.asarray(self._arrays[f"{self._word}.{name}"])
        is_right = array.dtype.kind in kinds and array.ndim == ndim
        _demand(is_right, f"{self._word}.{name} of dtype {array.dtype} and shape {list(array.shape)}")
        return array

    def _demand_shape(self, name: str, array: NDArray[Any], rows: int | None, columns: int | None) -> None:
        is_right = rows in (None, len(array)) and (array.ndim == 1 or columns in (None, array.shape[1]))
        _demand(is_right, f"{self._word}.{name} of shape {list(array.shape)}")


def _arrays_of(part: RenderScene | Tile | Source) -> dict[str, NDArray[Any]]:
    values = {field.name: getattr(part, field.name) for field in fields(part)}
    if isinstance(part, MeshSource):
        values["texture"] = _texture_pixels(part.texture)
    return {name: value for name, value in values.items() if isinstance(value, np.ndarray)}


def _settings_of(source: Source) -> dict[str, Any]:
    kind = "mesh" if isinstance(source, MeshSource) else "heightfield"
    values = {field.name: getattr(source, field.name) for field in fields(source) if field.name != "texture"}
    return {"kind": kind, **{name: value for name, value in values.items() if not isinstance(value, np.ndarray)}}


def _texture_pixels(texture: NDArray[Any] | str | None) -> NDArray[np.uint8] | None:
    """Return a texture as uint8 of shape `[height, width, 3 or 4]`; None where it can't be had."""
    if texture is None:
        return None
    from newton.utils import load_texture, normalize_texture

    pixels: NDArray[np.uint8] | None = None
    try:
        pixels = normalize_texture(load_texture(texture), require_channels=True)
    except ValueError as exc:
        _log.warning("a texture is left out of an archive: %s", exc)
    return pixels


def _whole(name: str, value: Any, low: int, high: int) -> int:
    is_right = isinstance(value, int) and not isinstance(value, bool) and low <= value <= high
    _demand(is_right, f"{name} {value!r}, not within {low} and {high}")
    return int(value)


def _number(value: Any) -> float:
    is_right = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    _demand(is_right, f"{value!r} in the place of a number")
    return float(value)


def _point(value: Any) -> Vector:
    x, y, z = (_number(part) for part in value)
    return x, y, z


def _demand(is_right: bool, found: str) -> None:
    if not is_right:
        raise BackendError(f"the archive of kind {KIND!r} is damaged: it has {found}")
