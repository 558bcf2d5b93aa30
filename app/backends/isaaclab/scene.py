"""Reads a running Isaac Lab environment: its description, its cameras, its Newton simulation.

Isaac Lab's objects are read by their attributes; Isaac Lab is never imported before an environment is there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from ...errors import BackendError, CaptureError, ConfigurationError
from ..camera import Camera, CameraSource, Vector
from .selection import (
    ISAAC_RTX,
    CameraChoice,
    CameraKind,
    OriginType,
    Physics,
    SceneDescription,
    SensorDescription,
    Viewpoint,
    VisualizerDescription,
    place_camera,
)

_APERTURE_MM = 15.2908
"""Height of the film behind a visualizer's lens, USD's default."""
_PHYSICS = {"newton_gl": Physics.NEWTON, "kit": Physics.PHYSX}
"""By the value of `physics_manager.video_capture_backend()`."""
_RENDERER_ALIASES = {"default": ISAAC_RTX}
_KIT_ORIGINS = {"world": OriginType.WORLD, "env": OriginType.ENV}
_NO_SHAPES_ADVICE = (
    "set env_cfg.sim.physics.load_visual_shapes = True before the environment is made, or start the run with --viz"
    " newton_gl"
)
_MOST_STEPS_OLD = 10
"""A position requested more steps ago than this belongs to another clip, so the current one is waited for."""


def describe(env: Any) -> SceneDescription:
    """Describe a running Isaac Lab environment for `stepreel.backends.selection.select_backend`.

    Renders nothing, and reads positions of the environments from the device once.

    Raises:
        BackendError: this is no Isaac Lab environment.
    """
    base = base_env(env)
    viewer = getattr(base.cfg, "viewer", None)
    return SceneDescription(
        visualizers=tuple(_described_visualizer(visualizer) for visualizer in active_visualizers(base.sim)),
        physics=_physics(base.sim),
        renderers=frozenset(_renderers(base)),
        sensors=tuple(_cameras(base.scene.sensors)),
        viewer=None if viewer is None else _task_viewpoint(viewer),
        resolution=tuple(getattr(viewer, "resolution", (1280, 720))),
        env_origins=tuple(_rows(base.scene.env_origins)),
        assets={name: tuple(asset.body_names) for name, asset in _assets(base.scene)},
    )


def base_env(env: Any) -> Any:
    """Return the environment below all wrappers.

    Raises:
        BackendError: it is none of Isaac Lab's.
    """
    base = getattr(env, "unwrapped", env)
    missing = [name for name in ("sim", "scene", "cfg") if not hasattr(base, name)]
    if missing:
        raise BackendError(
            f"looked for an Isaac Lab environment, found {type(base).__name__} without {', '.join(missing)}; other "
            "environments are recorded by the backends of stepreel.backends"
        )
    return base


def active_visualizers(sim: Any) -> list[Any]:
    """Return the visualizers that are open, in the order that descriptions have them."""
    return [visualizer for visualizer in sim.visualizers if not getattr(visualizer, "is_closed", False)]


def steps_per_second(base: Any) -> float | None:
    """Return how many steps make a simulated second [Hz]; None where the environment doesn't say."""
    # `metadata` belongs to the class: what another environment wrote may be in it.
    step_dt = getattr(base, "step_dt", None)
    if step_dt:
        return 1.0 / float(step_dt)
    render_fps = (getattr(base, "metadata", None) or {}).get("render_fps")
    return float(render_fps) if render_fps else None


def camera_source(base: Any, choice: CameraChoice, visualizer: Any) -> CameraSource:
    """Return the camera of `choice`: where it stands, or a function that follows what is alive."""
    if choice.kind is CameraKind.VISUALIZER:
        return VisualizerCamera(visualizer, choice.camera)
    if choice.kind is CameraKind.ASSET:
        return AssetCamera(base, choice.viewpoint, choice.camera)
    return choice.camera


