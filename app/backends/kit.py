"""`KitBackend`: pictures of an Isaac Sim stage, taken through Replicator on the thread that runs Kit.

Kit draws nowhere else, so every captured step pays for a rendering. Between captures the render product is paused:
then whatever updates the app has nothing of ours to draw.
"""

from __future__ import annotations

import logging
import math
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from importlib import import_module
from types import FrameType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..clip import CaptureRequest, ClipRequest, Frame
from ..errors import BackendError, CaptureError, ConfigurationError
from ..interfaces import CaptureFormat, Report, Slot
from .camera import Camera, CameraSource, current_camera
from .pixels import copy_pixels

DEFAULT_WIDTH = 1280
DEFAULT_HEIGHT = 720
DEFAULT_CAMERA_PRIM_PATH = "/OmniverseKit_Persp"

_PLAYS = "/app/player/playSimulations"
_BLACK = 2.0
"""Mean of a picture's values, of 255, below which nothing is to be seen in it."""
_PROBED = 8
"""Of every so many rows and columns one is looked at, to see whether a picture is black."""
_NAMED_CAMERAS = 8

_log = logging.getLogger(__name__)

_placed_cameras: dict[str, Camera] = {}
"""Cameras of the prims that this process moved, by path: the streams of a recorder may share one."""


