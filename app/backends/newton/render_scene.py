"""`RenderScene`: the part of a Newton model that a picture shows, as plain arrays that travel to a worker.

The worlds of the picture are laid out side by side as in Newton's viewer, and the render scene has no worlds of its
own: the layout is in the transform of a shape that is fixed, and in `body_offsets` for one that moves.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import BackendError
from ..camera import Vector

Floats = NDArray[np.float32]
Ints = NDArray[np.int32]

_WORLD_MARGIN = 1.5
_LARGEST_RADIUS = 1.0e5
"""Bounding radius [m] above which a shape has no part in the layout of worlds, as in Newton's viewer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MeshSource:
    """The arguments of a `newton.Mesh`."""

    vertices: Floats
    """Shape `[vertices, 3]` [m]."""
    indices: Ints
    """Shape `[3 * triangles]`."""
    normals: Floats | None
    uvs: Floats | None
    texture: NDArray[np.uint8] | str | None
    """Pixels, or the path of an image."""
    texture_transform: tuple[tuple[float, ...], ...]
    roughness: float | None
    metallic: float | None
    is_solid: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class HeightfieldSource:
    """The arguments of a `newton.Heightfield`."""

    data: Floats
    """Normalized heights, shape `[rows, columns]`."""
    hx: float
    hy: float
    min_z: float
    max_z: float


Source = MeshSource | HeightfieldSource


@dataclass(frozen=True, slots=True, kw_only=True)
class RenderScene:
    """Shapes, particles and triangles to draw, without the state. The arrays of one kind have the same length."""

    up_axis: int
    is_anchored: bool
    """Whether the last body is an anchor and none of the simulation's: it stands upright at the origin of the world,
    and the shapes that are fixed in the world belong to it."""
    bodies: Floats
    """Transforms at the model's start, position [m] and quaternion xyzw, shape `[bodies, 7]`, without offsets."""
    body_offsets: Floats
    """Added to a body's position by the layout of worlds [m], shape `[bodies, 3]`."""

    shape_type: Ints
    """`newton.GeoType`."""
    shape_body: Ints
    """Row of `bodies`, or -1 where the shape is fixed."""
    shape_transform: Floats
    """In the frame of the body, shape `[shapes, 7]`; of a fixed shape, in the picture's world."""
    shape_scale: Floats
    shape_margin: Floats
    shape_is_solid: NDArray[np.bool_]
    shape_color: Floats
    """sRGB in `[0, 1]`, shape `[shapes, 3]`."""
    shape_opacity: Floats
    shape_source: Ints
    """Index into the sources of the tiled scene, or -1."""
    shape_number: Ints
    """The shape's index in the model."""

    particles: Floats
    """Positions at the model's start [m], shape `[particles, 3]`, without offsets."""
    particle_offsets: Floats
    particle_radius: Floats
    particle_drawn: NDArray[np.bool_]
    """True where a particle shows as a sphere; corners of triangles show as no sphere."""
    triangles: Ints
    """Rows of `particles`, shape `[triangles, 3]`."""
    triangle_color: Floats | None
    triangle_opacity: Floats | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """The rows of a state that are in the picture."""

    worlds: tuple[int, ...]
    """The worlds in the picture, ascending; with tiles in the order of those."""
    bodies: NDArray[np.int64]
    particles: NDArray[np.int64]


def select(model: Any, worlds: Sequence[int]) -> Selection:
    """Return the bodies and particles of `worlds` and those that belong to no world."""
    return Selection(
        worlds=tuple(sorted(set(worlds))),
        bodies=np.flatnonzero(_in_worlds(_host(model.body_world, np.int32), worlds)),
        particles=np.flatnonzero(_in_worlds(_host(model.particle_world, np.int32), worlds)),
    )