class VisualizerCamera:
    """The camera of a visualizer, asked at each capture; the last one known once the visualizer is closed."""

    def __init__(self, visualizer: Any, camera: Camera) -> None:
        self._visualizer = visualizer
        self._camera = camera
        # A viewer's camera has a direction and no look-at.
        self._distance = math.dist(camera.eye, camera.lookat)

    def __call__(self) -> Camera:
        """Return it; costs a few attributes."""
        if not getattr(self._visualizer, "is_closed", False):
            self._camera = self._current()
        return self._camera

    def _current(self) -> Camera:
        # The visualizer tells its viewer's camera to nobody else; its configuration is where it was put.
        camera = getattr(getattr(self._visualizer, "_viewer", None), "camera", None)
        if camera is None or not hasattr(camera, "pitch"):
            cfg = self._visualizer.cfg
            return Camera(eye=tuple(cfg.eye), lookat=tuple(cfg.lookat), fov=_fov(cfg))
        x, y, z = (float(part) for part in camera.pos)
        return Camera.from_pitch_yaw(
            (x, y, z),
            float(camera.pitch),
            float(camera.yaw),
            up_axis=int(getattr(camera, "up_axis", 2)),
            fov=float(camera.fov),
            distance=self._distance,
        )


class AssetCamera:
    """A camera that goes with an asset or one of its bodies.

    Of a simulation on the CPU, where the asset is at the captured step. On a CUDA device nobody waits for it: the
    position is sent for at each capture, and used at the next, so the camera follows one capture late. Only where the
    last capture lies more than a few steps back, as at the start of a clip, the position is waited for.
    """

    def __init__(self, base: Any, viewpoint: Viewpoint, camera: Camera) -> None:
        self._read = _position_reader(base, viewpoint)
        self._base = base
        self._camera = camera
        self._transfer: _Transfer | None = None

    def __call__(self) -> Camera:
        """Return where the camera is now."""
        position = self._read()
        if not getattr(position, "is_cuda", False):
            return place_camera(self._camera, _vector(position))
        if self._transfer is None:
            self._transfer = _Transfer(position)
        return place_camera(self._camera, self._transfer.exchange(position, int(self._base.common_step_counter)))


class _Transfer:
    """A position on its way from a CUDA device, and the one that came before it."""

    def __init__(self, position: Any) -> None:
        self._torch: Any = import_module("torch")
        self._pinned = self._torch.empty(3, dtype=position.dtype, pin_memory=True)
        self._event = self._torch.cuda.Event()
        self._newest: Vector = (0.0, 0.0, 0.0)
        self._sent_at: int | None = None

    def exchange(self, position: Any, step: int) -> Vector:
        """Send for `position`, and return the newest that has come: as a rule that of the call before."""
        is_old = self._sent_at is None or not 0 <= step - self._sent_at <= _MOST_STEPS_OLD
        if is_old:
            self._event.synchronize()
            self._send(position, step)
            self._event.synchronize()
            self._newest = _vector(self._pinned)
        elif self._event.query():
            self._newest = _vector(self._pinned)
            self._send(position, step)
        return self._newest

    def _send(self, position: Any, step: int) -> None:
        self._pinned.copy_(position, non_blocking=True)
        self._event.record(self._torch.cuda.current_stream(position.device))
        self._sent_at = step


@dataclass(frozen=True, slots=True, kw_only=True)
class NewtonSimulation:
    """Model and state of an environment, for `NewtonBackend`. A hard reset of the simulation makes another model."""

    get_model: Callable[[], Any]
    get_state: Callable[[], Any]


def find_newton(base: Any) -> NewtonSimulation:
    """Return the Newton simulation of an environment that Newton simulates.

    Raises:
        BackendError: there is no model yet, or it shows none of what moves.
    """
    manager = import_module("isaaclab_newton.physics").NewtonManager
    model = manager.get_model()
    if model is None:
        raise BackendError("looked for Newton's model, found none; reset the environment before recording it")
    _check_visible(model)
    sim = base.sim

    def get_state() -> Any:
        # Nothing else brings poses up to date where nothing renders. The states swap: asked for at each capture.
        if not sim.is_rendering:
            sim.forward()
        return manager.get_state_0()

    return NewtonSimulation(get_model=manager.get_model, get_state=get_state)


def _check_visible(model: Any) -> None:
    """Refuse a model that was built without the visual shapes of its robots: only the ground would be seen."""
    import newton

    if not int(model.shape_count) or int(model.particle_count):
        return
    moving = model.shape_world.numpy() >= 0
    visible = (model.shape_flags.numpy() & int(newton.ShapeFlags.VISIBLE)) != 0
    if moving.any() and not (moving & visible).any():
        raise BackendError(
            f"looked for visible shapes in Newton's model, found none among the {int(moving.sum())} of its "
            f"environments: it was built without them; {_NO_SHAPES_ADVICE}"
        )


