"""The renderer of MuJoCo snapshots: pickled by the training process, opened and used in a worker.

A snapshot is the camera pose (float64, 7 numbers: look-at [m], distance [m], azimuth, elevation and vertical field of
view [degrees]), then the state (MuJoCo's numbers, in the order of `mj_getState`), then the visual overrides: fields of
the model that changed since it was saved. Of each override there is its index in `MujocoRenderSpec.visual_fields`, its
size in bytes (int64 both), and the field itself, padded to a multiple of 8 bytes.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import BackendError, CaptureError, RendererUnavailableError
from ...interfaces import RendererArchive
from ..camera import Camera
from ..render_device import RenderDevice, choose_render_device

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float64]

CAMERA_POSE_SIZE = 7
"""Numbers of a camera pose in a snapshot, float64 each."""
CAMERA_POSE_NBYTES = 8 * CAMERA_POSE_SIZE

VISUAL_FIELDS = (
    "body_pos",
    "body_quat",
    "geom_pos",
    "geom_quat",
    "geom_size",
    "geom_rgba",
    "geom_matid",
    "site_pos",
    "site_quat",
    "site_size",
    "site_rgba",
    "mat_rgba",
    "mat_texid",
    "tendon_rgba",
    "cam_pos",
    "cam_quat",
    "cam_fovy",
    "light_pos",
    "light_dir",
)
"""Fields of a model that tasks change in mid-run, for moved goals and randomized colours and sizes.

A snapshot overrides those that changed since the model was saved.
"""

OPTION_FIELDS = (
    "label",
    "frame",
    "geomgroup",
    "sitegroup",
    "jointgroup",
    "tendongroup",
    "actuatorgroup",
    "flexgroup",
    "skingroup",
    "flags",
    "bvh_depth",
    "flex_layer",
)
"""Fields of `mujoco.MjvOption`."""

_KIND = "mujoco"
_HEADER_NBYTES = 16
_LONGEST_SIDE = 16_384
"""Of a picture [pixels]; no OpenGL draws larger ones at once."""
_FREE, _TRACKING, _FIXED = 0, 1, 2
"""Values of `mjtCamera`."""
_OSMESA = ("libOSMesa.so.8", "libOSMesa.so.6", "libOSMesa.so")


@dataclass(frozen=True, slots=True, kw_only=True)
class CameraKind:
    """The fields of a `mujoco.MjvCamera` that stay the same during a recording."""

    type: int = _FREE
    """`mjtCamera`: 0 free, 1 tracking a body, 2 fixed in the model."""
    fixedcamid: int = -1
    trackbodyid: int = -1
    orthographic: int = 0

    @property
    def is_fixed(self) -> bool:
        """Whether it is a camera of the model, which has its own place and field of view."""
        return self.type == _FIXED

    @property
    def is_tracking(self) -> bool:
        """Whether it looks at a body."""
        return self.type == _TRACKING


@dataclass(frozen=True, slots=True, kw_only=True)
class MujocoRenderSpec:
    """A picture to draw: its model, camera and size. Travels to a worker."""

    model: bytes
    """Written by `mj_saveModel`; only the same version of MuJoCo reads it."""
    version: str
    """The version of MuJoCo that wrote it."""
    state_flags: int
    """Parts of the state in a snapshot, as `mjtState` flags."""
    dtype: str
    """Of the numbers of the state, as numpy writes it."""
    visual_fields: tuple[str, ...]
    """Fields of the model that a snapshot may override, by index."""
    camera: CameraKind
    scene_option: Mapping[str, Any]
    """Fields of `mujoco.MjvOption` that differ from MuJoCo's own, as numbers and lists of numbers."""
    max_geom: int
    """Most shapes in a picture; further ones are left out."""
    width: int
    height: int


