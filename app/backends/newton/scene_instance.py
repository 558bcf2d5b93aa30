"""`SceneInstance`: a render scene loaded into Newton, in a worker, and the state that snapshots are copied into."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from ...errors import BackendError
from ..camera import Vector
from .render_scene import Floats, HeightfieldSource, RenderScene, Source


class SceneInstance:
    """A render scene as a Newton model, and a state of it.

    Attributes:
        model: The `newton.Model`, without worlds, joints, masses or collisions.
        scene: The render scene that it was made of.
    """

    def __init__(self, scene: RenderScene, sources: Sequence[Source], device: str) -> None:
        self.scene = scene
        self.model = _build_model(scene, sources, device)
        self._state = self.model.state()

    def set(self, bodies: Floats, particles: Floats, origin: Vector) -> Any:
        """Return the `newton.State` of bodies and particles; it is valid until the next is set.

        Args:
            bodies: Transforms, shape `[bodies, 7]`, without the layout's offsets and without the anchor.
            particles: Positions [m], shape `[particles, 3]`.
            origin: The position of the scene's anchor [m], if it has one.
        """
        if self.scene.is_anchored:
            bodies = np.vstack((bodies, np.array([[*origin, 0.0, 0.0, 0.0, 1.0]], dtype=np.float32)))
        if len(bodies):
            self._state.body_q.assign(np.hstack((bodies[:, :3] + self.scene.body_offsets, bodies[:, 3:])))
        if len(particles):
            self._state.particle_q.assign(particles + self.scene.particle_offsets)
        return self._state


def load_scene(scene: RenderScene, sources: Sequence[Source], device: str) -> SceneInstance:
    """Load a render scene onto a device.

    Raises:
        BackendError: Newton doesn't take the scene.
    """
    import warp as wp

    # Kernels without a backward pass compile in half the time. The setting holds for modules that are imported
    # from here on: in a worker, for Newton's.
    wp.config.enable_backward = False
    if hasattr(wp, "LOG_WARNING"):
        # Keeps its banner, and a line for each kernel that it loads, off the console of the training run.
        wp.config.log_level = wp.LOG_WARNING
    try:
        return SceneInstance(scene, sources, device)
    except Exception as exc:
        raise BackendError(
            f"tried to load a scene of {len(scene.shape_type)} shapes on {device}, found {type(exc).__name__}: "
            f"{exc}; see whether the worker runs the same newton and warp-lang, and can read the textures"
        ) from exc


def _build_model(scene: RenderScene, sources: Sequence[Source], device: str) -> Any:
    """Return a `newton.Model` that shows `scene`, without worlds, joints or collisions."""
    import newton
    import warp as wp

    builder = newton.ModelBuilder(up_axis=newton.Axis(scene.up_axis))
    for transform in _placed(scene.bodies, scene.body_offsets):
        builder.add_body(xform=wp.transform(*transform))
    used = set(scene.shape_source.tolist())
    geometry = {index: _newton_source(source) for index, source in enumerate(sources) if index in used}
    for row, geo_type in enumerate(scene.shape_type.tolist()):
        builder.add_shape(
            body=int(scene.shape_body[row]),
            type=newton.GeoType(geo_type),
            xform=wp.transform(*scene.shape_transform[row].tolist()),
            scale=wp.vec3(*scene.shape_scale[row].tolist()),
            src=geometry.get(int(scene.shape_source[row])),
            cfg=_inert(float(scene.shape_margin[row]), bool(scene.shape_is_solid[row])),
        )
    _add_particles(builder, scene)
    model = builder.finalize(device=device, skip_all_validations=True)
    _paint(model, scene, device)
    return model


def _inert(margin: float, is_solid: bool) -> Any:
    """Return the settings of a shape that is only looked at."""
    import newton

    return newton.ModelBuilder.ShapeConfig(
        density=0.0,
        margin=margin,
        is_solid=is_solid,
        collision_group=0,
        has_shape_collision=False,
        has_particle_collision=False,
        is_visible=True,
    )


def _newton_source(source: Source) -> Any:
    import newton

    if isinstance(source, HeightfieldSource):
        rows, columns = source.data.shape
        return newton.Heightfield(
            source.data, rows, columns, hx=source.hx, hy=source.hy, min_z=source.min_z, max_z=source.max_z
        )
    return newton.Mesh(
        source.vertices,
        source.indices,
        normals=source.normals,
        uvs=source.uvs,
        compute_inertia=False,
        is_solid=source.is_solid,
        roughness=source.roughness,
        metallic=source.metallic,
        texture=source.texture,
        texture_transform=source.texture_transform,
    )


def _add_particles(builder: Any, scene: RenderScene) -> None:
    import newton
    import warp as wp

    count = len(scene.particles)
    if not count:
        return
    shown, hidden = int(newton.ParticleFlags.ACTIVE), 0
    builder.add_particles(
        pos=[wp.vec3(*point) for point in _placed(scene.particles, scene.particle_offsets)],
        vel=[wp.vec3(0.0)] * count,
        mass=[0.0] * count,
        radius=scene.particle_radius.tolist(),
        flags=[shown if drawn else hidden for drawn in scene.particle_drawn.tolist()],
    )


def _paint(model: Any, scene: RenderScene, device: str) -> None:
    """Set colours and triangles, for which the builder would want physical properties."""
    import warp as wp

    if model.shape_count:
        model.shape_color.assign(scene.shape_color)
        model.shape_opacity.assign(scene.shape_opacity)
    if len(scene.triangles):
        model.tri_count = len(scene.triangles)
        model.tri_indices = wp.array(scene.triangles, dtype=wp.int32, device=device)
        if scene.triangle_color is not None:
            model.tri_color = wp.array(scene.triangle_color, dtype=wp.vec3, device=device)
        if scene.triangle_opacity is not None:
            model.tri_opacity = wp.array(scene.triangle_opacity, dtype=wp.float32, device=device)


def _placed(rows: Floats, offsets: Floats) -> Iterator[list[float]]:
    placed = rows.copy()
    placed[:, :3] += offsets
    return iter(placed.tolist())
