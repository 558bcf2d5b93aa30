"""`NewtonBackend`: takes snapshots of a Newton simulation on the training thread.

A snapshot is what a picture needs of a `newton.State` and nothing else: transforms of the bodies in the picture
(float32, `[bodies, 7]`), then positions of the particles in it (float32, `[particles, 3]`), then, where the camera
follows something, the camera (float32, `[7]`). A worker draws it.
"""

from __future__ import annotations

import math
import operator
import weakref
from collections.abc import Callable, Sequence
from importlib import metadata
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..clip import CaptureFormat, CaptureRequest, PendingSnapshot, Slot, Snapshot
from ..errors import BackendError, CaptureError, ConfigurationError, RendererUnavailableError
from .camera import CAMERA_NBYTES, Camera, CameraSource, Vector, choose_camera, current_camera
from .drawing_place import DrawingPlace, choose_place
from .newton_renderer import FallbackRenderer, GlRenderer, View, WarpRenderer
from .newton_scene import Floats, Selection, build_scene, select

DEFAULT_WIDTH = 1280
DEFAULT_HEIGHT = 720
DEFAULT_WORLD_COUNT = 16
"""Worlds drawn where the caller names none; more are too small to see and too slow to draw."""

_RENDERERS = ("auto", "gl", "warp")
_STATES_REMEMBERED = 8

Range = tuple[int, int, int]
"""Rows that lie together: the first in the snapshot, the first in the state, how many."""