class MujocoRenderer:
    """Draws with MuJoCo's own OpenGL renderer, without a window, over EGL or OSMesa.

    Args:
        spec: The picture to draw.
        camera: Takes the place of the camera in the snapshots; None: as captured.
    """

    name = "mujoco"

    def __init__(self, spec: MujocoRenderSpec, *, camera: Camera | None = None) -> None:
        self._spec = spec
        self._camera = None if camera is None else camera_pose(camera)

    def open(self) -> None:
        """Load the model and make the OpenGL context.

        Raises:
            BackendError: the model can't be loaded.
            RendererUnavailableError: no context could be made here.
        """
        spec, mujoco = self._spec, import_mujoco()
        self._mujoco = mujoco
        self._model = model = _load_model(spec)
        self._overridden: dict[str, NDArray[Any]] = {}
        try:
            self._data = mujoco.MjData(model)
            state_size = mujoco.mj_stateSize(model, spec.state_flags)
            self._nbytes = CAMERA_POSE_NBYTES + np.dtype(spec.dtype).itemsize * state_size
            self._option = _scene_option(spec.scene_option)
            self._mjv_camera = _mjv_camera(spec.camera)
            self._scene = mujoco.MjvScene(model, spec.max_geom)
        except (mujoco.FatalError, TypeError, ValueError) as exc:
            raise BackendError(f"MuJoCo {mujoco.__version__} can't draw the model as asked: {exc}") from exc
        self._viewport = mujoco.MjrRect(0, 0, spec.width, spec.height)
        self._perturb = mujoco.MjvPerturb()
        try:
            self._open_context()
        except Exception as exc:
            raise RendererUnavailableError(
                f"tried to open MuJoCo's renderer at {spec.width}x{spec.height} with MUJOCO_GL={_gl_here()}, found "
                f"{type(exc).__name__}: {exc}; install EGL with a driver (Debian: libegl1 libegl-mesa0 libgl1 "
                "libgl1-mesa-dri libopengl0) or OSMesa (libosmesa6)"
            ) from exc
        self._drawn = np.empty((spec.height, spec.width, 3), np.uint8)
        self._picture = np.empty_like(self._drawn)

    def render(self, snapshot: Pixels) -> Pixels:
        """See `stepreel.interfaces.Renderer.render`.

        Raises:
            CaptureError: the snapshot is not of this model, or a position in it is not a finite number.
        """
        mujoco = self._mujoco
        self._set(snapshot)
        mujoco.mjv_updateScene(
            self._model,
            self._data,
            self._option,
            self._perturb,
            self._mjv_camera,
            mujoco.mjtCatBit.mjCAT_ALL.value,
            self._scene,
        )
        with self._context:
            mujoco.mjr_render(self._viewport, self._scene, self._mjr)
            mujoco.mjr_readPixels(self._drawn, None, self._viewport, self._mjr)
        np.copyto(self._picture, self._drawn[::-1])
        return self._picture

    def close(self) -> None:
        """Let go of the OpenGL context."""
        with self._context:
            self._mjr.free()
        self._context.free()

    def to_archive(self) -> RendererArchive:
        """See `stepreel.interfaces.ArchivableRenderer.to_archive`."""
        spec = self._spec
        return RendererArchive(
            kind=_KIND,
            arrays={"model": np.frombuffer(spec.model, np.uint8)},
            # "spec" and "looks" are the names that snapshot files have for state flags and visual fields.
            settings={
                "mujoco": spec.version,
                "spec": spec.state_flags,
                "dtype": spec.dtype,
                "looks": list(spec.visual_fields),
                "camera": {
                    "type": spec.camera.type,
                    "fixedcamid": spec.camera.fixedcamid,
                    "trackbodyid": spec.camera.trackbodyid,
                    "orthographic": spec.camera.orthographic,
                },
                "scene_option": dict(spec.scene_option),
                "max_geom": spec.max_geom,
                "width": spec.width,
                "height": spec.height,
            },
        )

    def _open_context(self) -> None:
        mujoco = self._mujoco
        self._context = _Context(_gl_here(), self._spec.width, self._spec.height)
        with self._context:
            self._mjr = mujoco.MjrContext(self._model, mujoco.mjtFontScale.mjFONTSCALE_150.value)
            mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN.value, self._mjr)

    def _set(self, snapshot: Pixels) -> None:
        """Take on a snapshot's camera pose, state and visual overrides."""
        if snapshot.nbytes < self._nbytes:
            raise CaptureError(f"a snapshot of this model has {self._nbytes} bytes or more, got {snapshot.nbytes}")
        self._set_overrides(snapshot[self._nbytes :])
        self._set_camera(snapshot[:CAMERA_POSE_NBYTES].view(np.float64))
        # A copy: MuJoCo 3.1 wants to be able to write to it.
        state = snapshot[CAMERA_POSE_NBYTES : self._nbytes].view(self._spec.dtype).copy()
        self._mujoco.mj_setState(self._model, self._data, state, self._spec.state_flags)
        self._check_positions()
        self._mujoco.mj_forward(self._model, self._data)
        if self._spec.camera.is_tracking:
            # Older versions (3.3 still) would go only part of the way there from the picture before.
            self._mjv_camera.lookat[:] = self._data.subtree_com[self._spec.camera.trackbodyid]

    def _set_overrides(self, packed: Pixels) -> None:
        for name, saved in self._overridden.items():
            getattr(self._model, name)[:] = saved
        for index, values in unpack_overrides(packed):
            name = self._spec.visual_fields[index] if 0 <= index < len(self._spec.visual_fields) else ""
            field = getattr(self._model, name, None)
            if field is None or field.nbytes != values.nbytes:
                raise CaptureError(
                    f"the snapshot brings {values.nbytes} bytes of {name or index}, not as the model has"
                )
            self._overridden.setdefault(name, field.copy())
            field[:] = values.view(field.dtype).reshape(field.shape)

    def _set_camera(self, values: Floats) -> None:
        values = values if self._camera is None else self._camera
        camera = self._mjv_camera
        camera.lookat[:] = values[:3]
        camera.distance, camera.azimuth, camera.elevation = values[3:6].tolist()
        if not self._spec.camera.is_fixed:
            self._model.vis.global_.fovy = float(values[6])

    def _check_positions(self) -> None:
        """Refuse positions that are not finite; MuJoCo would draw them as a black or empty picture."""
        for name in ("qpos", "mocap_pos", "mocap_quat"):
            values = getattr(self._data, name)
            if not np.isfinite(values).all():
                place = int(np.flatnonzero(~np.isfinite(values.ravel()))[0])
                raise CaptureError(
                    f"{name}[{place}] is {values.ravel()[place]}: the simulation has diverged, there is nothing to draw"
                )