def build_render_scene(
    model: Any, selection: Selection, sources: SceneSources, offsets: Floats, anchor: NDArray[np.float64] | None = None
) -> RenderScene:
    """Return the part of `model` that `selection` shows. Reads the model's arrays once; waits for the device.

    Args:
        model: The `newton.Model`.
        selection: The rows that are in the picture.
        sources: Where geometry is collected.
        offsets: Of `world_offsets`.
        anchor: The origin of the world [m], where the shapes that are fixed in it are to move with the origin.

    Raises:
        BackendError: nothing of it can be seen.
    """
    shapes = _visible_shapes(model, selection.worlds)
    deformables = _deformables(model, selection, offsets)
    if not len(shapes) and not deformables["particle_drawn"].any() and not len(deformables["triangles"]):
        raise BackendError(
            f"looked for something to draw in the worlds {list(selection.worlds)} and among the global shapes, found "
            f"none of {int(model.shape_count)} shapes visible; give a shape ShapeConfig(is_visible=True), or choose "
            "other visible_worlds"
        )
    bodies = _rows(model.body_q, np.float32, 7)[selection.bodies]
    body_offsets = offsets[_host(model.body_world, np.int32)[selection.bodies]]
    arrays = _shape_arrays(model, shapes, selection, offsets, sources)
    if anchor is not None:
        is_fixed_in_world = (arrays["shape_body"] < 0) & (_host(model.shape_world, np.int32)[shapes] >= 0)
        arrays["shape_body"][is_fixed_in_world] = len(bodies)
        arrays["shape_transform"][is_fixed_in_world, :3] -= anchor.astype(np.float32)
        bodies = np.vstack((bodies, np.array([[*anchor, 0.0, 0.0, 0.0, 1.0]], dtype=np.float32)))
        body_offsets = np.vstack((body_offsets, np.zeros((1, 3), dtype=np.float32)))
    return RenderScene(
        up_axis=int(model.up_axis),
        is_anchored=anchor is not None,
        bodies=bodies,
        body_offsets=body_offsets,
        **arrays,
        **deformables,
    )


def _shape_arrays(
    model: Any, shapes: NDArray[np.int64], selection: Selection, offsets: Floats, sources: SceneSources
) -> dict[str, Any]:
    """Return the fields of `RenderScene` that are about shapes."""
    rows_of_bodies = np.full(int(model.body_count) + 1, -1, dtype=np.int32)
    rows_of_bodies[selection.bodies] = np.arange(len(selection.bodies), dtype=np.int32)
    bodies = rows_of_bodies[_host(model.shape_body, np.int32)[shapes]]
    transforms = _rows(model.shape_transform, np.float32, 7)[shapes]
    fixed = bodies < 0
    transforms[fixed, :3] += offsets[_host(model.shape_world, np.int32)[shapes]][fixed]
    return {
        "shape_type": _host(model.shape_type, np.int32)[shapes],
        "shape_body": bodies,
        "shape_transform": transforms,
        "shape_scale": _scales(model)[shapes],
        "shape_margin": _host(model.shape_margin, np.float32)[shapes],
        "shape_is_solid": _host(model.shape_is_solid, np.bool_)[shapes],
        "shape_color": _rows(model.shape_color, np.float32, 3)[shapes],
        "shape_opacity": _host(model.shape_opacity, np.float32)[shapes],
        "shape_source": np.array([sources.index_of(shape) for shape in shapes.tolist()], dtype=np.int32),
        "shape_number": shapes.astype(np.int32),
    }


def _visible_shapes(model: Any, worlds: Sequence[int]) -> NDArray[np.int64]:
    import newton

    visible = (_host(model.shape_flags, np.int32) & int(newton.ShapeFlags.VISIBLE)) != 0
    visible &= _in_worlds(_host(model.shape_world, np.int32), worlds)
    # Newton's viewer shows Gaussian splats only on demand.
    visible &= _host(model.shape_type, np.int32) != int(newton.GeoType.GAUSSIAN)
    return np.flatnonzero(visible)