class KitBackend:
    """Records what a camera of the stage sees, as Isaac Sim's renderer draws it.

    Construct it, and open the recorder, on the thread that runs Kit, with the app running and a stage open.

    Args:
        camera: Where the camera prim is put: once, or, given a function, wherever it is at each capture. Of it `eye`
            and `lookat` [m] are used; the lens is the prim's own. None: the prim stays where it is.
        camera_prim_path: The camera prim. The viewport's is authored where there is no viewport.
        sim: Isaac Lab's `SimulationContext`, or whatever has `is_rendering` and `forward()`: where it renders
            nothing by itself, poses are stale, and `forward()` is called before each capture.
        push_poses: Called before each capture, after that: hands the poses to Kit's renderer where the physics doesn't,
            as Isaac Lab's Fabric backend does for Newton.
        is_drawn: Asked at each capture: whether the app was updated since the last physics step, so that the picture
            is already there. It then stays resumed for the whole clip. None: the app is updated for each capture.
        updates_per_capture: Updates of the app until a picture shows the current state; more than 1 where pictures
            lag behind.
        warmup_updates: How many empty pictures are waited for, when the backend is opened and once in each clip.
        steps_per_second: Simulated steps a second [Hz]; None: not known.

    Attributes:
        empty_count: Empty pictures that Kit gave so far; none of them is in a video.

    Raises:
        ConfigurationError: a value that can't work.
    """

    name = "kit"

    def __init__(
        self,
        *,
        camera: CameraSource | None = Camera(),  # noqa: B008 - it is frozen.
        camera_prim_path: str = DEFAULT_CAMERA_PRIM_PATH,
        sim: Any = None,
        push_poses: Callable[[], object] | None = None,
        is_drawn: Callable[[], bool] | None = None,
        updates_per_capture: int = 1,
        warmup_updates: int = 100,
        steps_per_second: float | None = None,
    ) -> None:
        self._camera = _checked_camera(camera)
        self._prim_path = _checked_path(camera_prim_path)
        self._push_poses = push_poses
        self._is_drawn = is_drawn
        self._updates_per_capture = _checked_count("updates_per_capture", updates_per_capture, least=1)
        self._warmup_updates = _checked_count("warmup_updates", warmup_updates, least=0)
        self._steps_per_second = _checked_rate(steps_per_second)
        self._sim = _checked_sim(sim)
        self._report: Report = _log_report
        self._product: _RenderProduct | None = None
        self._thread = 0
        self._clip_index = -1
        self._patience = 0
        self._is_black_told = False
        self._is_clip_open = False
        self._is_picture_stale = True
        self.empty_count = 0

    def open(self, *, width: int | None, height: int | None, worker_device: str) -> CaptureFormat:
        """See `stepreel.interfaces.Backend.open`. Waits, within bounds, for Kit's first picture.

        Raises:
            BackendError: Kit is not running here, no stage is open, or the camera prim is not there.
        """
        width, height = width or DEFAULT_WIDTH, height or DEFAULT_HEIGHT
        self._thread = threading.get_ident()
        app = _running_app()
        _check_camera_prim(self._prim_path)
        try:
            is_warm = self._warm_up(app, width, height)
        except Exception as exc:
            raise BackendError(f"Kit can't be recorded: {type(exc).__name__}: {exc}") from exc
        return CaptureFormat(
            width=width,
            height=height,
            nbytes=width * height * 3,
            steps_per_second=self._steps_per_second,
            details={
                "camera": None if self._camera is None else _pose(_placed_cameras[self._prim_path]),
                "camera_prim_path": self._prim_path,
                "is_following": callable(self._camera),
                "is_warm": is_warm,
                "empty_pictures": self.empty_count,
            },
        )

    def report_to(self, report: Report) -> None:
        """See `stepreel.interfaces.ReportingBackend.report_to`."""
        self._report = report

    def clip_began(self, clip: ClipRequest) -> None:
        """See `stepreel.interfaces.ClipListener.clip_began`. Resumes the rendering where each step is drawn anyway."""
        if self._is_drawn is not None:
            self._open_product().resume()
            self._is_clip_open = self._is_picture_stale = True

    def capture(self, request: CaptureRequest, slot: Slot) -> Frame:
        """Have Kit draw the current state, and copy the picture into `slot`.

        Raises:
            CaptureError: Kit raised, gave no picture, or one of another size; or this is not Kit's thread.
        """
        product = self._open_product()
        self._enter_clip(request.clip)
        try:
            self._refresh_poses()
            self._set_camera()
            product.resume()
            picture = self._await_picture(product)
            if picture is None:
                raise CaptureError(f"Kit gave no picture, only empty ones ({self.empty_count} so far)")
            frame = copy_pixels(picture, slot)
        except CaptureError:
            raise
        except Exception as exc:
            raise CaptureError(f"Kit could not take a picture: {type(exc).__name__}: {exc}") from exc
        finally:
            if not self._is_clip_open:
                self._pause(product)
        self._tell_if_black(slot.array(frame.nbytes).reshape(frame.height, frame.width, 3), request.clip)
        return frame

    def clip_ended(self, clip: ClipRequest) -> None:
        """See `stepreel.interfaces.ClipListener.clip_ended`. Pauses the rendering."""
        if self._is_clip_open:
            self._is_clip_open = False
            self._pause(self._open_product())

    def close(self) -> None:
        """Detach the annotator and destroy the render product; the stage and its camera stay.

        Raises:
            BackendError: called on another thread than the one that opened it, where Kit must not be touched.
        """
        if self._product is None:
            return
        if threading.get_ident() != self._thread:
            raise BackendError("the Kit backend was closed on another thread than it was opened on; close it there")
        product, self._product = self._product, None
        self._is_clip_open = False
        product.close()

    def _warm_up(self, app: Any, width: int, height: int) -> bool:
        """Make the render product and wait for a picture of it; return whether one came."""
        _placed_cameras.pop(self._prim_path, None)
        self._set_camera()
        with ExitStack() as stack:
            product = self._product = _RenderProduct(app, self._prim_path, width, height)
            stack.callback(self.close)
            self._patience = self._warmup_updates
            is_warm = self._await_picture(product) is not None
            self._pause(product)
            stack.pop_all()
        return is_warm

    def _open_product(self) -> _RenderProduct:
        if threading.get_ident() != self._thread:
            raise CaptureError("Kit can be used on one thread only: record on the thread that opened the recorder")
        if self._product is None:
            raise CaptureError("the Kit backend is not open; call open first")
        return self._product

    def _enter_clip(self, clip: ClipRequest) -> None:
        if clip.clip_index != self._clip_index:
            self._clip_index = clip.clip_index
            self._patience = self._warmup_updates
            self._is_black_told = False

    def _refresh_poses(self) -> None:
        """Bring the poses of the stage to the state of the physics, as Isaac Lab does before it renders on demand."""
        if self._sim is not None and not self._sim.is_rendering:
            self._sim.forward()
            markers = getattr(self._sim, "vis_marker_registry", None)
            if markers is not None:
                markers.dispatch_callbacks()
            self._is_picture_stale = True
        if self._push_poses is not None:
            self._push_poses()
            self._is_picture_stale = True

    def _set_camera(self) -> None:
        if self._camera is None:
            return
        camera = current_camera(self._camera)
        if camera != _placed_cameras.get(self._prim_path):
            viewport = import_module("isaacsim.core.rendering_manager").ViewportManager
            viewport.set_camera_view(self._prim_path, eye=list(camera.eye), target=list(camera.lookat))
            _placed_cameras[self._prim_path] = camera
            self._is_picture_stale = True

    def _await_picture(self, product: _RenderProduct) -> NDArray[Any] | None:
        """Return a picture of the current state; None where there are still only empty ones."""
        if self._needs_update():
            product.update(self._updates_per_capture)
        while (picture := product.read()) is None:
            self.empty_count += 1
            if self._patience == 0:
                return None
            self._patience -= 1
            product.update(1)
        self._is_picture_stale = False
        return picture

    def _needs_update(self) -> bool:
        """Whether the app has yet to draw this state for us; pictures from before it was resumed don't count."""
        return not self._is_clip_open or self._is_picture_stale or not (self._is_drawn and self._is_drawn())

    def _pause(self, product: _RenderProduct) -> None:
        try:
            product.pause()
        except Exception as exc:  # noqa: BLE001 - costs training time and no picture; it is told.
            self._report("kit.not_paused", type(exc).__name__, error=str(exc))

    def _tell_if_black(self, pixels: NDArray[np.uint8], clip: ClipRequest) -> None:
        if not self._is_black_told and pixels[::_PROBED, ::_PROBED].mean() < _BLACK:
            self._is_black_told = True
            self._report("picture.black", clip.name, clip=clip.name, advice=_BLACK_ADVICE)