class _Context:
    """An OpenGL context that is current inside a `with` block only; before and behind it, whatever was current is.

    Other renderers of the thread draw in contexts of their own in between, and some, Gymnasium's among them, make
    theirs current but once. A context that stays current on one thread can't be used on another.
    """

    def __init__(self, gl: str, width: int, height: int) -> None:
        self._module = import_module(f"mujoco.{gl}")
        self._egl = getattr(self._module, "EGL", None)
        before = self._current()
        self._context = self._module.GLContext(width, height)
        self._make_current(before)
        self._before: tuple[Any, ...] | None = None

    def __enter__(self) -> None:
        self._before = self._current()
        self._context.make_current()

    def __exit__(self, *_: object) -> None:
        self._make_current(self._before)

    def free(self) -> None:
        before = self._current()
        self._context.free()
        self._make_current(before)

    def _current(self) -> tuple[Any, ...] | None:
        """Return display, surfaces and context that are current on this thread; None: there are none."""
        egl = self._egl
        if egl is None:
            return None
        egl.eglBindAPI(egl.EGL_OPENGL_API)  # Each thread has its own, and it is not always this.
        context = egl.eglGetCurrentContext()
        if not context:
            return None
        surfaces = (egl.eglGetCurrentSurface(egl.EGL_DRAW), egl.eglGetCurrentSurface(egl.EGL_READ))
        return (egl.eglGetCurrentDisplay(), *surfaces, context)

    def _make_current(self, known: tuple[Any, ...] | None) -> None:
        egl = self._egl
        if egl is not None:
            egl.eglBindAPI(egl.EGL_OPENGL_API)
            nothing = (self._module.EGL_DISPLAY, egl.EGL_NO_SURFACE, egl.EGL_NO_SURFACE, egl.EGL_NO_CONTEXT)
            egl.eglMakeCurrent(*(known or nothing))


def from_archive(
    archive: RendererArchive, *, camera: Camera | None, width: int | None, height: int | None
) -> MujocoRenderer:
    """See `stepreel.backends.archives.make_renderer`.

    Nothing is unpickled, but the model is read by MuJoCo, which trusts a model of its own version: a file made to
    harm can crash the process that opens the renderer, or worse.
    """
    settings = archive.settings
    kind = CameraKind(**{name: int(value) for name, value in settings["camera"].items()})
    spec = MujocoRenderSpec(
        model=np.ascontiguousarray(archive.arrays["model"], np.uint8).tobytes(),
        version=str(settings["mujoco"]),
        state_flags=int(settings["spec"]),
        dtype=_among((np.dtype(np.float64).str, np.dtype(np.float32).str), settings["dtype"]),
        visual_fields=tuple(_among(VISUAL_FIELDS, name) for name in settings["looks"]),
        camera=kind if camera is None else CameraKind(),
        scene_option={_among(OPTION_FIELDS, name): value for name, value in settings["scene_option"].items()},
        max_geom=int(settings["max_geom"]),
        width=_side(int(settings["width"]) if width is None else width),
        height=_side(int(settings["height"]) if height is None else height),
    )
    return MujocoRenderer(spec, camera=camera)


