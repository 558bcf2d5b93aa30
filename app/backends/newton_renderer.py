"""The renderers of Newton snapshots: pickled by the training process, opened and used in a worker.

A snapshot is the transforms of the scene's bodies (float32, `[bodies, 7]`) followed by the positions of its particles
(float32, `[particles, 3]`), and, where the camera follows something, by the camera (float32, `[7]`).
"""

from __future__ import annotations

import inspect
import logging
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import BackendError, RendererUnavailableError
from .camera import CAMERA_NBYTES, Camera
from .newton_scene import Floats, HeightfieldSource, MeshSource, Scene

Pixels = NDArray[np.uint8]

_log = logging.getLogger(__name__)

_BACKGROUND = 0xEBCEB4
"""Packed as Newton does, 0xBBGGRR: a pale sky. Its alpha is never read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """What to draw, from where, how large."""

    scene: Scene
    camera: Camera
    """As it was when the recorder was opened, or as it stays."""
    width: int
    height: int
    tracer_device: str = "cpu"
    """Warp device of the ray tracer: "cpu" or "cuda:0"."""
    egl_device: int = 0
    """Which of the EGL devices that the system lists draws with OpenGL."""
    is_camera_captured: bool = False
    """Whether each snapshot ends with a camera of its own."""

    @property
    def snapshot_nbytes(self) -> int:
        """Bytes of a snapshot."""
        return 4 * (self.scene.bodies.size + self.scene.particles.size) + CAMERA_NBYTES * self.is_camera_captured

    def camera_of(self, snapshot: Pixels) -> Camera:
        """Return the camera that a snapshot is drawn from.

        Raises:
            ConfigurationError: the snapshot's is none.
        """
        return (
            Camera.from_floats(snapshot[-CAMERA_NBYTES:].view(np.float32)) if self.is_camera_captured else self.camera
        )


class GlRenderer:
    """Draws with Newton's OpenGL viewer, without a window, over EGL."""

    name = "newton_gl"

    def __init__(self, view: View) -> None:
        self._view = view

    def open(self) -> None:
        """Load the scene and make the OpenGL context.

        Raises:
            BackendError: the scene can't be loaded.
            RendererUnavailableError: no context could be made here.
        """
        # The viewer needs Warp for a few small arrays only; on the CPU they take nothing from a training GPU.
        self._stage = _open_stage(self._view, "cpu")
        try:
            self._viewer = _headless_viewer(self._view)
        except Exception as exc:
            raise RendererUnavailableError(
                f"tried to open Newton's OpenGL viewer at {self._view.width}x{self._view.height} over EGL, found "
                f"{type(exc).__name__}: {exc}; install EGL with a driver (Debian: libegl1 libegl-mesa0 libgl1 "
                'libgl1-mesa-dri libopengl0) and pyglet below 3, or use renderer="warp"'
            ) from exc
        self._viewer.set_model(self._stage.model)
        self._viewer.show_particles = bool(self._view.scene.particle_drawn.any())
        self._camera: Camera | None = None
        self._picture = _warp().empty((self._view.height, self._view.width, 3), dtype=_warp().uint8, device="cpu")
        # Newton 1.6 knows the parameter by another name.
        parameters = inspect.signature(self._viewer.get_frame).parameters
        self._output = {"output" if "output" in parameters else "target_image": self._picture}

    def render(self, snapshot: Pixels) -> Pixels:
        """See `stepreel.clip.Renderer.render`."""
        state = self._stage.set(snapshot)
        self._aim(self._view.camera_of(snapshot))
        # Another renderer of this process may have drawn last, in a context of its own.
        self._viewer.renderer.window.switch_to()
        self._viewer.begin_frame(0.0)
        self._viewer.log_state(state)
        self._viewer.end_frame()
        self._viewer.get_frame(**self._output)
        pixels: Pixels = self._picture.numpy()
        return pixels

    def close(self) -> None:
        """Let go of the OpenGL context."""
        self._viewer.renderer.window.switch_to()
        self._viewer.close()

    def _aim(self, camera: Camera) -> None:
        if camera == self._camera:
            return
        self._camera = camera
        pitch, yaw = camera.pitch_yaw(self._view.scene.up_axis)
        self._viewer.set_camera(pos=_warp().vec3(*camera.eye), pitch=pitch, yaw=yaw)
        self._viewer.camera.fov = camera.fov