def _described_visualizer(visualizer: Any) -> VisualizerDescription:
    shown = getattr(visualizer, "get_visualized_env_ids", lambda: None)()
    return VisualizerDescription(
        type=str(getattr(visualizer.cfg, "visualizer_type", None)),
        viewpoint=_visualizer_viewpoint(visualizer.cfg),
        streaming_view=bool(getattr(visualizer.cfg, "streaming_view", False)),
        visible_worlds=None if shown is None else tuple(int(env) for env in shown),
    )


def _visualizer_viewpoint(cfg: Any) -> Viewpoint:
    """Return the view in a visualizer's configuration, which follows where its camera was put."""
    asset_name, _, body_name = (getattr(cfg, "origin_track_path", None) or "").partition("/")
    followed = OriginType.ASSET_BODY if body_name else OriginType.ASSET_ROOT
    return Viewpoint(
        eye=tuple(cfg.eye),
        lookat=tuple(cfg.lookat),
        fov=_fov(cfg),
        origin_type=_KIT_ORIGINS.get(getattr(cfg, "origin_type", "world"), followed),
        env_index=getattr(cfg, "origin_env_index", 0),
        asset_name=asset_name or None,
        body_name=body_name or None,
    )


def _task_viewpoint(viewer: Any) -> Viewpoint:
    return Viewpoint(
        eye=tuple(viewer.eye),
        lookat=tuple(viewer.lookat),
        origin_type=_origin_type(viewer.origin_type),
        env_index=viewer.env_index,
        asset_name=viewer.asset_name,
        body_name=viewer.body_name,
    )


def _origin_type(name: Any) -> OriginType:
    if name not in tuple(OriginType):
        raise ConfigurationError(f"origin_type: got {name!r}; allowed: one of {', '.join(OriginType)}")
    return OriginType(name)


def _fov(cfg: Any) -> float:
    """Return the vertical field of view [degrees] of a visualizer's `focal_length` [mm]."""
    focal_length = getattr(cfg, "focal_length", None)
    return Camera().fov if focal_length is None else math.degrees(2.0 * math.atan2(_APERTURE_MM / 2.0, focal_length))


def _physics(sim: Any) -> Physics | None:
    # The manager is a proxy: what it lacks shows only when it is asked for.
    ask = getattr(sim.physics_manager, "video_capture_backend", None)
    return None if ask is None else _PHYSICS.get(ask())


def _renderers(base: Any) -> Iterator[str]:
    found = [*getattr(getattr(base.sim, "render_context", None), "renderer_types", ())]
    for sensor in base.scene.sensors.values():
        renderer_cfg = getattr(getattr(sensor, "cfg", None), "renderer_cfg", None)
        found.append(getattr(renderer_cfg, "renderer_type", None))
    yield from (_RENDERER_ALIASES.get(name, name) for name in found if name)


def _cameras(sensors: Mapping[str, Any]) -> Iterator[SensorDescription]:
    for name, sensor in sensors.items():
        # Asked of the configuration: reading a camera's data may have it render.
        outputs = getattr(getattr(sensor, "cfg", None), "data_types", None)
        if outputs:
            yield SensorDescription(name=name, outputs=tuple(outputs))


def _assets(scene: Any) -> Iterator[tuple[str, Any]]:
    for kind in ("articulations", "rigid_objects"):
        yield from getattr(scene, kind, {}).items()


def _position_reader(base: Any, viewpoint: Viewpoint) -> Callable[[], Any]:
    """Return a function that reads the position that a camera is relative to [m], as an array on any device."""
    asset = dict(_assets(base.scene))[str(viewpoint.asset_name)]
    env = viewpoint.env_index
    if viewpoint.origin_type is OriginType.ASSET_ROOT:
        return lambda: _array(asset.data.root_pos_w)[env]
    body = list(asset.body_names).index(viewpoint.body_name)
    return lambda: _array(asset.data.body_pos_w)[env, body]


def _array(found: Any) -> Any:
    """Return torch's view of an array that Isaac Lab 3.0 wraps, or the array itself."""
    return getattr(found, "torch", found)


def _rows(origins: Any) -> Iterable[Vector]:
    return (_vector(row) for row in _array(origins).tolist())


def _vector(numbers: Any) -> Vector:
    x, y, z = (float(part) for part in (numbers.tolist() if hasattr(numbers, "tolist") else numbers))
    if not (math.isfinite(x) and math.isfinite(y) and math.isfinite(z)):
        raise CaptureError(f"the camera can't follow a position of {x, y, z}: the simulation has diverged")
    return x, y, z
