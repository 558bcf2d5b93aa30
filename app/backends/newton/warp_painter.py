"""`WarpPainter`: Newton's ray tracer, which needs no OpenGL and also sees depth, normals and shapes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import RendererUnavailableError
from ..camera import Camera
from ..colour import depth_to_rgb, labels_to_rgb, normals_to_rgb
from .render_scene import MeshSource, RenderScene, Source
from .render_spec import Channel, NewtonRenderSpec, Pixels
from .scene_instance import SceneInstance, load_scene

_BACKGROUND = 0xEBCEB4
"""Packed as Newton does, 0xBBGGRR: a pale sky. Its alpha is never read."""
_NOTHING, _TRIANGLES, _PARTICLES = 0xFFFFFFFF, 0xFFFFFFFD, 0xFFFFFFFE
"""Shape indices of the ray tracer where a ray hit no shape."""
_OUTPUTS = {
    Channel.RGB: "color_image",
    Channel.DEPTH: "forward_depth_image",
    Channel.NORMALS: "normal_image",
    Channel.SEGMENTATION: "shape_index_image",
}


class WarpPainter:
    """Paints one scene with the ray tracer. Its colours are plainer than those of Newton's viewer.

    Opening the first one ever compiles kernels for tens of seconds.

    Raises:
        BackendError: the scene can't be loaded.
        RendererUnavailableError: this version of Newton has no ray tracer, or it can't be set up.
    """

    def __init__(self, spec: NewtonRenderSpec, scene: int) -> None:
        import warp as wp

        self._device = spec.tracer_device
        self.instance: SceneInstance = load_scene(
            spec.tiled_scene.scenes[scene], spec.tiled_scene.sources, self._device
        )
        self._spec = spec
        try:
            with wp.ScopedDevice(self._device):
                self._tracer = _open_tracer(self.instance, spec)
        except Exception as exc:
            raise RendererUnavailableError(
                f"tried to set up Newton's ray tracer on {self._device}, found {type(exc).__name__}: {exc}; use Newton "
                '1.6 or newer, or renderer="gl"'
            ) from exc
        self._labels = _labels(self.instance.scene)

    def paint(self, state: Any, camera: Camera, target: Pixels) -> None:
        """Paint a state of `instance` into `target`, shape `[height, width, 3]`, of the size of a tile."""
        import warp as wp

        model = self.instance.model
        with wp.ScopedDevice(self._device):
            self._tracer.set_camera(camera)
            if model.shape_count:
                model.bvh_refit_shapes(state)
            if model.particle_count:
                model.bvh_refit_particles(state)
            np.copyto(target, self._coloured(self._tracer.draw(state)))

    def close(self) -> None:
        """Let go of the scene."""
        del self._tracer, self.instance

    def _coloured(self, image: NDArray[Any]) -> Pixels:
        match self._spec.channel:
            case Channel.DEPTH:
                near, far = self._spec.depth_range
                return depth_to_rgb(image, near=near, far=far)
            case Channel.NORMALS:
                return normals_to_rgb(image)
            case Channel.SEGMENTATION:
                # Row 0 is for what is no shape; those that follow are the shapes of the scene.
                rows = np.where(image < len(self._labels) - 3, image + np.uint32(3), 0)
                for row, number in enumerate((_NOTHING, _TRIANGLES, _PARTICLES)):
                    rows[image == number] = row
                return labels_to_rgb(self._labels[rows], background=0)
            case _:
                # Packed colours, four bytes to a pixel.
                return image.astype("<u4", copy=False).view(np.uint8).reshape(*image.shape, 4)[..., :3]


def _labels(scene: RenderScene) -> NDArray[np.int64]:
    """Return the label of nothing, of triangles, of particles, and of each shape of the scene."""
    return np.concatenate(([0, 1, 2], scene.shape_number.astype(np.int64) + 3))


class _CameraTracer:
    """Newton 1.7 and newer."""

    def __init__(self, instance: SceneInstance, spec: NewtonRenderSpec) -> None:
        from newton.sensors import SensorCamera

        self._sensor = SensorCamera(instance.model)
        self._sensor.create_default_light(direction=_sun_rays(instance.scene.up_axis))
        self._settings = self._sensor.default_render_config
        self._clear = SensorCamera.ClearData(clear_color=_BACKGROUND)
        self._camera = _TracerCamera(instance, spec)
        self._image = self._camera.new_image(spec.channel, (1,))
        self._outputs = {_OUTPUTS[spec.channel]: self._image}
        _set_look(self._settings, instance.scene, spec.tiled_scene.sources)

    def set_camera(self, camera: Camera) -> None:
        if self._camera.move_to(camera):
            from newton.sensors import SensorCamera

            self._rays = SensorCamera.compute_camera_rays_pinhole(
                *self._camera.size, camera_fov=math.radians(camera.fov), device=self._sensor.device
            )

    def draw(self, state: Any) -> NDArray[Any]:
        self._sensor.update(
            state,
            self._camera.transforms,
            self._rays,
            clear_data=self._clear,
            render_config=self._settings,
            **self._outputs,
        )
        image: NDArray[Any] = self._image.numpy()[0]
        return image


class _TiledTracer:
    """Newton 1.6, where the same ray tracer has another face."""

    def __init__(self, instance: SceneInstance, spec: NewtonRenderSpec) -> None:
        from newton.sensors import SensorTiledCamera

        self._settings = SensorTiledCamera.RenderConfig()
        _set_look(self._settings, instance.scene, spec.tiled_scene.sources)
        self._sensor = SensorTiledCamera(instance.model, default_render_config=self._settings)
        self._sensor.utils.create_default_light(enable_shadows=True, direction=_sun_rays(instance.scene.up_axis))
        self._clear = SensorTiledCamera.ClearData(clear_color=_BACKGROUND)
        self._camera = _TracerCamera(instance, spec)
        self._image = self._camera.new_image(spec.channel, (1, 1))
        self._outputs = {_OUTPUTS[spec.channel]: self._image}

    def set_camera(self, camera: Camera) -> None:
        if self._camera.move_to(camera):
            self._rays = self._sensor.utils.compute_camera_rays_pinhole(
                *self._camera.size, camera_fovs=math.radians(camera.fov)
            )

    def draw(self, state: Any) -> NDArray[Any]:
        transforms = self._camera.transforms.reshape((1, 1))
        self._sensor.update(state, transforms, self._rays, clear_data=self._clear, **self._outputs)
        image: NDArray[Any] = self._image.numpy()[0, 0]
        return image


class _TracerCamera:
    """The ray tracer's camera, which moves between pictures."""

    def __init__(self, instance: SceneInstance, spec: NewtonRenderSpec) -> None:
        import warp as wp

        self.size = spec.tile_size
        self.transforms = wp.zeros(1, dtype=wp.transformf, device=instance.model.device)
        self._device = instance.model.device
        self._up_axis = instance.scene.up_axis
        self._camera: Camera | None = None

    def new_image(self, channel: Channel, leading: tuple[int, ...]) -> Any:
        """Return room for a picture of `channel`, with axes for worlds and cameras before its own."""
        import warp as wp

        width, height = self.size
        dtype = {Channel.DEPTH: wp.float32, Channel.NORMALS: wp.vec3f}.get(channel, wp.uint32)
        return wp.zeros((*leading, height, width), dtype=dtype, device=self._device)

    def move_to(self, camera: Camera) -> bool:
        """Move to `camera`; return whether its rays changed."""
        known, self._camera = self._camera, camera
        if camera != known:
            self.transforms.assign(np.array([[*camera.eye, *camera.rotation(self._up_axis)]], dtype=np.float32))
        return known is None or camera.fov != known.fov


def _set_look(settings: Any, scene: RenderScene, sources: tuple[Source, ...]) -> None:
    """Set the ray tracer up so that its picture resembles the viewer's."""
    settings.enable_shadows = True
    # The kernel that is compiled for a scene without textures leaves them out.
    used = [sources[index] for index in set(scene.shape_source.tolist()) - {-1}]
    settings.enable_textures = any(isinstance(source, MeshSource) and source.texture is not None for source in used)
    # Cloth is seen from both sides.
    settings.enable_backface_culling = not len(scene.triangles)


def _sun_rays(up_axis: int) -> Any:
    """Return the direction in which the sun of Newton's viewer shines."""
    import warp as wp

    sun = ((0.8, 0.2, -0.3), (0.2, 0.8, -0.3), (0.2, -0.3, 0.8))[up_axis]
    return wp.vec3f(*(-np.array(sun) / np.linalg.norm(sun)).tolist())


def _open_tracer(instance: SceneInstance, spec: NewtonRenderSpec) -> _CameraTracer | _TiledTracer:
    from newton import sensors

    return _CameraTracer(instance, spec) if hasattr(sensors, "SensorCamera") else _TiledTracer(instance, spec)