class NewtonBackend:
    """Records a Newton simulation by snapshots of its state.

    Shapes, colours and the layout of worlds are read once, in `open`; what moves is read at every capture.

    Args:
        model: The `newton.Model` that is simulated.
        get_state: Returns the current `newton.State`; called at every capture, since states swap.
        eye: Position of the camera [m].
        lookat: The point in the middle of the picture [m].
        fov: Vertical field of view [degrees].
        camera: The camera, instead of `eye`, `lookat` and `fov`; a function that returns one is called at every
            capture, and what it raises costs that frame.
        visible_worlds: Indices of the worlds in the picture, which stand side by side as in Newton's viewer; None:
            the first 16. Shapes of no world are always in it.
        world_spacing: Distances of neighbouring worlds along each axis [m], in a grid as in Newton's viewer; zeros show
            them where the simulation has them; None: what the largest world needs.
        renderer: "gl" (Newton's viewer over EGL), "warp" (its ray tracer), or "auto": the first of them that works.
        steps_per_second: Simulated steps a second [Hz]; None: not known.

    Raises:
        ConfigurationError: a value that can't work.
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
        visible_worlds: Sequence[int] | None = None,
        world_spacing: Vector | None = None,
        renderer: str = "auto",
        steps_per_second: float | None = None,
    ) -> None:
        if renderer not in _RENDERERS:
            raise ConfigurationError(f"renderer: got {renderer!r}; allowed: one of {', '.join(_RENDERERS)}")
        if not callable(get_state):
            raise ConfigurationError(f"get_state: got {get_state!r}; allowed: a function that returns a newton.State")
        self._camera = choose_camera(camera, eye=eye, lookat=lookat, fov=fov)
        self._steps_per_second = _checked_rate(steps_per_second)
        self._visible_worlds = None if visible_worlds is None else _checked_worlds(visible_worlds)
        self._world_spacing = None if world_spacing is None else _checked_spacing(world_spacing)
        self._model = model
        self._get_state = get_state
        self._renderer = renderer
        self._name = "newton_warp" if renderer == "warp" else "newton_gl"
        self._source: _HostSource | _DeviceSource | None = None

    @property
    def name(self) -> str:
        """ "newton_gl" or "newton_warp"; certain once the backend is open."""
        return self._name

    def open(self, *, width: int | None, height: int | None, worker_device: str) -> CaptureFormat:
        """See `stepreel.clip.Backend.open`. Compiles nothing and makes no OpenGL context.

        Raises:
            BackendError: the model or its state can't be recorded.
            RendererUnavailableError: nothing here can draw it.
        """
        model = _checked_model(self._model)
        worlds = self._chosen_worlds(model)
        place = choose_place(worker_device, model.device.ordinal if model.device.is_cuda else None)
        self._name = _choose_renderer(self._renderer, place)
        selection = select(model, worlds)
        view = View(
            scene=build_scene(model, selection, self._world_spacing),
            camera=self._first_camera(),
            is_camera_captured=not isinstance(self._camera, Camera),
            width=width or DEFAULT_WIDTH,
            height=height or DEFAULT_HEIGHT,
            tracer_device="cpu" if place.gpu is None else "cuda:0",
            egl_device=place.egl_device,
        )
        self._source = _open_source(model, selection)
        self._check_state()
        return CaptureFormat(
            width=view.width,
            height=view.height,
            nbytes=view.snapshot_nbytes,
            steps_per_second=self._steps_per_second,
            renderer=self._make_renderer(view),
            worker_environment=place.environment,
            shares_gpu=model.device.is_cuda and place.gpu == model.device.ordinal,
            details=self._details(view, selection, place),
        )

    def capture(self, request: CaptureRequest, slot: Slot) -> Snapshot | PendingSnapshot:
        """Copy what the picture needs of the current state into `slot`.

        Of a CUDA model the copy is queued on the model's current stream, behind the steps already launched there and
        before the next, and the snapshot is pending until the device has got there. Not to be called while a CUDA
        graph is being captured.

        Raises:
            CaptureError: `get_state` gave no state of this model, or the camera function no camera.
        """
        if self._source is None:
            raise CaptureError("the backend is not open; call open first")
        if isinstance(self._camera, Camera):
            return self._source.capture(self._get_state(), slot.array(self._source.nbytes))
        camera = current_camera(self._camera).to_floats()
        target = slot.array(self._source.nbytes + CAMERA_NBYTES)
        target[self._source.nbytes :] = camera.view(np.uint8)
        return self._source.capture(self._get_state(), target)

    def close(self) -> None:
        """Let go of the staging memory. Snapshots still pending stay valid."""
        self._source = None

    def _chosen_worlds(self, model: Any) -> tuple[int, ...]:
        count = int(model.world_count)
        if self._visible_worlds is None:
            return tuple(range(min(count, DEFAULT_WORLD_COUNT)))
        outside = [world for world in self._visible_worlds if not 0 <= world < count]
        if outside:
            raise BackendError(
                f"visible_worlds names {outside}, the model has {count} worlds; name worlds from 0 to {count - 1}"
            )
        return self._visible_worlds

    def _make_renderer(self, view: View) -> GlRenderer | WarpRenderer | FallbackRenderer:
        if self._name == "newton_warp":
            return WarpRenderer(view)
        return GlRenderer(view) if self._renderer == "gl" else FallbackRenderer(view)

    def _check_state(self) -> None:
        assert self._source is not None
        try:
            self._source.check(self._get_state())
        except CaptureError as exc:
            raise BackendError(f"called get_state once to see whether the simulation can be recorded: {exc}") from exc

    def _first_camera(self) -> Camera:
        try:
            return current_camera(self._camera)
        except Exception as exc:
            raise BackendError(
                f"called the camera function once to see whether it tells a camera, found {type(exc).__name__}: {exc}"
            ) from exc

    def _details(self, view: View, selection: Selection, place: DrawingPlace) -> dict[str, Any]:
        return {
            "camera": view.camera.to_json(),
            "camera_follows": view.is_camera_captured,
            "renderer": self._name,
            "worlds": int(self._model.world_count),
            "visible_worlds": list(selection.worlds),
            "shapes": len(view.scene.shape_type),
            "bodies": len(selection.bodies),
            "particles": len(selection.particles),
            "model_device": str(self._model.device),
            "draws_on": place.name,
        }


class _HostSource:
    """Copies from a CPU model's state, whose arrays numpy can look at."""

    def __init__(self, model: Any, selection: Selection) -> None:
        self._body_count = int(model.body_count)
        self._particle_count = int(model.particle_count)
        self._bodies = _ranges(selection.bodies)
        self._particles = _ranges(selection.particles)
        self._body_nbytes = 28 * len(selection.bodies)
        self.nbytes = self._body_nbytes + 12 * len(selection.particles)
        self._views: dict[int, tuple[Any, Floats]] = {}

    def check(self, state: Any) -> None:
        _check_state(state, self._body_count, self._particle_count)

    def capture(self, state: Any, target: NDArray[np.uint8]) -> Snapshot:
        self.check(state)
        if self._bodies:
            rows = target[: self._body_nbytes].view(np.float32).reshape(-1, 7)
            _copy_rows(rows, self._view(state.body_q), self._bodies)
        if self._particles:
            rows = target[self._body_nbytes : self.nbytes].view(np.float32).reshape(-1, 3)
            _copy_rows(rows, self._view(state.particle_q), self._particles)
        return Snapshot(nbytes=target.nbytes)

    def _view(self, array: Any) -> Floats:
        """Return an array's memory as numpy sees it; the views of the states that swap are kept."""
        known = self._views.get(id(array))
        if known is not None:
            return known[1]
        if len(self._views) >= _STATES_REMEMBERED:
            self._views.clear()
        view: Floats = array.numpy()
        # The array is kept with its view, so that its id can't go to another one meanwhile.
        self._views[id(array)] = array, view
        return view