def camera_pose(camera: Camera) -> Floats:
    """Return the pose of a camera as a snapshot carries it, shape `[7]`."""
    pitch, yaw = camera.pitch_yaw(up_axis=2)
    eye = np.array(camera.eye)
    distance = float(np.linalg.norm(np.array(camera.lookat) - eye))
    up, turn = np.radians(pitch), np.radians(yaw)
    # Not `camera.lookat`: a camera that looks steeper than it may keeps its place.
    lookat = eye + distance * np.array([np.cos(up) * np.cos(turn), np.cos(up) * np.sin(turn), np.sin(up)])
    return np.array([*lookat, distance, yaw, pitch, camera.fov])


def pack_overrides(changed: Sequence[tuple[int, bytes]]) -> bytes:
    """Return fields, each with its index in `MujocoRenderSpec.visual_fields`, as a snapshot carries them."""
    return b"".join(
        index.to_bytes(8, sys.byteorder) + len(data).to_bytes(8, sys.byteorder) + data + bytes(-len(data) % 8)
        for index, data in changed
    )


def unpack_overrides(packed: Pixels) -> Iterator[tuple[int, Pixels]]:
    """Yield the fields that `pack_overrides` packed, each with its index.

    Raises:
        CaptureError: it is cut short.
    """
    start = 0
    while start < packed.nbytes:
        header = packed[start : start + _HEADER_NBYTES]
        index, nbytes = header.view(np.int64).tolist() if header.nbytes == _HEADER_NBYTES else (0, -1)
        start += _HEADER_NBYTES
        if not 0 <= nbytes <= packed.nbytes - start:
            raise CaptureError(f"the snapshot of {packed.nbytes} bytes beyond the state is cut short")
        yield index, packed[start : start + nbytes]
        start += nbytes + -nbytes % 8


def gl_environment(device: RenderDevice) -> dict[str, str]:
    """Return the environment in which MuJoCo draws at `device`, without a window.

    Raises:
        RendererUnavailableError: nothing can, with what was looked for.
    """
    wish = os.environ.get("MUJOCO_GL", "").strip().lower()
    if wish != "osmesa" and device.opengl_problem is None:
        return {
            **device.environment,
            "MUJOCO_GL": "egl",
            "PYOPENGL_PLATFORM": "egl",
            "MUJOCO_EGL_DEVICE_ID": str(device.egl_device),
        }
    if device.gpu is None and _has_osmesa():
        return {**device.environment, "MUJOCO_GL": "osmesa", "PYOPENGL_PLATFORM": "osmesa"}
    on_gpu = device.gpu is not None
    raise RendererUnavailableError(
        f"looked for what can draw without a window on {device.name}, found egl: "
        f"{device.opengl_problem or 'not asked'}; osmesa: "
        + ("draws on the CPU only" if on_gpu else "libOSMesa is not there (Debian: libosmesa6)")
    )


def _gl_here() -> str:
    """Return "egl" or "osmesa", as the environment says, or else as this machine has."""
    named = os.environ.get("MUJOCO_GL", "").strip().lower()
    return named if named in ("egl", "osmesa") else gl_environment(choose_render_device("auto", None))["MUJOCO_GL"]


def _has_osmesa() -> bool:
    for library in _OSMESA:
        try:
            ctypes.CDLL(library)
        except OSError:
            continue
        return True
    return False


def _among(known: Sequence[str], name: Any) -> str:
    if name not in known:
        raise ValueError(f"{name!r} is none of {', '.join(known)}")
    return str(name)


def _side(pixels: int) -> int:
    if not 1 <= pixels <= _LONGEST_SIDE:
        raise ValueError(f"a side of {pixels} pixels")
    return pixels


def _load_model(spec: MujocoRenderSpec) -> Any:
    mujoco = import_mujoco()
    try:
        model = mujoco.MjModel.from_binary_path("stepreel.mjb", {"stepreel.mjb": spec.model})
    except Exception as exc:
        raise BackendError(
            f"MuJoCo {mujoco.__version__} can't load the model that MuJoCo {spec.version} saved: {exc}; draw with the "
            "same version, and with the same plugins"
        ) from exc
    model.vis.global_.offwidth = max(model.vis.global_.offwidth, spec.width)
    model.vis.global_.offheight = max(model.vis.global_.offheight, spec.height)
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
        import mujoco
    except ImportError as exc:
        raise BackendError(
            f"MuJoCo can't be imported ({exc}); install it with stepreel: pip install 'stepreel[mujoco]'"
        ) from exc
    return mujoco
