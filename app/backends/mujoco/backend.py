"""`MujocoBackend`: takes snapshots of a MuJoCo simulation on the training thread; a worker draws them.

`renderer` says how a snapshot is laid out.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ...clip import CaptureRequest, Snapshot
from ...errors import BackendError, CaptureError, ConfigurationError
from ...interfaces import CaptureFormat, Slot
from ..camera import Camera, CameraSource, current_camera
from ..render_device import choose_render_device
from .renderer import (
    CAMERA_POSE_NBYTES,
    CAMERA_POSE_SIZE,
    OPTION_FIELDS,
    VISUAL_FIELDS,
    CameraKind,
    Floats,
    MujocoRenderer,
    MujocoRenderSpec,
    camera_pose,
    gl_environment,
    import_mujoco,
    pack_overrides,
)

DEFAULT_WIDTH = 1280
DEFAULT_HEIGHT = 720

_MAX_GEOM = 10_000
_ENV_MAX_GEOM = 1_000
"""Gymnasium's."""

_POSITIONS = ("mjSTATE_QPOS", "mjSTATE_MOCAP_POS", "mjSTATE_MOCAP_QUAT")
_MOTION = (
    "mjSTATE_TIME",
    "mjSTATE_QVEL",
    "mjSTATE_ACT",
    "mjSTATE_HISTORY",  # MuJoCo 3.5 and newer.
    "mjSTATE_CTRL",
    "mjSTATE_USERDATA",
    "mjSTATE_PLUGIN",
)


