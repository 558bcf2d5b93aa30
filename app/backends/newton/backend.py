"""`NewtonBackend`: takes snapshots of a Newton simulation on the training thread.

A snapshot holds the rows of a `newton.State` that a picture needs; `render_spec` says how it is laid out. A worker
draws it.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import Any, Literal

import numpy as np

from ...clip import CaptureRequest, Snapshot
from ...errors import BackendError, CaptureError, ConfigurationError, RendererUnavailableError, StepreelError
from ...interfaces import CaptureFormat, PendingSnapshot, Slot
from ..camera import CAMERA_NBYTES, Camera, CameraSource, Vector, choose_camera, current_camera
from ..colour import checked_range
from ..render_device import RenderDevice, choose_render_device
from .capture import DeviceSource, HostSource, open_source
from .render_scene import Selection, select
from .render_spec import LEAST_TILE, Channel, NewtonRenderSpec
from .renderer import WarpRenderer, make_renderer
from .tiled_scene import TiledScene, build_single_tile, build_tiles
from .worlds import Worlds

DEFAULT_WIDTH = 1280
DEFAULT_HEIGHT = 720

_RENDERERS = ("auto", "gl", "warp")
_NOT_OPEN = "the backend is not open; call open first"


class NewtonBackend:
    """Records a Newton simulation by snapshots of its state.

    Shapes, colours and the layout of worlds are read once, in `open`, and again for the first clip after the model has
    become another; what moves is read at every capture.

    Args:
        model: The `newton.Model` that is simulated; or, where it is replaced during a run, a function that returns the
            current one, which is called when a clip begins.
        get_state: Returns the current `newton.State`; called at every capture, since states swap.
        eye: Position of the camera [m].
        lookat: The point in the middle of the picture [m].
        fov: Vertical field of view [degrees].
        camera: The camera, instead of `eye`, `lookat` and `fov`; a function that returns one is called at every
            capture, and what it raises costs that frame.
        visible_worlds: Indices of the worlds in the picture, which stand side by side as in Newton's viewer; "all" of
            them; None: the first 16. Shapes of no world are always in it.
        world_spacing: Distances of neighbouring worlds along each axis [m], in a grid as in Newton's viewer; zeros show
            them where the simulation has them; None: what the largest world needs.
        tiles: Show worlds apart from each other instead, each in a tile of its own and from the same camera, which is
            then relative to the tile's world: how many, or rows and columns. They are those of `visible_worlds`, in
            that order, else the first.
        world_origins: For `tiles`: where each world of the model has its own origin [m], where worlds stand apart in
            the simulation; shape `[worlds, 3]`. None: all at the model's, as Newton replicates them.
        renderer: "gl" (Newton's viewer over EGL), "warp" (its ray tracer), or "auto": the first of them that works.
        channel: "rgb", or of the ray tracer "depth", "normals" or "segmentation".
        depth_range: Distances at the two ends of the colours of "depth" [m].
        steps_per_second: Simulated steps a second [Hz]; None: not known.

    Raises:
        ConfigurationError: a value that can't work.
        BackendError: the model has no such worlds.
    """

    def __init__(
        self,
        model: Any,
        get_state: Callable[[], Any],
        *,
        eye: Vector | None = None,
        lookat: Vector | None = None,
        fov: float | None = None,
        camera: CameraSource | None = None,
        visible_worlds: Sequence[int] | Literal["all"] | None = None,
        world_spacing: Vector | None = None,
        tiles: int | tuple[int, int] | None = None,
        world_origins: Any = None,
        renderer: str = "auto",
        channel: str = "rgb",
        depth_range: tuple[float, float] = (0.1, 10.0),
        steps_per_second: float | None = None,
    ) -> None:
        if renderer not in _RENDERERS:
            raise ConfigurationError(f"renderer: got {renderer!r}; allowed: one of {', '.join(_RENDERERS)}")
        if not callable(get_state):
            raise ConfigurationError(f"get_state: got {get_state!r}; allowed: a function that returns a newton.State")
        self._camera = choose_camera(camera, eye=eye, lookat=lookat, fov=fov)
        self._channel = _checked_channel(channel, renderer)
        self._depth_range = checked_range("depth_range", depth_range)
        self._steps_per_second = _checked_rate(steps_per_second)
        self._worlds = Worlds(visible=visible_worlds, spacing=world_spacing, tiles=tiles, origins=world_origins)
        self._model = model
        self._get_state = get_state
        self._renderer = "warp" if self._channel is not Channel.RGB else renderer
        self._name = "newton_warp" if self._renderer == "warp" else "newton_gl"
        self._opened_with: _OpenArguments | None = None
        self._source: HostSource | DeviceSource | None = None
        self._problem = _NOT_OPEN
        """Why there is no source."""
        self._known: tuple[weakref.ref[Any], tuple[int, ...]] | None = None
        if not callable(model) and hasattr(model, "world_count"):
            self._worlds.choose(int(model.world_count))

    @property
    def name(self) -> str:
        """ "newton_gl" or "newton_warp"; certain once the backend is open."""
        return self._name

    def open(self, *, width: int | None, height: int | None, worker_device: str) -> CaptureFormat:
        """See `stepreel.interfaces.Backend.open`. Compiles nothing and makes no OpenGL context.

        Raises:
            BackendError: the model or its state can't be recorded.
            RendererUnavailableError: nothing here can draw it.
        """
        self._opened_with = _OpenArguments(
            width=width or DEFAULT_WIDTH, height=height or DEFAULT_HEIGHT, worker_device=worker_device
        )
        return self._announce(self._current_model(), self._opened_with)

    def renewed(self) -> CaptureFormat | None:
        """See `stepreel.interfaces.RenewableBackend.renewed`: another format once the model, or its counts, changed.

        Raises:
            BackendError: the model of now, or its state, can't be recorded.
            ConfigurationError: it has too few worlds.
        """
        if self._opened_with is None:
            return None
        model = self._current_model()
        if self._known is not None and self._known[0]() is model and self._known[1] == _counts(model):
            return None
        self._source = self._known = None
        try:
            return self._announce(model, self._opened_with)
        except StepreelError as exc:
            self._problem = f"what is simulated now can't be recorded: {exc}"
            raise

    def capture(self, request: CaptureRequest, slot: Slot) -> Snapshot | PendingSnapshot:
        """Copy what the picture needs of the current state into `slot`.

        Of a CUDA model the copy is queued on the model's current stream, behind the steps already launched there and
        before the next, and the snapshot is pending until the device has got there. Not to be called while a CUDA
        graph is being captured.

        Raises:
            SourceChangedError: `get_state` gave a state of another model.
            CaptureError: `get_state` gave no state, or the camera function no camera.
        """
        if self._source is None:
            raise CaptureError(self._problem)
        if isinstance(self._camera, Camera):
            return self._source.capture(self._get_state(), slot.array(self._source.nbytes))
        camera = current_camera(self._camera).to_floats()
        target = slot.array(self._source.nbytes + CAMERA_NBYTES)
        target[self._source.nbytes :] = camera.view(np.uint8)
        return self._source.capture(self._get_state(), target)

    def close(self) -> None:
        """Let go of the staging memory. Snapshots still pending stay valid."""
        self._source = self._opened_with = self._known = None
        self._problem = _NOT_OPEN

    def _current_model(self) -> Any:
        return _checked_model(self._model() if callable(self._model) else self._model)

    def _announce(self, model: Any, wanted: _OpenArguments) -> CaptureFormat:
        device = choose_render_device(wanted.worker_device, model.device.ordinal if model.device.is_cuda else None)
        self._name = _choose_renderer(self._renderer, device)
        tiled_scene, selection = self._tiled_scene(model)
        spec = NewtonRenderSpec(
            tiled_scene=tiled_scene,
            camera=self._first_camera(),
            width=wanted.width,
            height=wanted.height,
            renderer=self._renderer,
            channel=self._channel,
            depth_range=self._depth_range,
            tracer_device="cpu" if device.gpu is None else "cuda:0",
            egl_device=device.egl_device,
            is_camera_captured=not isinstance(self._camera, Camera),
        )
        _check_tiles(spec)
        source = open_source(model, selection)
        self._check_state(source)
        self._source, self._known = source, (weakref.ref(model), _counts(model))
        return CaptureFormat(
            width=spec.width,
            height=spec.height,
            nbytes=spec.snapshot_nbytes,
            steps_per_second=self._steps_per_second,
            # Where OpenGL was ruled out it need not be tried; an archive still says what was asked for.
            renderer=WarpRenderer(spec) if self._name == "newton_warp" else make_renderer(spec),
            worker_environment=device.environment,
            shares_gpu=model.device.is_cuda and device.gpu == model.device.ordinal,
            details=self._details(model, spec, selection, device),
        )

    def _tiled_scene(self, model: Any) -> tuple[TiledScene, Selection]:
        chosen = self._worlds.choose(int(model.world_count))
        if chosen.grid is not None:
            return build_tiles(model, chosen.worlds, chosen.grid, chosen.origins)
        selection = select(model, chosen.worlds)
        return build_single_tile(model, selection, self._worlds.spacing), selection

    def _check_state(self, source: HostSource | DeviceSource) -> None:
        try:
            source.check(self._get_state())
        except CaptureError as exc:
            raise BackendError(f"called get_state once to see whether the simulation can be recorded: {exc}") from exc

    def _first_camera(self) -> Camera:
        try:
            return current_camera(self._camera)
        except Exception as exc:
            raise BackendError(
                f"called the camera function once to see whether it tells a camera, found {type(exc).__name__}: {exc}"
            ) from exc

    def _details(
        self, model: Any, spec: NewtonRenderSpec, selection: Selection, device: RenderDevice
    ) -> dict[str, Any]:
        return {
            "camera": spec.camera.to_json(),
            "camera_follows": spec.is_camera_captured,
            "renderer": self._name,
            "channel": spec.channel.value,
            "worlds": int(model.world_count),
            "visible_worlds": list(selection.worlds),
            "tiles": list(spec.tiled_scene.grid) if self._worlds.tiles is not None else None,
            "shapes": sum(len(spec.tiled_scene.scenes[tile.scene].shape_type) for tile in spec.tiled_scene.tiles),
            "bodies": len(selection.bodies),
            "particles": len(selection.particles),
            "model_device": str(model.device),
            "draws_on": device.name,
        }


class NewtonGlBackend(NewtonBackend):
    """Records a Newton simulation by snapshots, and draws them as Newton's viewer shows them: `NewtonBackend` with
    `renderer="gl"`, where the arguments are explained."""

    def __init__(
        self,
        model: Any,
        get_state: Callable[[], Any],
        *,
        eye: Vector | None = None,
        lookat: Vector | None = None,
        fov: float | None = None,
        camera: CameraSource | None = None,
        visible_worlds: Sequence[int] | Literal["all"] | None = None,
        world_spacing: Vector | None = None,
        tiles: int | tuple[int, int] | None = None,
        world_origins: Any = None,
        steps_per_second: float | None = None,
    ) -> None:
        super().__init__(
            model,
            get_state,
            eye=eye,
            lookat=lookat,
            fov=fov,
            camera=camera,
            visible_worlds=visible_worlds,
            world_spacing=world_spacing,
            tiles=tiles,
            world_origins=world_origins,
            renderer="gl",
            steps_per_second=steps_per_second,
        )


class NewtonWarpBackend(NewtonBackend):
    """Records a Newton simulation by snapshots, and draws them with Newton's ray tracer, which needs no OpenGL and has
    several channels: `NewtonBackend` with `renderer="warp"`, where the arguments are explained."""

    def __init__(
        self,
        model: Any,
        get_state: Callable[[], Any],
        *,
        eye: Vector | None = None,
        lookat: Vector | None = None,
        fov: float | None = None,
        camera: CameraSource | None = None,
        visible_worlds: Sequence[int] | Literal["all"] | None = None,
        world_spacing: Vector | None = None,
        tiles: int | tuple[int, int] | None = None,
        world_origins: Any = None,
        channel: str = "rgb",
        depth_range: tuple[float, float] = (0.1, 10.0),
        steps_per_second: float | None = None,
    ) -> None:
        super().__init__(
            model,
            get_state,
            eye=eye,
            lookat=lookat,
            fov=fov,
            camera=camera,
            visible_worlds=visible_worlds,
            world_spacing=world_spacing,
            tiles=tiles,
            world_origins=world_origins,
            renderer="warp",
            channel=channel,
            depth_range=depth_range,
            steps_per_second=steps_per_second,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _OpenArguments:
    """The arguments of `open`, for when the model is read again."""

    width: int
    height: int
    worker_device: str


def _counts(model: Any) -> tuple[int, ...]:
    return tuple(int(count) for count in (model.body_count, model.particle_count, model.shape_count, model.world_count))


def _check_tiles(spec: NewtonRenderSpec) -> None:
    if min(spec.tile_size) < LEAST_TILE:
        rows, columns = spec.tiled_scene.grid
        raise BackendError(
            f"tiles: {rows} rows and {columns} columns make tiles of {spec.tile_size[0]}x{spec.tile_size[1]} pixels in "
            f"a picture of {spec.width}x{spec.height}; allowed: sides of {LEAST_TILE} pixels or more"
        )


def _choose_renderer(wanted: str, device: RenderDevice) -> str:
    """Return the name of the renderer to try first at `device`.

    Raises:
        BackendError: there is no such device.
        RendererUnavailableError: none of the renderers asked for can draw there.
    """
    _check_gpu(device)
    problems = {"gl": _pyglet_problem() or device.opengl_problem, "warp": _tracer_problem()}
    candidates = ("gl", "warp") if wanted == "auto" else (wanted,)
    for kind in candidates:
        if problems[kind] is None:
            return f"newton_{kind}"
    found = "; ".join(f"{kind}: {problems[kind]}" for kind in candidates)
    raise RendererUnavailableError(
        f'renderer="{wanted}": looked for what can draw without a window on {device.name}, found {found}'
        + ("" if wanted == "auto" else '; or use renderer="auto"')
    )


def _check_gpu(device: RenderDevice) -> None:
    import warp as wp

    count = int(wp.get_cuda_device_count())
    if device.gpu is not None and device.gpu >= count:
        raise BackendError(
            f'worker_device asks for {device.name}, Warp sees {count} CUDA devices; use "auto", "cpu" or one of those'
        )


def _pyglet_problem() -> str | None:
    try:
        version = metadata.version("pyglet")
    except metadata.PackageNotFoundError:
        return "pyglet is not installed; install a version below 3"
    return None if int(version.split(".")[0]) < 3 else f"pyglet {version} is too new for Newton; install one below 3"


def _tracer_problem() -> str | None:
    from newton import sensors

    if hasattr(sensors, "SensorCamera") or hasattr(sensors, "SensorTiledCamera"):
        return None
    return "this Newton has neither SensorCamera nor SensorTiledCamera; install 1.6 or newer"


def _checked_model(model: Any) -> Any:
    import newton

    if not isinstance(model, newton.Model):
        raise BackendError(
            f"looked for a newton.Model, got {type(model).__name__}; pass ModelBuilder.finalize()'s result"
        )
    return model


def _checked_rate(value: Any) -> float | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if value is None or (is_number and math.isfinite(value) and value > 0):
        return None if value is None else float(value)
    raise ConfigurationError(f"steps_per_second: got {value!r}; allowed: a finite number above 0 [Hz], or None")


def _checked_channel(value: Any, renderer: str) -> Channel:
    if value not in tuple(Channel):
        raise ConfigurationError(f"channel: got {value!r}; allowed: one of {', '.join(Channel)}")
    channel = Channel(value)
    if channel is not Channel.RGB and renderer == "gl":
        raise ConfigurationError(f'channel: got {value!r} with renderer="gl"; allowed: rgb, or another renderer')
    return channel