_BLACK_ADVICE = (
    "look at the lights and at where the camera is; with Newton physics Kit draws bodies only where cubric is available"
)


class _RenderProduct:
    """A render product of Replicator and its annotator, which give the pictures of one camera prim."""

    def __init__(self, app: Any, prim_path: str, width: int, height: int) -> None:
        replicator = import_module("omni.replicator.core")
        self._app = app
        self._size = (width, height)
        with ExitStack() as stack:
            self._product = replicator.create.render_product(prim_path, (width, height))
            stack.callback(self._product.destroy)
            self._annotator = replicator.AnnotatorRegistry.get_annotator("rgb", device="cpu")
            self._annotator.attach([self._product])
            stack.callback(self._annotator.detach)
            self._exits = stack.pop_all()
        self._is_rendering = True
        self._is_open = True

    def resume(self) -> None:
        if not self._is_rendering:
            self._product.resume()
            self._is_rendering = True

    def pause(self) -> None:
        if self._is_open and self._is_rendering:
            self._product.pause()
            self._is_rendering = False

    def update(self, count: int) -> None:
        """Have the app draw, without letting it advance the physics."""
        settings = import_module("carb.settings").get_settings()
        for _ in range(count):
            self._check()
            plays = settings.get(_PLAYS)
            settings.set(_PLAYS, False)
            try:
                with _interrupt_held_back():
                    self._app.update()
            finally:
                settings.set(_PLAYS, True if plays is None else bool(plays))
        self._check()

    def read(self) -> NDArray[Any] | None:
        """Return what was drawn last, shape `[height, width, channels]`; None where there is nothing yet."""
        found = self._annotator.get_data()
        data = np.asarray(found.get("data", ()) if isinstance(found, dict) else found)
        if data.size == 0:
            return None
        width, height = self._size
        if data.ndim == 1 and data.size in (3 * width * height, 4 * width * height):
            data = data.reshape(height, width, -1)
        if data.ndim != 3 or data.shape[:2] != (height, width):
            raise CaptureError(
                f"Kit gave an array of shape {list(data.shape)}; a picture of {width}x{height} pixels was asked for"
            )
        return data

    def close(self) -> None:
        """Detach, then destroy; where the first fails, the second is done all the same, and the failure raised."""
        self._is_open = False
        self._exits.close()

    def _check(self) -> None:
        if not self._is_open:  # What an update calls back may close the recorder.
            raise CaptureError("the Kit backend was closed while Kit was drawing")
        if not self._app.is_running():
            raise CaptureError("Kit is shutting down")