class MujocoBackend:
    """Records a MuJoCo simulation by snapshots of its state.

    The model is read once, in `open`, and again when a clip opens and the environment has made another one. Positions
    are read at every capture, and so are places, sizes and colours that the task changes in the model itself.

    Args:
        source: A Gymnasium environment with a `mujoco.MjModel` as `env.unwrapped.model` and its `MjData` as
            `env.unwrapped.data`, in whatever wrappers and of whatever `render_mode`; or a `mujoco.MjModel`.
        data: The `mujoco.MjData` of a bare model; None for an environment.
        camera: The name or number of a camera of the model; a `Camera` that stands still; a function that returns
            the `Camera` of each capture; or a `mujoco.MjvCamera`, which is read at each capture. None: what
            `env.render()` shows; of a bare model, MuJoCo's free camera.
        scene_option: A `mujoco.MjvOption`: which groups and helps are drawn, read in `open`. None: as `env.render()`
            has it; of a bare model, MuJoCo's defaults.
        steps_per_second: Simulated steps a second [Hz]; None: the environment's own; of a bare model, not known.

    Raises:
        BackendError: `source` is no MuJoCo simulation, with what was found.
        ConfigurationError: a value that can't work.
    """

    name = "mujoco"

    def __init__(
        self,
        source: Any,
        data: Any = None,
        *,
        camera: CameraSource | str | int | Any | None = None,
        scene_option: Any = None,
        steps_per_second: float | None = None,
    ) -> None:
        self._mujoco = import_mujoco()
        self._simulation = _simulation_of(source, data)
        self._camera = camera
        self._scene_option = scene_option
        self._steps_per_second = _checked_rate(steps_per_second)
        self._asked: tuple[int | None, int | None, str] = (None, None, "auto")
        self._recorded: _RecordedModel | None = None
        _pose_source_of(camera, self._simulation)
        _option_fields(scene_option, self._simulation)

    def open(self, *, width: int | None, height: int | None, worker_device: str) -> CaptureFormat:
        """See `stepreel.interfaces.Backend.open`. Makes no OpenGL context.

        Raises:
            BackendError: the model can't be recorded.
            RendererUnavailableError: nothing here can draw it.
        """
        self._asked = (width, height, worker_device)
        return self._read_model()

    def renewed(self) -> CaptureFormat | None:
        """See `stepreel.interfaces.RenewableBackend.renewed`: another format once there is another model."""
        recorded = self._recorded
        return None if recorded is not None and self._simulation.model is recorded.model else self._read_model()

    def capture(self, request: CaptureRequest, slot: Slot) -> Snapshot:
        """Copy what the picture needs of the current state into `slot`.

        Raises:
            CaptureError: the simulation has another model than when the clip opened.
        """
        recorded = self._recorded
        if recorded is None:
            raise CaptureError("the backend is not open; call open first")
        data = self._simulation.data
        if data is not recorded.data or self._simulation.model is not recorded.model:
            self._recorded = recorded = self._checked(recorded, data)
        overrides = recorded.packed_overrides()
        target = slot.array(recorded.nbytes + len(overrides))
        target[:CAMERA_POSE_NBYTES].view(np.float64)[:] = recorded.camera.pose(data)
        state = target[CAMERA_POSE_NBYTES : recorded.nbytes].view(recorded.dtype)
        self._mujoco.mj_getState(recorded.model, data, state, recorded.state_flags)
        if overrides:
            target[recorded.nbytes :] = np.frombuffer(overrides, np.uint8)
        return Snapshot(nbytes=target.nbytes)

    def close(self) -> None:
        """Let go of the model and the data."""
        self._recorded = None

    def _checked(self, recorded: _RecordedModel, data: Any) -> _RecordedModel:
        """Return the recorded model with other data of the same model."""
        model = self._simulation.model
        if model is not recorded.model:
            raise CaptureError(
                f"the simulation has another model than when the clip opened ({_size(model)}, not "
                f"{_size(recorded.model)}); the next clip shows it"
            )
        _check_data(model, data, CaptureError)
        return replace(recorded, data=data)

    def _read_model(self) -> CaptureFormat:
        mujoco, simulation = self._mujoco, self._simulation
        width, height, worker_device = self._asked
        model, data = simulation.model, simulation.data
        _check_model(model, data)
        device = choose_render_device(worker_device, None)
        environment = gl_environment(device)
        camera = _pose_source_of(self._camera, simulation)
        option = _option_fields(self._scene_option, simulation)
        state_flags = _state_flags(model, option)
        own_width, own_height = simulation.size
        spec = MujocoRenderSpec(
            model=_saved(model),
            version=mujoco.__version__,
            state_flags=state_flags,
            dtype=data.qpos.dtype.str,
            visual_fields=VISUAL_FIELDS,
            camera=camera.kind,
            scene_option=option,
            max_geom=simulation.max_geom,
            width=width or own_width,
            height=height or own_height,
        )
        self._recorded = recorded = _RecordedModel(
            model=model,
            data=data,
            camera=camera,
            state_flags=state_flags,
            dtype=data.qpos.dtype,
            nbytes=CAMERA_POSE_NBYTES + data.qpos.itemsize * mujoco.mj_stateSize(model, state_flags),
            saved_fields=_saved_fields(model),
        )
        return CaptureFormat(
            width=spec.width,
            height=spec.height,
            nbytes=recorded.nbytes,
            steps_per_second=self._steps_per_second or simulation.steps_per_second,
            renderer=MujocoRenderer(spec),
            worker_environment=environment,
            details={
                **simulation.details,
                "camera": camera.details,
                "bodies": int(model.nbody),
                "geoms": int(model.ngeom),
                "mujoco": mujoco.__version__,
                "draws_on": device.name,
                "gl": environment["MUJOCO_GL"],
            },
        )


def is_mujoco(env: Any) -> bool:
    """Return whether a Gymnasium environment is a MuJoCo simulation; imports nothing."""
    mujoco = sys.modules.get("mujoco")  # Whoever has a model has imported it.
    unwrapped = getattr(env, "unwrapped", None)
    return mujoco is not None and all(
        isinstance(getattr(unwrapped, name, None), getattr(mujoco, kind)) for name, kind in _ATTRIBUTES.items()
    )


_ATTRIBUTES = {"model": "MjModel", "data": "MjData"}


@dataclass(frozen=True, slots=True, kw_only=True)
class _RecordedModel:
    """A model as it was read, and the data that it was last captured with."""

    model: Any
    data: Any
    camera: _PoseSource
    state_flags: int
    dtype: np.dtype[Any]
    nbytes: int
    """Bytes of a snapshot without visual overrides."""
    saved_fields: tuple[tuple[int, NDArray[Any], bytes], ...]
    """For each field: its index in `VISUAL_FIELDS`, the model's own memory, and its bytes when the model was saved."""

    def packed_overrides(self) -> bytes:
        """Return the fields that changed since the model was saved, packed for a snapshot."""
        changed = [(index, now) for index, field, saved in self.saved_fields if (now := field.tobytes()) != saved]
        return pack_overrides(changed) if changed else b""


