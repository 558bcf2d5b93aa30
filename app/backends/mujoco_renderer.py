"""The renderer of MuJoCo snapshots: pickled by the training process, opened and used in a worker.

A snapshot is the camera (float64, 7 numbers: look-at [m], distance [m], azimuth, elevation and vertical field of view
[degrees]) followed by the state (MuJoCo's numbers, in the order of `mj_getState`).
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..clip import RendererArchive
from ..errors import BackendError, CaptureError, RendererUnavailableError
from .camera import Camera
from .drawing_place import DrawingPlace, choose_place

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float64]

AIM_SIZE = 7
"""Numbers of a camera in a snapshot, float64 each."""
AIM_NBYTES = 8 * AIM_SIZE

_KIND = "mujoco"
_FREE, _TRACKING, _FIXED = 0, 1, 2
"""Values of `mjtCamera`."""
_OSMESA = ("libOSMesa.so.8", "libOSMesa.so.6", "libOSMesa.so")


@dataclass(frozen=True, slots=True, kw_only=True)
class CameraKind:
    """What of a `mujoco.MjvCamera` stays as it is during a recording."""

    type: int = _FREE
    """`mjtCamera`: 0 free, 1 tracking a body, 2 fixed in the model."""
    fixedcamid: int = -1
    trackbodyid: int = -1
    orthographic: int = 0

    @property
    def takes_fov(self) -> bool:
        """Whether the snapshot tells the field of view; a camera of the model has its own."""
        return self.type != _FIXED


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """What to draw, from where, how large."""

    model: bytes
    """What `mj_saveModel` wrote; only the same version of MuJoCo reads it."""
    version: str
    """The version of MuJoCo that wrote it."""
    spec: int
    """Parts of the state in a snapshot, as `mjtState` flags."""
    dtype: str
    """Of the numbers of the state, as numpy writes it."""
    camera: CameraKind
    scene_option: Mapping[str, Any]
    """Fields of `mujoco.MjvOption` that differ from MuJoCo's own, as numbers and lists of numbers."""
    max_geom: int
    """Most shapes in a picture; what is beyond is left out."""
    width: int
    height: int