class WarpRenderer:
    """Draws with Newton's ray tracer, without OpenGL. Its pictures are plainer than the viewer's."""

    name = "newton_warp"

    def __init__(self, view: View) -> None:
        self._view = view

    def open(self) -> None:
        """Load the scene and the ray tracer; the first time ever, this compiles kernels for tens of seconds.

        Raises:
            BackendError: the scene can't be loaded.
            RendererUnavailableError: this version of Newton has no ray tracer, or it can't be set up.
        """
        device = self._view.tracer_device
        self._stage = _open_stage(self._view, device)
        try:
            with _warp().ScopedDevice(device):
                self._tracer = _open_tracer(self._stage.model, self._view)
        except Exception as exc:
            raise RendererUnavailableError(
                f"tried to set up Newton's ray tracer on {device}, found {type(exc).__name__}: {exc}; use Newton 1.6 "
                'or newer, or renderer="gl"'
            ) from exc
        self._pixels = np.empty((self._view.height, self._view.width, 3), dtype=np.uint8)

    def render(self, snapshot: Pixels) -> Pixels:
        """See `stepreel.clip.Renderer.render`."""
        state = self._stage.set(snapshot)
        with _warp().ScopedDevice(self._view.tracer_device):
            self._tracer.aim(self._view.camera_of(snapshot))
            if self._stage.model.shape_count:
                self._stage.model.bvh_refit_shapes(state)
            if self._stage.model.particle_count:
                self._stage.model.bvh_refit_particles(state)
            rgba = self._tracer.draw(state)
        np.copyto(self._pixels, rgba[..., :3])
        return self._pixels

    def close(self) -> None:
        """Let go of the scene."""
        del self._tracer, self._stage


class FallbackRenderer:
    """Draws with OpenGL where it opens, else with the ray tracer."""

    def __init__(self, view: View) -> None:
        self._candidates: tuple[GlRenderer | WarpRenderer, ...] = (GlRenderer(view), WarpRenderer(view))
        self._opened: GlRenderer | WarpRenderer | None = None

    @property
    def name(self) -> str:
        """The renderer that draws: "newton_gl" or "newton_warp"."""
        return (self._opened or self._candidates[0]).name

    def open(self) -> None:
        """Open the first renderer that can be.

        Raises:
            RendererUnavailableError: none can; says why for each.
        """
        refusals = []
        for candidate in self._candidates:
            try:
                candidate.open()
            except RendererUnavailableError as exc:
                _log.warning("newton renderer %s can't be opened: %s", candidate.name, exc)
                refusals.append(exc)
            else:
                self._opened = candidate
                return
        raise RendererUnavailableError("; ".join(map(str, refusals))) from refusals[0]

    def render(self, snapshot: Pixels) -> Pixels:
        """See `stepreel.clip.Renderer.render`."""
        if self._opened is None:
            raise BackendError("asked to render before the renderer was opened; call open first")
        return self._opened.render(snapshot)

    def close(self) -> None:
        """Close the renderer that was opened."""
        if self._opened is not None:
            self._opened.close()