class _DeviceSource:
    """Copies from a CUDA model's state through pinned memory, without waiting for the device."""

    def __init__(self, model: Any, selection: Selection) -> None:
        self._device = model.device
        self._body_count = int(model.body_count)
        self._particle_count = int(model.particle_count)
        self._selection = selection
        self._bodies = _ranges(selection.bodies)
        self._particles = _ranges(selection.particles)
        self.nbytes = 28 * len(selection.bodies) + 12 * len(selection.particles)
        self._stagings = [self._new_staging() for _ in range(2)]

    def check(self, state: Any) -> None:
        _check_state(state, self._body_count, self._particle_count)

    def capture(self, state: Any, target: NDArray[np.uint8]) -> PendingSnapshot:
        import warp as wp

        self.check(state)
        staging = self._idle_staging()
        stream = wp.get_stream(self._device)
        for first, source, count in self._bodies:
            wp.copy(staging.bodies, state.body_q, first, source, count, stream)
        for first, source, count in self._particles:
            wp.copy(staging.particles, state.particle_q, first, source, count, stream)
        stream.record_event(staging.event)
        return staging.lend(target)

    def _idle_staging(self) -> _Staging:
        for staging in self._stagings:
            if staging.is_idle():
                return staging
        self._stagings.append(self._new_staging())
        return self._stagings[-1]

    def _new_staging(self) -> _Staging:
        return _Staging(self._device, len(self._selection.bodies), len(self._selection.particles))


class _Staging:
    """Pinned memory for one snapshot on its way, and the event that tells when it has come."""

    def __init__(self, device: Any, body_count: int, particle_count: int) -> None:
        import warp as wp

        self.bodies = wp.empty(body_count, dtype=wp.transformf, device="cpu", pinned=True)
        self.particles = wp.empty(particle_count, dtype=wp.vec3f, device="cpu", pinned=True)
        self.event = wp.Event(device)
        self._bytes = [
            array.numpy().reshape(-1).view(np.uint8) for array in (self.bodies, self.particles) if array.size
        ]
        self._lent: weakref.ref[_DeviceSnapshot] | None = None

    def lend(self, target: NDArray[np.uint8]) -> _DeviceSnapshot:
        snapshot = _DeviceSnapshot(self, target)
        self._lent = weakref.ref(snapshot)
        return snapshot

    def is_idle(self) -> bool:
        """Whether nobody waits for what is in it, and the device no longer writes to it."""
        lent = self._lent() if self._lent is not None else None
        return (lent is None or lent.is_whole) and bool(self.event.is_complete)

    def copy_to(self, target: NDArray[np.uint8]) -> None:
        start = 0
        for part in self._bytes:
            target[start : start + part.nbytes] = part
            start += part.nbytes