def _scales(model: Any) -> Floats:
    """Return the shapes' scales as the viewer draws them."""
    import newton

    scales = _rows(model.shape_scale, np.float32, 3)
    display_only = getattr(getattr(model, "mujoco", None), "site_size_is_display", None)
    if display_only is not None:
        # The third size of a cylindrical MuJoCo site is not the barrel radius that it would mean elsewhere.
        is_cylinder = _host(model.shape_type, np.int32) == int(newton.GeoType.CYLINDER)
        scales[is_cylinder & _host(display_only, np.bool_), 2] = 0.0
    return scales


class SceneSources:
    """The geometry of a model's shapes; each is taken once, in the order in which it was asked for."""

    def __init__(self, model: Any) -> None:
        has_variants = getattr(model, "_has_variant_rows", False)
        self._of_shapes = model._shape_current_sources() if has_variants else model.shape_source
        self._types = _host(model.shape_type, np.int32)
        self._sources: list[Source] = []
        self._index_of: dict[int, int] = {}

    def __iter__(self) -> Iterator[Source]:
        return iter(self._sources)

    def index_of(self, shape: int) -> int:
        """Return the index of a shape's geometry; -1 where the shape's type is enough to draw it."""
        source = self._of_shapes[shape]
        if id(source) not in self._index_of:
            taken = _source(source, int(self._types[shape]))
            self._index_of[id(source)] = -1 if taken is None else len(self._sources)
            self._sources += [] if taken is None else [taken]
        return self._index_of[id(source)]


def _source(source: Any, geo_type: int) -> MeshSource | HeightfieldSource | None:
    import newton

    if geo_type in (int(newton.GeoType.MESH), int(newton.GeoType.CONVEX_MESH)):
        return MeshSource(
            vertices=np.array(source.vertices, dtype=np.float32).reshape(-1, 3),
            indices=np.array(source.indices, dtype=np.int32).reshape(-1),
            normals=_optional(source.normals, 3),
            uvs=_optional(source.uvs, 2),
            texture=_texture(source.texture),
            texture_transform=tuple(tuple(float(part) for part in row) for row in source.texture_transform),
            roughness=source.roughness,
            metallic=source.metallic,
            is_solid=bool(source.is_solid),
        )
    if geo_type == int(newton.GeoType.HFIELD):
        return HeightfieldSource(
            data=np.array(source.data, dtype=np.float32),
            hx=float(source.hx),
            hy=float(source.hy),
            min_z=float(source.min_z),
            max_z=float(source.max_z),
        )
    return None


def _texture(texture: Any) -> NDArray[np.uint8] | str | None:
    # A worker may run in another folder.
    if isinstance(texture, str) and os.path.exists(texture):
        return os.path.abspath(texture)
    return texture if texture is None or isinstance(texture, str) else np.array(texture)


def _deformables(model: Any, selection: Selection, offsets: Floats) -> dict[str, Any]:
    """Return the fields of `RenderScene` that are about particles and the triangles between them."""
    import newton

    count = int(model.particle_count)
    particles = selection.particles
    rows_of_particles = np.full(count + 1, -1, dtype=np.int32)
    rows_of_particles[particles] = np.arange(len(particles), dtype=np.int32)
    triangles = rows_of_particles[_rows(model.tri_indices, np.int32, 3)]
    shown = np.flatnonzero((triangles >= 0).all(axis=1))
    tetrahedra = _rows(model.tet_indices, np.int32, 4)

    is_corner = np.zeros(count, dtype=np.bool_)
    is_corner[_rows(model.tri_indices, np.int32, 3).reshape(-1)] = True
    is_corner[tetrahedra.reshape(-1)] = True
    active = (_host(model.particle_flags, np.int32) & int(newton.ParticleFlags.ACTIVE)) != 0
    return {
        "particles": _rows(model.particle_q, np.float32, 3)[particles],
        "particle_offsets": offsets[_host(model.particle_world, np.int32)[particles]],
        "particle_radius": _host(model.particle_radius, np.float32)[particles],
        "particle_drawn": (active & ~is_corner)[particles],
        "triangles": triangles[shown],
        "triangle_color": _per_triangle(model.tri_color, (int(model.tri_count), 3), shown),
        "triangle_opacity": _per_triangle(model.tri_opacity, (int(model.tri_count),), shown),
    }


