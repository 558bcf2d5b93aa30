"""`GlPainter`: Newton's OpenGL viewer, without a window, over EGL."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np

from ...errors import RendererUnavailableError
from ..camera import Camera
from .render_spec import NewtonRenderSpec, Pixels
from .scene_instance import SceneInstance, load_scene


class GlPainter:
    """Paints one scene as Newton's viewer shows it, in an OpenGL context of its own.

    Raises:
        BackendError: the scene can't be loaded.
        RendererUnavailableError: no context could be made here.
    """

    def __init__(self, spec: NewtonRenderSpec, scene: int) -> None:
        import warp as wp

        width, height = spec.tile_size
        # The viewer needs Warp for a few small arrays only; on the CPU they take nothing from a training GPU.
        self.instance: SceneInstance = load_scene(spec.tiled_scene.scenes[scene], spec.tiled_scene.sources, "cpu")
        try:
            self._viewer = _headless_viewer(width, height, spec.egl_device)
        except Exception as exc:
            raise RendererUnavailableError(
                f"tried to open Newton's OpenGL viewer at {width}x{height} over EGL, found {type(exc).__name__}: {exc};"
                " install EGL with a driver (Debian: libegl1 libegl-mesa0 libgl1 libgl1-mesa-dri libopengl0) and pyglet"
                ' below 3, or use renderer="warp"'
            ) from exc
        self._viewer.set_model(self.instance.model)
        self._viewer.show_particles = bool(self.instance.scene.particle_drawn.any())
        self._camera: Camera | None = None
        self._picture = wp.empty((height, width, 3), dtype=wp.uint8, device="cpu")
        # Newton 1.6 knows the parameter by another name.
        parameters = inspect.signature(self._viewer.get_frame).parameters
        self._output = {"output" if "output" in parameters else "target_image": self._picture}

    def paint(self, state: Any, camera: Camera, target: Pixels) -> None:
        """Paint a state of `instance` into `target`, shape `[height, width, 3]`, of the size of a tile."""
        # Another painter of this process may have drawn last, in a context of its own.
        self._viewer.renderer.window.switch_to()
        self._set_camera(camera)
        self._viewer.begin_frame(0.0)
        self._viewer.log_state(state)
        self._viewer.end_frame()
        self._viewer.get_frame(**self._output)
        np.copyto(target, self._picture.numpy())

    def close(self) -> None:
        """Let go of the OpenGL context."""
        self._viewer.renderer.window.switch_to()
        self._viewer.close()

    def _set_camera(self, camera: Camera) -> None:
        import warp as wp

        if camera == self._camera:
            return
        self._camera = camera
        pitch, yaw = camera.pitch_yaw(self.instance.scene.up_axis)
        self._viewer.set_camera(pos=wp.vec3(*camera.eye), pitch=pitch, yaw=yaw)
        self._viewer.camera.fov = camera.fov


def _headless_viewer(width: int, height: int, egl_device: int) -> Any:
    """Return a `ViewerGL` that draws into memory."""
    import pyglet
    import warp as wp

    # Both must be set before the first part of pyglet that draws is imported.
    pyglet.options["headless"] = True
    pyglet.options["headless_device"] = egl_device
    from newton.viewer import ViewerGL

    # Closing the last viewer of a process sets it; Newton 1.6 then draws nothing but black ever after.
    pyglet.app.event_loop.has_exit = False
    with wp.ScopedDevice("cpu"):
        return ViewerGL(width=width, height=height, headless=True)