class MujocoRenderer:
    """Draws with MuJoCo's own OpenGL renderer, without a window, over EGL or OSMesa.

    Args:
        view: What to draw.
        camera: Takes the place of the camera in the snapshots; None: as captured.
    """

    name = "mujoco"

    def __init__(self, view: View, *, camera: Camera | None = None) -> None:
        self._view = view
        self._camera = None if camera is None else aim_values(camera)

    def open(self) -> None:
        """Load the model and make the OpenGL context.

        Raises:
            BackendError: the model can't be loaded.
            RendererUnavailableError: no context could be made here.
        """
        view, mujoco = self._view, import_mujoco()
        self._mujoco = mujoco
        self._model = model = _load_model(view)
        self._data = mujoco.MjData(model)
        self._nbytes = AIM_NBYTES + np.dtype(view.dtype).itemsize * mujoco.mj_stateSize(model, view.spec)
        self._nmocap = model.nq + 7 * model.nmocap
        self._option = _scene_option(view.scene_option)
        self._mjv_camera = _mjv_camera(view.camera)
        self._scene = mujoco.MjvScene(model, view.max_geom)
        self._viewport = mujoco.MjrRect(0, 0, view.width, view.height)
        self._perturb = mujoco.MjvPerturb()
        try:
            self._open_context()
        except Exception as exc:
            raise RendererUnavailableError(
                f"tried to open MuJoCo's renderer at {view.width}x{view.height} with MUJOCO_GL={_gl_here()}, found "
                f"{type(exc).__name__}: {exc}; install EGL with a driver (Debian: libegl1 libegl-mesa0 libgl1 "
                "libgl1-mesa-dri libopengl0) or OSMesa (libosmesa6)"
            ) from exc
        self._drawn = np.empty((view.height, view.width, 3), np.uint8)
        self._picture = np.empty_like(self._drawn)

    def render(self, snapshot: Pixels) -> Pixels:
        """See `stepreel.clip.Renderer.render`.

        Raises:
            CaptureError: the snapshot is not of this model, or a position in it is not a finite number.
        """
        mujoco = self._mujoco
        self._set(snapshot)
        # Another renderer of this process may have drawn last, in a context of its own.
        self._context.make_current()
        mujoco.mjv_updateScene(
            self._model,
            self._data,
            self._option,
            self._perturb,
            self._mjv_camera,
            mujoco.mjtCatBit.mjCAT_ALL.value,
            self._scene,
        )
        mujoco.mjr_render(self._viewport, self._scene, self._mjr)
        mujoco.mjr_readPixels(self._drawn, None, self._viewport, self._mjr)
        np.copyto(self._picture, self._drawn[::-1])
        return self._picture

    def close(self) -> None:
        """Let go of the OpenGL context."""
        self._context.make_current()
        self._mjr.free()
        self._context.free()

    def to_archive(self) -> RendererArchive:
        """See `stepreel.clip.ArchivableRenderer.to_archive`."""
        view = self._view
        return RendererArchive(
            kind=_KIND,
            arrays={"model": np.frombuffer(view.model, np.uint8)},
            settings={
                "mujoco": view.version,
                "spec": view.spec,
                "dtype": view.dtype,
                "camera": {
                    "type": view.camera.type,
                    "fixedcamid": view.camera.fixedcamid,
                    "trackbodyid": view.camera.trackbodyid,
                    "orthographic": view.camera.orthographic,
                },
                "scene_option": dict(view.scene_option),
                "max_geom": view.max_geom,
                "width": view.width,
                "height": view.height,
            },
        )

    def _open_context(self) -> None:
        mujoco = self._mujoco
        self._context = import_module(f"mujoco.{_gl_here()}").GLContext(self._view.width, self._view.height)
        self._context.make_current()
        self._mjr = mujoco.MjrContext(self._model, mujoco.mjtFontScale.mjFONTSCALE_150.value)
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN.value, self._mjr)

    def _set(self, snapshot: Pixels) -> None:
        """Take on a snapshot's camera and state."""
        if snapshot.nbytes != self._nbytes:
            raise CaptureError(f"a snapshot of this model has {self._nbytes} bytes, got {snapshot.nbytes}")
        self._aim(snapshot[:AIM_NBYTES].view(np.float64))
        state = snapshot[AIM_NBYTES:].view(self._view.dtype)
        self._mujoco.mj_setState(self._model, self._data, state, self._view.spec)
        self._check_positions()
        self._mujoco.mj_forward(self._model, self._data)

    def _aim(self, values: Floats) -> None:
        values = values if self._camera is None else self._camera
        camera = self._mjv_camera
        camera.lookat[:] = values[:3]
        camera.distance, camera.azimuth, camera.elevation = values[3:6].tolist()
        if self._view.camera.takes_fov:
            self._model.vis.global_.fovy = float(values[6])

    def _check_positions(self) -> None:
        """Refuse what MuJoCo would draw as a black or empty picture."""
        for name in ("qpos", "mocap_pos", "mocap_quat"):
            values = getattr(self._data, name)
            if not np.isfinite(values).all():
                place = int(np.flatnonzero(~np.isfinite(values.ravel()))[0])
                raise CaptureError(
                    f"{name}[{place}] is {values.ravel()[place]}: the simulation has diverged, there is nothing to draw"
                )


def from_archive(
    archive: RendererArchive, *, camera: Camera | None, width: int | None, height: int | None
) -> MujocoRenderer:
    """See `stepreel.backends.archives.make_renderer`.

    Nothing is unpickled, but the model is read by MuJoCo, which trusts a model of its own version: a file made to
    harm can crash the process that opens the renderer, or worse.
    """
    settings = archive.settings
    kind = CameraKind(**{name: int(value) for name, value in settings["camera"].items()})
    view = View(
        model=np.ascontiguousarray(archive.arrays["model"], np.uint8).tobytes(),
        version=str(settings["mujoco"]),
        spec=int(settings["spec"]),
        dtype=np.dtype(settings["dtype"]).str,
        camera=kind if camera is None else CameraKind(),
        scene_option=dict(settings["scene_option"]),
        max_geom=int(settings["max_geom"]),
        width=int(settings["width"]) if width is None else width,
        height=int(settings["height"]) if height is None else height,
    )
    return MujocoRenderer(view, camera=camera)