def _saved_fields(model: Any) -> tuple[tuple[int, NDArray[Any], bytes], ...]:
    fields = [(index, getattr(model, name, None)) for index, name in enumerate(VISUAL_FIELDS)]
    return tuple((index, field, field.tobytes()) for index, field in fields if field is not None and field.size)


class _BareSimulation:
    """A model and its data."""

    steps_per_second = None
    size = (DEFAULT_WIDTH, DEFAULT_HEIGHT)
    max_geom = _MAX_GEOM
    visual_options: Mapping[int, bool] = {}
    details: Mapping[str, Any] = {}

    def __init__(self, model: Any, data: Any) -> None:
        self.model = model
        self.data = data

    def default_camera(self) -> _PoseSource:
        return _free_camera(self.model)


class _EnvSimulation:
    """A Gymnasium environment, with the size, camera and options of its `render()`."""

    def __init__(self, env: Any) -> None:
        self._env = env
        self._unwrapped = env.unwrapped

    @property
    def model(self) -> Any:
        return self._unwrapped.model

    @property
    def data(self) -> Any:
        return self._unwrapped.data

    @property
    def steps_per_second(self) -> float | None:
        fps = (getattr(self._env, "metadata", None) or {}).get("render_fps")
        if isinstance(fps, int | float) and fps > 0:
            return float(fps)
        dt = getattr(self._unwrapped, "dt", None)
        return 1.0 / float(dt) if isinstance(dt, int | float) and dt > 0 else None

    @property
    def size(self) -> tuple[int, int]:
        width = self._of_renderer("width") or getattr(self._unwrapped, "width", None)
        height = self._of_renderer("height") or getattr(self._unwrapped, "height", None)
        return int(width or DEFAULT_WIDTH), int(height or DEFAULT_HEIGHT)

    @property
    def max_geom(self) -> int:
        return int(self._of_renderer("max_geom") or _ENV_MAX_GEOM)

    @property
    def visual_options(self) -> Mapping[int, bool]:
        return self._of_renderer("_vopt") or {}

    @property
    def details(self) -> Mapping[str, Any]:
        spec = getattr(self._env, "spec", None)
        return {"env_id": spec.id if spec is not None else type(self._unwrapped).__name__}

    def default_camera(self) -> _PoseSource:
        camera_id = self._of_renderer("camera_id")
        if camera_id is None:  # The environment draws in a way of its own.
            return _free_camera(self.model)
        if camera_id >= 0:
            return _ModelCamera(int(camera_id), self.model)
        return _EnvCamera(
            self.model, self._of_renderer("_viewers") or {}, self._of_renderer("default_cam_config") or {}
        )

    def _of_renderer(self, name: str) -> Any:
        return getattr(getattr(self._unwrapped, "mujoco_renderer", None), name, None)


_Simulation = _BareSimulation | _EnvSimulation


class _PoseSource(Protocol):
    """A camera of any kind, which gives its pose at each capture."""

    @property
    def kind(self) -> CameraKind: ...

    @property
    def details(self) -> Any:
        """For `session.json`; JSON types."""
        ...

    def pose(self, data: Any) -> Floats:
        """Return the camera's pose now, laid out as in a snapshot, shape `[7]`."""
        ...


class _ModelCamera:
    """A camera of the model, whose pose is in the state."""

    def __init__(self, camera_id: int, model: Any) -> None:
        self.kind = CameraKind(type=2, fixedcamid=camera_id)
        self.details = model.camera(camera_id).name or camera_id
        self._values = np.zeros(CAMERA_POSE_SIZE)

    def pose(self, data: Any) -> Floats:
        return self._values


class _StaticCamera:
    """A `Camera` that stands still."""

    kind = CameraKind()

    def __init__(self, camera: Camera) -> None:
        self.details = camera.to_json()
        self._values = camera_pose(camera)

    def pose(self, data: Any) -> Floats:
        return self._values


class _FunctionCamera:
    """A function that returns the camera of each capture."""

    kind = CameraKind()
    details = "following"

    def __init__(self, get_camera: CameraSource) -> None:
        self._get_camera = get_camera

    def pose(self, data: Any) -> Floats:
        return camera_pose(current_camera(self._get_camera))