class _Stage:
    """A Newton model of nothing but the scene, and one state that takes on each snapshot."""

    def __init__(self, view: View, device: str) -> None:
        scene = view.scene
        self.model = _build_model(scene, device)
        self._state = self.model.state()
        self._body_values = scene.bodies.size
        self._body_offsets = scene.body_offsets
        self._particle_offsets = scene.particle_offsets
        self._particle_values = scene.particles.size
        self._nbytes = view.snapshot_nbytes

    def set(self, snapshot: Pixels) -> Any:
        """Return the `newton.State` of a snapshot; it is valid until the next one is set."""
        if snapshot.nbytes != self._nbytes:
            raise BackendError(f"a snapshot of this scene has {self._nbytes} bytes, got {snapshot.nbytes}")
        values = snapshot.view(np.float32)
        if self._body_values:
            bodies = values[: self._body_values].reshape(-1, 7).copy()
            bodies[:, :3] += self._body_offsets
            self._state.body_q.assign(bodies)
        if len(self._particle_offsets):
            particles = values[self._body_values :][: self._particle_values].reshape(-1, 3)
            self._state.particle_q.assign(particles + self._particle_offsets)
        return self._state


def _open_stage(view: View, device: str) -> _Stage:
    """Return the stage of a scene.

    Raises:
        BackendError: Newton doesn't take the scene.
    """
    wp = _warp()
    # Nothing here is differentiated, and kernels without a backward pass compile in half the time. It works on
    # modules that are imported from here on: in a worker, on Newton's.
    wp.config.enable_backward = False
    if hasattr(wp, "LOG_WARNING"):
        # Its banner and a line for each kernel that it loads are nothing that a training run's console should show.
        wp.config.log_level = wp.LOG_WARNING
    try:
        return _Stage(view, device)
    except Exception as exc:
        raise BackendError(
            f"tried to load a scene of {len(view.scene.shape_type)} shapes on {device}, found {type(exc).__name__}: "
            f"{exc}; see whether the worker runs the same newton and warp-lang, and can read the textures"
        ) from exc


class _CameraTracer:
    """Newton 1.7 and newer."""

    def __init__(self, model: Any, view: View) -> None:
        from newton.sensors import SensorCamera

        self._sensor = SensorCamera(model)
        self._sensor.create_default_light(direction=_sun_rays(view.scene.up_axis))
        self._settings = self._sensor.default_render_config
        self._clear = SensorCamera.ClearData(clear_color=_BACKGROUND)
        self._eye = _Eye(model, view)
        self._color = self._sensor.allocate_image_color(1, view.width, view.height)
        _set_look(self._settings, view.scene)

    def aim(self, camera: Camera) -> None:
        if self._eye.aim(camera):
            from newton.sensors import SensorCamera

            self._rays = SensorCamera.compute_camera_rays_pinhole(
                *self._eye.size, camera_fov=math.radians(camera.fov), device=self._sensor.device
            )

    def draw(self, state: Any) -> Pixels:
        self._sensor.update(
            state,
            self._eye.transforms,
            self._rays,
            color_image=self._color,
            clear_data=self._clear,
            render_config=self._settings,
        )
        return _rgba(self._color.numpy()[0])


class _TiledTracer:
    """Newton 1.6, where the same ray tracer has another face."""

    def __init__(self, model: Any, view: View) -> None:
        from newton.sensors import SensorTiledCamera

        self._settings = SensorTiledCamera.RenderConfig()
        _set_look(self._settings, view.scene)
        self._sensor = SensorTiledCamera(model, default_render_config=self._settings)
        self._sensor.utils.create_default_light(enable_shadows=True, direction=_sun_rays(view.scene.up_axis))
        self._clear = SensorTiledCamera.ClearData(clear_color=_BACKGROUND)
        self._eye = _Eye(model, view)
        self._color = self._sensor.utils.create_color_image_output(view.width, view.height)

    def aim(self, camera: Camera) -> None:
        if self._eye.aim(camera):
            self._rays = self._sensor.utils.compute_camera_rays_pinhole(
                *self._eye.size, camera_fovs=math.radians(camera.fov)
            )

    def draw(self, state: Any) -> Pixels:
        transforms = self._eye.transforms.reshape((1, 1))
        self._sensor.update(state, transforms, self._rays, color_image=self._color, clear_data=self._clear)
        return _rgba(self._color.numpy()[0, 0])