def aim_values(camera: Camera) -> Floats:
    """Return a camera as a snapshot carries it, shape `[7]`."""
    pitch, yaw = camera.pitch_yaw(up_axis=2)
    eye = np.array(camera.eye)
    distance = float(np.linalg.norm(np.array(camera.lookat) - eye))
    up, turn = np.radians(pitch), np.radians(yaw)
    # Not `camera.lookat`: a camera that looks steeper than it may keeps its place.
    lookat = eye + distance * np.array([np.cos(up) * np.cos(turn), np.cos(up) * np.sin(turn), np.sin(up)])
    return np.array([*lookat, distance, yaw, pitch, camera.fov])


def gl_environment(place: DrawingPlace) -> dict[str, str]:
    """Return the environment in which MuJoCo draws at `place`, without a window.

    Raises:
        RendererUnavailableError: nothing can, with what was looked for.
    """
    wish = os.environ.get("MUJOCO_GL", "").strip().lower()
    if wish != "osmesa" and place.opengl_problem is None:
        return {
            **place.environment,
            "MUJOCO_GL": "egl",
            "PYOPENGL_PLATFORM": "egl",
            "MUJOCO_EGL_DEVICE_ID": str(place.egl_device),
        }
    if place.gpu is None and _has_osmesa():
        return {**place.environment, "MUJOCO_GL": "osmesa", "PYOPENGL_PLATFORM": "osmesa"}
    raise RendererUnavailableError(
        f"looked for what can draw without a window on {place.name}, found egl: {place.opengl_problem or 'not asked'}; "
        f"osmesa: {'draws on the CPU only' if place.gpu is not None else 'libOSMesa is not there (Debian: libosmesa6)'}"
    )


def _gl_here() -> str:
    """Return "egl" or "osmesa": what the environment says, or else what this machine has."""
    named = os.environ.get("MUJOCO_GL", "").strip().lower()
    return named if named in ("egl", "osmesa") else gl_environment(choose_place("auto", None))["MUJOCO_GL"]


def _has_osmesa() -> bool:
    for library in _OSMESA:
        try:
            ctypes.CDLL(library)
        except OSError:
            continue
        return True
    return False


def _load_model(view: View) -> Any:
    mujoco = import_mujoco()
    try:
        model = mujoco.MjModel.from_binary_path("stepreel.mjb", {"stepreel.mjb": view.model})
    except Exception as exc:
        raise BackendError(
            f"MuJoCo {mujoco.__version__} can't load the model that MuJoCo {view.version} saved: {exc}; draw with the "
            "same version, and with the same plugins"
        ) from exc
    model.vis.global_.offwidth = max(model.vis.global_.offwidth, view.width)
    model.vis.global_.offheight = max(model.vis.global_.offheight, view.height)
    if hasattr(mujoco.mjtEnableBit, "mjENBL_SLEEP"):
        # What sleeps is not moved by setting its position.
        model.opt.enableflags &= ~int(mujoco.mjtEnableBit.mjENBL_SLEEP)
    return model


def _scene_option(fields: Mapping[str, Any]) -> Any:
    option = import_mujoco().MjvOption()
    for name, value in fields.items():
        if isinstance(value, list):
            getattr(option, name)[:] = value
        else:
            setattr(option, name, value)
    return option


def _mjv_camera(kind: CameraKind) -> Any:
    camera = import_mujoco().MjvCamera()
    camera.type, camera.fixedcamid, camera.trackbodyid = kind.type, kind.fixedcamid, kind.trackbodyid
    if kind.orthographic:
        camera.orthographic = kind.orthographic
    return camera


def import_mujoco() -> Any:
    """Return the module `mujoco`.

    Raises:
        BackendError: it is not installed, with the extra that brings it.
    """
    try:
        return import_module("mujoco")
    except ImportError as exc:
        raise BackendError(
            f"MuJoCo can't be imported ({exc}); install it with stepreel: pip install 'stepreel[mujoco]'"
        ) from exc