class _ViewerCamera:
    """A `mujoco.MjvCamera`, read at each capture."""

    def __init__(self, camera: Any, model: Any) -> None:
        self._camera = camera
        self._lookat = camera.lookat
        self.kind = _kind_of(camera)
        self.details = {
            "type": ("free", "tracking", "fixed")[self.kind.type],
            "lookat": self._lookat.tolist(),
            "distance": float(camera.distance),
            "azimuth": float(camera.azimuth),
            "elevation": float(camera.elevation),
        }
        self._values = np.zeros(CAMERA_POSE_SIZE)
        self._values[6] = model.vis.global_.fovy

    def pose(self, data: Any) -> Floats:
        camera, values = self._camera, self._values
        values[:3] = self._lookat
        values[3], values[4], values[5] = camera.distance, camera.azimuth, camera.elevation
        return values


class _EnvCamera:
    """The free camera of an environment's `render()`.

    Where `render()` was called before the first capture, it is the camera of its viewer, which the user may have moved.
    Else it looks, as that would, at the middle of all shapes as they are at the first capture, unless the environment
    says otherwise.
    """

    def __init__(self, model: Any, viewers: Mapping[str, Any], config: Mapping[str, Any]) -> None:
        self._model = model
        self._viewers = viewers
        self._config = config
        self._used: _ViewerCamera | None = None
        try:
            # The first median has numpy load another part of it, for 8 ms; better here than at a capture.
            camera = self._new_camera(np.median(np.zeros((1, 3)), axis=0))
        except (AttributeError, TypeError, ValueError) as exc:
            raise BackendError(
                f"the environment's default_camera_config {dict(config)!r} can't be used: {exc}"
            ) from exc
        # Gymnasium frees the camera at every picture, whatever the configuration says.
        self.kind = _kind_of(camera, type=0)
        self.details = {"default_camera_config": {name: _json(value) for name, value in config.items()}}

    def pose(self, data: Any) -> Floats:
        if self._used is None:
            viewer = self._viewers.get("rgb_array")
            camera = self._new_camera(np.median(data.geom_xpos, axis=0)) if viewer is None else viewer.cam
            self._used = _ViewerCamera(camera, self._model)
        return self._used.pose(data)

    def _new_camera(self, lookat: Floats) -> Any:
        camera = import_mujoco().MjvCamera()
        camera.lookat[:] = lookat
        camera.distance = self._model.stat.extent
        for name, value in self._config.items():
            if isinstance(value, np.ndarray):
                getattr(camera, name)[:] = value
            else:
                setattr(camera, name, value)
        return camera


def _free_camera(model: Any) -> _PoseSource:
    """Return MuJoCo's own free camera."""
    mujoco = import_mujoco()
    camera = mujoco.MjvCamera()
    mujoco.mjv_defaultFreeCamera(model, camera)
    return _ViewerCamera(camera, model)


def _kind_of(camera: Any, *, type: int | None = None) -> CameraKind:
    return CameraKind(
        type=int(camera.type) if type is None else type,
        fixedcamid=int(camera.fixedcamid),
        trackbodyid=int(camera.trackbodyid),
        orthographic=int(getattr(camera, "orthographic", 0)),
    )


def _pose_source_of(camera: Any, simulation: _Simulation) -> _PoseSource:
    model = simulation.model
    if camera is None:
        return simulation.default_camera()
    if isinstance(camera, Camera):
        return _StaticCamera(camera)
    if isinstance(camera, import_mujoco().MjvCamera):
        return _ViewerCamera(_checked_viewer_camera(camera, model), model)
    if isinstance(camera, str | int) and not isinstance(camera, bool):
        return _ModelCamera(_camera_id(camera, model), model)
    if callable(camera):
        return _FunctionCamera(camera)
    raise ConfigurationError(
        f"camera: got {camera!r}; allowed: the name or number of a camera of the model, a Camera, a function that "
        "returns one, a mujoco.MjvCamera, or None"
    )


def _checked_viewer_camera(camera: Any, model: Any) -> Any:
    kind = _kind_of(camera)
    if kind.is_fixed and not 0 <= kind.fixedcamid < model.ncam:
        raise ConfigurationError(f"camera: got fixedcamid={kind.fixedcamid}; allowed: 0 to {model.ncam - 1}")
    if kind.is_tracking and not 0 <= kind.trackbodyid < model.nbody:
        raise ConfigurationError(f"camera: got trackbodyid={kind.trackbodyid}; allowed: 0 to {model.nbody - 1}")
    return camera