@contextmanager
def _interrupt_held_back() -> Iterator[None]:
    """Hold Ctrl-C back until Kit is done: what is raised in a callback of its update, Kit may swallow.

    A second Ctrl-C ends the program, in case the update never returns.
    """
    handler = signal.getsignal(signal.SIGINT)
    if not callable(handler) or threading.current_thread() is not threading.main_thread():
        yield
        return
    held: list[tuple[int, FrameType | None]] = []

    def hold(signum: int, frame: FrameType | None) -> None:
        held.append((signum, frame))
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    signal.signal(signal.SIGINT, hold)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
        for signum, frame in held:
            handler(signum, frame)


def _running_app() -> Any:
    try:
        app = import_module("omni.kit.app").get_app()
        import_module("omni.replicator.core")
        import_module("isaacsim.core.rendering_manager")
    except ImportError as exc:
        raise BackendError(
            f"Kit can't be recorded: {exc}. Start Isaac Sim first, as with isaaclab.app.AppLauncher, or"
            " isaacsim.SimulationApp"
        ) from exc
    if app is None or not app.is_running():
        raise BackendError("Kit can't be recorded: its app is not running; start Isaac Sim before the recorder")
    return app


def _check_camera_prim(path: str) -> None:
    """Look for the camera prim; author the viewport's where there is no viewport.

    Raises:
        BackendError: there is no stage, or no such camera; names those there are.
    """
    stage = import_module("omni.usd").get_context().get_stage()
    if stage is None:
        raise BackendError("Kit can't be recorded: no stage is open; open one, or make the environment first")
    usd_geom = import_module("pxr.UsdGeom")
    prim = stage.GetPrimAtPath(path)
    if prim.IsValid() and prim.IsA(usd_geom.Camera):
        return
    if not prim.IsValid() and path == DEFAULT_CAMERA_PRIM_PATH:
        usd_geom.Camera.Define(stage, path)
        return
    cameras = [str(found.GetPath()) for found in stage.Traverse() if found.IsA(usd_geom.Camera)]
    named = ", ".join(sorted(cameras)[:_NAMED_CAMERAS]) or "none"
    raise BackendError(f"camera_prim_path: no camera at {path!r}; cameras of this stage: {named}")


def _pose(camera: Camera) -> dict[str, list[float]]:
    return {"eye": list(camera.eye), "lookat": list(camera.lookat)}


def _log_report(event: str, kind: str, *, count: int = 1, **facts: object) -> None:
    """Stand in for the recorder's log, where nobody listens."""
    _log.warning("%s: %s", event, {"kind": kind, "count": count, **facts})


def _checked_camera(camera: object) -> CameraSource | None:
    if camera is None or isinstance(camera, Camera) or callable(camera):
        return camera
    raise ConfigurationError(f"camera: got {camera!r}; allowed: a Camera, a function that returns one, or None")


def _checked_path(path: object) -> str:
    if isinstance(path, str) and path.startswith("/") and len(path) > 1:
        return path
    raise ConfigurationError(f"camera_prim_path: got {path!r}; allowed: a path of the stage, such as /World/Camera")


def _checked_count(name: str, value: object, *, least: int) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and value >= least:
        return value
    raise ConfigurationError(f"{name}: got {value!r}; allowed: a whole number, at least {least}")


def _checked_rate(value: float | None) -> float | None:
    if value is None or (math.isfinite(value) and value > 0):
        return value
    raise ConfigurationError(f"steps_per_second: got {value!r}; allowed: above 0, or None")


def _checked_sim(sim: Any) -> Any:
    if sim is None or (hasattr(sim, "is_rendering") and callable(getattr(sim, "forward", None))):
        return sim
    raise ConfigurationError(f"sim: got {sim!r}; allowed: what has is_rendering and forward(), or None")