def _per_triangle(array: Any, shape: tuple[int, ...], shown: NDArray[np.int64]) -> Floats | None:
    values = None if array is None else array.numpy()
    return None if values is None or values.shape != shape else np.array(values[shown], dtype=np.float32)


def world_offsets(model: Any, worlds: tuple[int, ...], world_spacing: Vector | None) -> Floats:
    """Return the offset of each world in the layout [m], shape `[world_count + 1, 3]`; the last is for no world.

    Args:
        model: The `newton.Model`.
        worlds: The worlds that stand side by side.
        world_spacing: Distances of neighbouring worlds along each axis [m]; zeros leave them where they are; None:
            what the largest world needs.
    """
    from newton.utils import compute_world_offsets

    offsets = np.zeros((int(model.world_count) + 1, 3), dtype=np.float32)
    spacing = world_spacing or _needed_spacing(model)
    if spacing is not None and worlds:
        offsets[list(worlds)] = compute_world_offsets(len(worlds), spacing, model.up_axis)
    return offsets


def _needed_spacing(model: Any) -> Vector | None:
    """Return the spacing [m] at which no two worlds overlap, along the ground, or None where no world has a size."""
    extents = _largest_world_extents(model)
    if extents is None:
        return None
    spacing = [float(np.ceil(extents.max() * _WORLD_MARGIN))] * 3
    spacing[int(model.up_axis)] = 0.0
    return spacing[0], spacing[1], spacing[2]


def _largest_world_extents(model: Any) -> Floats | None:
    """Return the sides [m] of a box that every world fits into, or None where no world has a bounded shape.

    Newton's viewer spaces worlds by the same measure: bounding spheres at the model's start, hidden shapes included.
    """
    worlds = _host(model.shape_world, np.int32)
    radii = _host(model.shape_collision_radius, np.float32)
    shapes = np.flatnonzero((worlds >= 0) & (worlds < int(model.world_count)) & (radii <= _LARGEST_RADIUS))
    if not len(shapes):
        return None
    centers = _world_positions(model)[shapes]
    low = np.full((int(model.world_count), 3), np.inf, dtype=np.float32)
    high = -low
    np.minimum.at(low, worlds[shapes], centers - radii[shapes, None])
    np.maximum.at(high, worlds[shapes], centers + radii[shapes, None])
    known = np.isfinite(low).all(axis=1) & np.isfinite(high).all(axis=1)
    extents: Floats | None = (high[known] - low[known]).max(axis=0) if known.any() else None
    return extents


def _world_positions(model: Any) -> Floats:
    """Return the shapes' origins at the model's start [m], shape `[shapes, 3]`."""
    parents = _host(model.shape_body, np.int32)
    origins = _rows(model.shape_transform, np.float32, 7)[:, :3]
    bodies = np.vstack((_rows(model.body_q, np.float32, 7), np.array([[0, 0, 0, 0, 0, 0, 1]], dtype=np.float32)))
    frames = bodies[parents]
    axis, w = frames[:, 3:6], frames[:, 6:]
    turned = (
        origins * (2.0 * w * w - 1.0)
        + np.cross(axis, origins) * w * 2.0
        + axis * (axis * origins).sum(axis=1, keepdims=True) * 2.0
    )
    positions: Floats = turned + frames[:, :3]
    return positions


def _in_worlds(world_of: Ints, worlds: Sequence[int]) -> NDArray[np.bool_]:
    return np.isin(world_of, [-1, *worlds])


def _host(array: Any, dtype: Any) -> NDArray[Any]:
    """Return a copy of a Warp array in host memory; empty where there is none."""
    return np.zeros(0, dtype=dtype) if array is None else np.array(array.numpy(), dtype=dtype)


def _rows(array: Any, dtype: Any, width: int) -> NDArray[Any]:
    return _host(array, dtype).reshape(-1, width)


def _optional(values: Any, width: int) -> Floats | None:
    return None if values is None else np.array(values, dtype=np.float32).reshape(-1, width)