class _DeviceSnapshot:
    """A snapshot on its way from the device; see `stepreel.clip.PendingSnapshot`."""

    def __init__(self, staging: _Staging, target: NDArray[np.uint8]) -> None:
        self._staging = staging
        self._target = target
        self.is_whole = False

    def poll(self) -> Snapshot | None:
        return self._finish() if self.is_whole or self._staging.event.is_complete else None

    def wait(self) -> Snapshot:
        import warp as wp

        if not self.is_whole:
            wp.synchronize_event(self._staging.event)
        return self._finish()

    def _finish(self) -> Snapshot:
        if not self.is_whole:
            self._staging.copy_to(self._target)
            self.is_whole = True
        return Snapshot(nbytes=self._target.nbytes)


def _open_source(model: Any, selection: Selection) -> _HostSource | _DeviceSource:
    return _DeviceSource(model, selection) if model.device.is_cuda else _HostSource(model, selection)


def _check_state(state: Any, body_count: int, particle_count: int) -> None:
    for name, expected in (("body_q", body_count), ("particle_q", particle_count)):
        try:
            array = getattr(state, name)
        except AttributeError:
            raise CaptureError(
                f"get_state returned {type(state).__name__}, which has no {name}; return the current newton.State"
            ) from None
        found = 0 if array is None else len(array)
        if found != expected:
            raise CaptureError(
                f"state.{name} has {found} rows, the model {expected}; return a state of the model that the backend "
                "was made with"
            )


def _copy_rows(target: Floats, source: Floats, ranges: Sequence[Range]) -> None:
    for first, start, count in ranges:
        target[first : first + count] = source[start : start + count]


def _ranges(rows: NDArray[np.int64]) -> tuple[Range, ...]:
    """Return ascending row numbers as ranges of neighbours."""
    if not len(rows):
        return ()
    firsts = np.flatnonzero(np.diff(rows, prepend=rows[0] - 2) != 1)
    counts = np.diff(firsts, append=len(rows))
    return tuple((int(first), int(rows[first]), int(count)) for first, count in zip(firsts, counts, strict=True))


def _choose_renderer(wish: str, place: DrawingPlace) -> str:
    """Return the name of the renderer to try first at `place`.

    Raises:
        BackendError: there is no such device.
        RendererUnavailableError: nothing that was wished for can draw there.
    """
    _check_gpu(place)
    problems = {"gl": _pyglet_problem() or place.opengl_problem, "warp": _tracer_problem()}
    wished = ("gl", "warp") if wish == "auto" else (wish,)
    for kind in wished:
        if problems[kind] is None:
            return f"newton_{kind}"
    found = "; ".join(f"{kind}: {problems[kind]}" for kind in wished)
    raise RendererUnavailableError(
        f'renderer="{wish}": looked for what can draw without a window on {place.name}, found {found}'
        + ("" if wish == "auto" else '; or use renderer="auto"')
    )


def _check_gpu(place: DrawingPlace) -> None:
    import warp as wp

    count = int(wp.get_cuda_device_count())
    if place.gpu is not None and place.gpu >= count:
        raise BackendError(
            f'worker_device asks for {place.name}, Warp sees {count} CUDA devices; use "auto", "cpu" or one of those'
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


def _checked_worlds(worlds: Any) -> tuple[int, ...]:
    try:
        numbers = tuple(sorted({operator.index(world) for world in worlds}))
    except TypeError:
        numbers = ()
    if numbers:
        return numbers
    raise ConfigurationError(f"visible_worlds: got {worlds!r}; allowed: at least one world's index, or None")


def _checked_spacing(spacing: Any) -> Vector:
    try:
        x, y, z = (float(part) for part in spacing)
    except (TypeError, ValueError):
        pass
    else:
        if all(math.isfinite(part) and part >= 0 for part in (x, y, z)):
            return x, y, z
    raise ConfigurationError(f"world_spacing: got {spacing!r}; allowed: three finite numbers from 0 [m], or None")