def _camera_id(camera: str | int, model: Any) -> int:
    names = [model.camera(number).name for number in range(model.ncam)]
    if isinstance(camera, str) and camera in names:
        return names.index(camera)
    if isinstance(camera, int) and 0 <= camera < model.ncam:
        return camera
    found = ", ".join(f"{number} ({name!r})" for number, name in enumerate(names)) or "none"
    raise ConfigurationError(f"camera: got {camera!r}; allowed: one of the model's cameras: {found}")


def _option_fields(option: Any, simulation: _Simulation) -> dict[str, Any]:
    """Return the fields of a `MjvOption` that differ from MuJoCo's defaults, in JSON types."""
    mujoco = import_mujoco()
    if option is None:
        option = mujoco.MjvOption()
        for flag, value in simulation.visual_options.items():
            option.flags[flag] = value
    elif not isinstance(option, mujoco.MjvOption):
        raise ConfigurationError(f"scene_option: got {option!r}; allowed: a mujoco.MjvOption, or None")
    default = mujoco.MjvOption()
    fields = {name: _json(getattr(option, name)) for name in OPTION_FIELDS if hasattr(option, name)}
    return {name: value for name, value in fields.items() if value != _json(getattr(default, name))}


def _state_flags(model: Any, option: Mapping[str, Any]) -> int:
    """Return the parts of the state that a picture depends on, as `mjtState` flags."""
    moves = model.nu or model.na or model.ntendon or model.nplugin or model.nuserdata or "flags" in option
    members = import_mujoco().mjtState.__members__
    return sum(int(members[name]) for name in (_POSITIONS + _MOTION if moves else _POSITIONS) if name in members)


def _simulation_of(source: Any, data: Any) -> _Simulation:
    mujoco = import_mujoco()
    if isinstance(source, mujoco.MjModel):
        _check_data(source, data, BackendError)
        return _BareSimulation(source, data)
    if data is not None:
        raise BackendError(
            f"with data given, source must be a mujoco.MjModel, got {_type_name(source)}; give the environment alone"
        )
    if is_mujoco(source):
        return _EnvSimulation(source)
    unwrapped = getattr(source, "unwrapped", source)
    found = ", ".join(f"{name} is {_type_name(getattr(unwrapped, name, None))}" for name in _ATTRIBUTES)
    count = getattr(source, "num_envs", None)
    advice = f"; it holds {count} environments: give one of them" if isinstance(count, int) else ""
    raise BackendError(
        f"looked for a MuJoCo simulation, a mujoco.MjModel and its mujoco.MjData, in {_type_name(unwrapped)}; found: "
        f"{found}{advice}"
    )


def _check_model(model: Any, data: Any) -> None:
    mujoco = import_mujoco()
    if not isinstance(model, mujoco.MjModel):
        raise BackendError(f"looked for the simulation's mujoco.MjModel, found {_type_name(model)}")
    if not hasattr(mujoco, "mj_getState"):
        raise BackendError(f"MuJoCo {mujoco.__version__} is too old to be recorded; install 3.0 or newer")
    _check_data(model, data, BackendError)


def _check_data(model: Any, data: Any, error: type[BackendError | CaptureError]) -> None:
    if not isinstance(data, import_mujoco().MjData):
        raise error(f"looked for the mujoco.MjData of the model, got {_type_name(data)}")
    found = (len(data.qpos), len(data.qvel), len(data.mocap_pos), len(data.ctrl), len(data.xpos))
    if found != (model.nq, model.nv, model.nmocap, model.nu, model.nbody):
        raise error(
            f"the data is of another model: it has {found[4]} bodies and {found[0]} positions, the model {_size(model)}"
        )


def _size(model: Any) -> str:
    return f"{getattr(model, 'nbody', '?')} bodies and {getattr(model, 'nq', '?')} positions"


def _saved(model: Any) -> bytes:
    mujoco = import_mujoco()
    buffer = np.empty(mujoco.mj_sizeModel(model), np.uint8)
    mujoco.mj_saveModel(model, None, buffer)
    return buffer.tobytes()


def _json(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.tolist()
    return value if isinstance(value, int | float | str) and not hasattr(value, "name") else int(value)


def _type_name(value: object) -> str:
    return "None" if value is None else f"a {type(value).__module__}.{type(value).__qualname__}"


def _checked_rate(value: Any) -> float | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if value is None or (is_number and math.isfinite(value) and value > 0):
        return None if value is None else float(value)
    raise ConfigurationError(f"steps_per_second: got {value!r}; allowed: a finite number above 0 [Hz], or None")