class _Eye:
    """The ray tracer's camera, which moves between pictures."""

    def __init__(self, model: Any, view: View) -> None:
        self.size = (view.width, view.height)
        self.transforms = _warp().zeros(1, dtype=_warp().transformf, device=model.device)
        self._up_axis = view.scene.up_axis
        self._camera: Camera | None = None

    def aim(self, camera: Camera) -> bool:
        """Move to `camera`; return whether its rays are others than before."""
        known, self._camera = self._camera, camera
        if camera != known:
            self.transforms.assign(np.array([[*camera.eye, *camera.rotation(self._up_axis)]], dtype=np.float32))
        return known is None or camera.fov != known.fov


def _set_look(settings: Any, scene: Scene) -> None:
    """Settings of the ray tracer under which a picture resembles the viewer's."""
    settings.enable_shadows = True
    # What a scene doesn't need is left out of the kernel that is compiled for it.
    settings.enable_textures = any(
        isinstance(source, MeshSource) and source.texture is not None for source in scene.sources
    )
    # Cloth is seen from both sides.
    settings.enable_backface_culling = not len(scene.triangles)


def _sun_rays(up_axis: int) -> Any:
    """Return the direction in which the sun of Newton's viewer shines."""
    sun = ((0.8, 0.2, -0.3), (0.2, 0.8, -0.3), (0.2, -0.3, 0.8))[up_axis]
    return _warp().normalize(-_warp().vec3f(*sun))


def _open_tracer(model: Any, view: View) -> _CameraTracer | _TiledTracer:
    from newton import sensors

    return _CameraTracer(model, view) if hasattr(sensors, "SensorCamera") else _TiledTracer(model, view)


def _rgba(packed: NDArray[np.uint32]) -> Pixels:
    """Return `[height, width]` packed colours as `[height, width, 4]`."""
    return packed.astype("<u4", copy=False).view(np.uint8).reshape(*packed.shape, 4)


def _headless_viewer(view: View) -> Any:
    """Return a `ViewerGL` that draws into memory."""
    import pyglet

    # Both must be set before the first part of pyglet that draws is imported.
    pyglet.options["headless"] = True
    pyglet.options["headless_device"] = view.egl_device
    from newton.viewer import ViewerGL

    # Closing the last viewer of a process sets it; Newton 1.6 then draws nothing but black ever after.
    pyglet.app.event_loop.has_exit = False
    with _warp().ScopedDevice("cpu"):
        return ViewerGL(width=view.width, height=view.height, headless=True)


def _build_model(scene: Scene, device: str) -> Any:
    """Return a `newton.Model` that shows `scene`, without worlds, joints or collisions."""
    import newton

    builder = newton.ModelBuilder(up_axis=newton.Axis(scene.up_axis))
    for transform in _placed(scene.bodies, scene.body_offsets):
        builder.add_body(xform=_warp().transform(*transform))
    sources = [_newton_source(source) for source in scene.sources]
    for row, geo_type in enumerate(scene.shape_type.tolist()):
        source = int(scene.shape_source[row])
        builder.add_shape(
            body=int(scene.shape_body[row]),
            type=newton.GeoType(geo_type),
            xform=_warp().transform(*scene.shape_transform[row].tolist()),
            scale=_warp().vec3(*scene.shape_scale[row].tolist()),
            src=sources[source] if source >= 0 else None,
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


def _newton_source(source: MeshSource | HeightfieldSource) -> Any:
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


def _add_particles(builder: Any, scene: Scene) -> None:
    import newton

    count = len(scene.particles)
    if not count:
        return
    shown, hidden = int(newton.ParticleFlags.ACTIVE), 0
    builder.add_particles(
        pos=[_warp().vec3(*point) for point in _placed(scene.particles, scene.particle_offsets)],
        vel=[_warp().vec3(0.0)] * count,
        mass=[0.0] * count,
        radius=scene.particle_radius.tolist(),
        flags=[shown if drawn else hidden for drawn in scene.particle_drawn.tolist()],
    )


def _paint(model: Any, scene: Scene, device: str) -> None:
    """Set colours and triangles, for which the builder would want physical properties."""
    wp = _warp()
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


def _warp() -> Any:
    import warp

    return warp
