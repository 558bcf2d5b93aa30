"""`SensorBackend`: pictures of a camera that the task renders anyway, one environment or several side by side.

The sensor's arrays are copied, so nothing is rendered a second time. Colours in host memory go straight into the slot.
A worker makes the picture of everything else: of depth, normals and labels, which are slow to colour, and of arrays on
a CUDA device, which are copied into pinned memory without waiting for the device.
"""

from __future__ import annotations

import math
import operator
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...clip import CaptureRequest, Frame, Snapshot
from ...config import MAX_SIDE
from ...errors import BackendError, CaptureError, ConfigurationError, SourceUnavailableError
from ...interfaces import CaptureFormat, PendingSnapshot, RendererArchive, Slot
from ..camera import Camera
from ..colour import checked_range, depth_to_rgb, labels_to_rgb, normals_to_rgb
from ..pixels import copy_channels
from .selection import Channel, checked_channel, find_output

DEFAULT_DEPTH_RANGE = (0.1, 10.0)

_NO_LABEL = 0
"""Replicator's label of the background."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tiles:
    """The places of several environments in one picture: row by row, the first at the top left."""

    count: int
    rows: int
    columns: int
    height: int
    """Of one picture [pixels], as `width` is."""
    width: int

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the whole picture [pixels]."""
        return self.columns * self.width, self.rows * self.height

    def parts(self, picture: NDArray[np.uint8]) -> list[NDArray[np.uint8]]:
        """Return the place of each environment in `picture`, shape `[height, width, 3]`, as a view."""
        return [
            picture[
                row * self.height : (row + 1) * self.height,
                column * self.width : (column + 1) * self.width,
            ]
            for row, column in (divmod(index, self.columns) for index in range(self.count))
        ]


class SensorBackend:
    """Records the pictures that a camera of the scene holds, at each captured step.

    Reading a sensor's `data` may have it rendered, where the task has not read it in this step itself.

    Args:
        sensors: The sensors of the scene by name, as in Isaac Lab's `env.unwrapped.scene.sensors`. The `data.output`
            of a camera has arrays of shape `[environments, height, width, channels]`: numpy's, torch's, or what has
            one of them as its `torch`.
        sensor: The name of the one that is recorded.
        channel: "rgb"; "depth"; "normals"; or "segmentation".
        env_indices: The environments in the picture; None: as many from the first as there are tiles.
        tiles: Rows and columns of the picture; None: 1 x 1, or as square as possible around `env_indices`.
        depth_range: Distances at the ends of the colours of depth [m].
        steps_per_second: Simulated steps a second [Hz]; None: not known.

    Raises:
        ConfigurationError: a value that can't work.
        SourceUnavailableError: there is no such camera; with those that there are.
    """

    name = "sensor"

    def __init__(
        self,
        sensors: Mapping[str, Any],
        sensor: str,
        *,
        channel: str = "rgb",
        env_indices: Sequence[int] | None = None,
        tiles: tuple[int, int] | None = None,
        depth_range: tuple[float, float] = DEFAULT_DEPTH_RANGE,
        steps_per_second: float | None = None,
    ) -> None:
        self._channel = checked_channel(channel)
        self._env_indices = None if env_indices is None else _checked_indices(env_indices)
        self._grid = None if tiles is None else _checked_tiles(tiles)
        self._depth_range = checked_range("depth_range", depth_range)
        self._steps_per_second = steps_per_second
        self._sensor_name = sensor
        self._sensor = _find(sensors, sensor)
        self._output = ""
        self._envs: tuple[int, ...] = ()
        self._source: _PixelSource | _RawSource | _DeviceSource | None = None

    def open(self, *, width: int | None, height: int | None, worker_device: str) -> CaptureFormat:
        """See `stepreel.interfaces.Backend.open`. The size: the sensor's, times the tiles; any `worker_device` will do.

        Raises:
            BackendError: the sensor has no such output, or none of this shape.
            ConfigurationError: an environment that is not there, more tiles than there are environments, or another
                size than the sensor's.
        """
        self._output = self._find_output()
        found = self._read()
        shape = tuple(int(side) for side in getattr(found, "shape", ()))
        if len(shape) not in (3, 4) or 0 in shape:
            raise BackendError(
                f"{self._described()} has the shape {list(shape)}; needed: [environments, H, W, channels]"
            )
        self._envs, tiles = _lay_out(self._env_indices, self._grid, shape)
        _check_size(self._described(), tiles, width, height)
        spec = SensorRenderSpec(
            tiles=tiles,
            channel=self._channel,
            depth_range=self._depth_range,
            dtype=_dtype_name(found, self._described()),
            depth=shape[3] if len(shape) == 4 else 1,
        )
        _check_spec(self._described(), spec)
        self._source = _open_source(found, self._envs, spec)
        is_drawn_here = isinstance(self._source, _PixelSource)
        return CaptureFormat(
            width=tiles.size[0],
            height=tiles.size[1],
            nbytes=math.prod(tiles.size) * 3 if is_drawn_here else spec.nbytes,
            steps_per_second=self._steps_per_second,
            renderer=None if is_drawn_here else SensorRenderer(spec),
            details={
                "sensor": self._sensor_name,
                "output": self._output,
                "channel": str(self._channel),
                "env_indices": list(self._envs),
                "tiles": [tiles.rows, tiles.columns],
                "depth_range": list(self._depth_range),
                "device": str(getattr(found, "device", "cpu")),
            },
        )

    def capture(self, request: CaptureRequest, slot: Slot) -> Frame | Snapshot | PendingSnapshot:
        """Copy the sensor's current array into `slot`.

        From a CUDA device the copy is queued on torch's current stream, and the snapshot is pending until it is done.

        Raises:
            CaptureError: the sensor's array has another shape or dtype than when the backend was opened.
        """
        if self._source is None:
            raise CaptureError("the backend is not open; call open first")
        return self._source.capture(self._read(), slot)

    def close(self) -> None:
        """Let go of the staging memory. Snapshots still pending stay valid."""
        self._source = None

    def _find_output(self) -> str:
        return find_output(self._sensor_name, self._channel, tuple(self._outputs()))

    def _outputs(self) -> Mapping[str, Any]:
        outputs = getattr(getattr(self._sensor, "data", None), "output", None)
        if isinstance(outputs, Mapping):
            return outputs
        raise BackendError(
            f"sensor {self._sensor_name!r} holds no pictures yet; reset the environment before recording it"
        )

    def _read(self) -> Any:
        try:
            found = self._outputs()[self._output]
        except KeyError:
            raise CaptureError(f"{self._described()} is gone") from None
        return getattr(found, "torch", found)

    def _described(self) -> str:
        return f"the output {self._output!r} of sensor {self._sensor_name!r}"


@dataclass(frozen=True, slots=True, kw_only=True)
class SensorRenderSpec:
    """How the array of a sensor becomes a picture. Travels to a worker."""

    tiles: Tiles
    channel: Channel
    depth_range: tuple[float, float]
    dtype: str
    """Of the array, as numpy writes it."""
    depth: int
    """Numbers for each pixel."""

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Of a capture: environments, height, width, numbers for each pixel."""
        return self.tiles.count, self.tiles.height, self.tiles.width, self.depth

    @property
    def nbytes(self) -> int:
        """Bytes of a capture."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize


class SensorRenderer:
    """Makes pictures of the captured arrays of a sensor, with numpy alone."""

    name = "sensor"

    def __init__(self, spec: SensorRenderSpec) -> None:
        self._spec = spec
        self._picture = np.empty((0, 0, 3), np.uint8)

    def open(self) -> None:
        """See `stepreel.interfaces.Renderer.open`."""
        width, height = self._spec.tiles.size
        self._picture = np.zeros((height, width, 3), np.uint8)

    def render(self, snapshot: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """See `stepreel.interfaces.Renderer.render`."""
        held = snapshot.view(self._spec.dtype).reshape(self._spec.shape)
        for part, pixels in zip(self._spec.tiles.parts(self._picture), self._coloured(held), strict=True):
            copy_channels(part, pixels)
        return self._picture

    def close(self) -> None:
        """See `stepreel.interfaces.Renderer.close`."""
        self._picture = np.empty((0, 0, 3), np.uint8)

    def to_archive(self) -> RendererArchive:
        """See `stepreel.interfaces.ArchivableRenderer.to_archive`."""
        spec, tiles = self._spec, self._spec.tiles
        return RendererArchive(
            kind="sensor",
            arrays={},
            settings={
                "tiles": {name: getattr(tiles, name) for name in ("count", "rows", "columns", "height", "width")},
                "channel": str(spec.channel),
                "depth_range": list(spec.depth_range),
                "dtype": spec.dtype,
                "depth": spec.depth,
            },
        )

    def _coloured(self, held: NDArray[Any]) -> NDArray[np.uint8]:
        if _is_colour(self._spec):
            return held
        match self._spec.channel:
            case Channel.DEPTH:
                near, far = self._spec.depth_range
                return depth_to_rgb(held[..., 0], near=near, far=far)
            case Channel.NORMALS:
                return normals_to_rgb(held)
            case _:
                return labels_to_rgb(held[..., 0], background=_NO_LABEL)


def from_archive(
    archive: RendererArchive, *, camera: Camera | None, width: int | None, height: int | None
) -> SensorRenderer:
    """See `stepreel.backends.archives.make_renderer`."""
    settings = archive.settings
    spec = SensorRenderSpec(
        tiles=Tiles(**{name: int(side) for name, side in settings["tiles"].items()}),
        channel=Channel(settings["channel"]),
        depth_range=checked_range("depth_range", settings["depth_range"]),
        dtype=np.dtype(settings["dtype"]).str,
        depth=int(settings["depth"]),
    )
    if camera is not None:
        raise BackendError("these pictures were taken by a sensor of the scene; leave the camera away")
    _check_spec("the archive", spec)
    tiles = spec.tiles
    if not (0 < tiles.count <= tiles.rows * tiles.columns and all(0 < side <= MAX_SIDE for side in tiles.size)):
        raise BackendError(f"the archive of kind 'sensor' is damaged: it has pictures of {tiles}")
    if (width or tiles.size[0], height or tiles.size[1]) != tiles.size:
        raise BackendError(f"these pictures are of {tiles.size[0]}x{tiles.size[1]} pixels, which can't be changed")
    return SensorRenderer(spec)


class _PixelSource:
    """Copies colours from host memory straight into the slot."""

    def __init__(self, envs: tuple[int, ...], spec: SensorRenderSpec) -> None:
        self._envs = envs
        self._spec = spec

    def capture(self, found: Any, slot: Slot) -> Frame:
        pixels = _checked(_host_array(found), self._spec, self._envs)
        width, height = self._spec.tiles.size
        frame = Frame(height=height, width=width)
        picture = slot.array(frame.nbytes).reshape(height, width, 3)
        if self._spec.tiles.rows * self._spec.tiles.columns > len(self._envs):
            picture[:] = 0
        for part, env in zip(self._spec.tiles.parts(picture), self._envs, strict=True):
            copy_channels(part, pixels[env])
        return frame


class _RawSource:
    """Copies arrays from host memory, for a worker to make pictures of."""

    def __init__(self, envs: tuple[int, ...], spec: SensorRenderSpec) -> None:
        self._envs = envs
        self._spec = spec

    def capture(self, found: Any, slot: Slot) -> Snapshot:
        held = _checked(_host_array(found), self._spec, self._envs)
        target = slot.array(self._spec.nbytes).view(self._spec.dtype).reshape(self._spec.shape)
        for part, env in zip(target, self._envs, strict=True):
            np.copyto(part, held[env].reshape(part.shape))
        return Snapshot(nbytes=self._spec.nbytes)


class _DeviceSource:
    """Copies torch tensors from a CUDA device through pinned memory, without waiting for the device."""

    def __init__(self, found: Any, envs: tuple[int, ...], spec: SensorRenderSpec) -> None:
        self._envs = envs
        self._spec = spec
        self._shape = tuple(found.shape)
        self._dtype = found.dtype
        self._stagings = [_Staging(spec, found.dtype) for _ in range(2)]
        # The first use of a kernel waits for the device, while it is loaded.
        self._stagings[0].fill(found.detach(), envs)

    def capture(self, found: Any, slot: Slot) -> PendingSnapshot:
        if tuple(found.shape) != self._shape or found.dtype != self._dtype:
            raise _changed(found, list(self._shape), self._dtype)
        target = slot.array(self._spec.nbytes)
        staging = self._idle_staging()
        staging.fill(found.detach(), self._envs)
        return staging.lend(target)

    def _idle_staging(self) -> _Staging:
        for staging in self._stagings:
            if staging.is_idle():
                return staging
        self._stagings.append(_Staging(self._spec, self._dtype))
        return self._stagings[-1]


class _Staging:
    """Pinned memory for one capture on its way, and the event that tells when it has come."""

    def __init__(self, spec: SensorRenderSpec, dtype: Any) -> None:
        self._torch: Any = import_module("torch")
        self._held = self._torch.empty(spec.shape, dtype=dtype, pin_memory=True)
        self._event = self._torch.cuda.Event()
        self._bytes: NDArray[np.uint8] = self._held.numpy().reshape(-1).view(np.uint8)
        self._lent: weakref.ref[_DeviceSnapshot] | None = None

    def fill(self, found: Any, envs: Sequence[int]) -> None:
        for part, env in zip(self._held, envs, strict=True):
            part.copy_(found[env].reshape(part.shape), non_blocking=True)
        self._event.record(self._torch.cuda.current_stream(found.device))

    def lend(self, target: NDArray[np.uint8]) -> _DeviceSnapshot:
        snapshot = _DeviceSnapshot(self, target)
        self._lent = weakref.ref(snapshot)
        return snapshot

    def is_idle(self) -> bool:
        """Return whether it may be filled again: its snapshot is whole, and the device no longer writes to it."""
        lent = self._lent() if self._lent is not None else None
        return (lent is None or lent.is_whole) and self.has_arrived()

    def has_arrived(self) -> bool:
        return bool(self._event.query())

    def wait(self) -> None:
        self._event.synchronize()

    def copy_to(self, target: NDArray[np.uint8]) -> None:
        target[:] = self._bytes


class _DeviceSnapshot:
    """A capture on its way from the device; see `stepreel.interfaces.PendingSnapshot`."""

    def __init__(self, staging: _Staging, target: NDArray[np.uint8]) -> None:
        self._staging = staging
        self._target = target
        self.is_whole = False

    def poll(self) -> Snapshot | None:
        return self._finish() if self.is_whole or self._staging.has_arrived() else None

    def wait(self) -> Snapshot:
        if not self.is_whole:
            self._staging.wait()
        return self._finish()

    def _finish(self) -> Snapshot:
        if not self.is_whole:
            self._staging.copy_to(self._target)
            self.is_whole = True
        return Snapshot(nbytes=self._target.nbytes)


def _open_source(
    found: Any, envs: tuple[int, ...], spec: SensorRenderSpec
) -> _PixelSource | _RawSource | _DeviceSource:
    if _is_on_device(found):
        return _DeviceSource(found, envs, spec)
    return _PixelSource(envs, spec) if _is_colour(spec) else _RawSource(envs, spec)


def _is_on_device(found: Any) -> bool:
    return bool(getattr(found, "is_cuda", False)) and hasattr(found, "detach")


def _host_array(found: Any) -> Any:
    """Return the memory of an array, numpy's or torch's, as numpy sees it."""
    if isinstance(found, np.ndarray):
        return found
    return (found.detach() if hasattr(found, "detach") else found).numpy()


def _dtype_name(found: Any, described: str) -> str:
    try:
        # One element is enough, and comes from wherever it lies.
        element = found[:1, :1, :1]
        return str(_host_array(element.cpu() if hasattr(element, "cpu") else element).dtype.str)
    except (TypeError, AttributeError) as exc:
        raise BackendError(f"{described} is no array of numbers that numpy knows: {exc}") from exc


def _checked(held: Any, spec: SensorRenderSpec, envs: tuple[int, ...]) -> NDArray[Any]:
    shape = held.shape if held.ndim == 4 else (*held.shape, 1)
    if shape[1:] != spec.shape[1:] or shape[0] <= max(envs) or held.dtype.str != spec.dtype:
        raise _changed(held, [f"more than {max(envs)}", *spec.shape[1:]], spec.dtype)
    array: NDArray[Any] = held.reshape(shape) if held.ndim == 3 else held
    return array


def _changed(found: Any, shape: object, dtype: object) -> CaptureError:
    return CaptureError(f"the sensor holds {found.dtype}, shape {list(found.shape)}, where it held {dtype}, {shape}")


def _is_colour(spec: SensorRenderSpec) -> bool:
    """Return whether the array has colours already, as that of a segmentation may."""
    return np.dtype(spec.dtype) == np.uint8 and spec.depth in (3, 4) and spec.channel is not Channel.NORMALS


def _check_spec(described: str, spec: SensorRenderSpec) -> None:
    kinds = {Channel.DEPTH: "f", Channel.NORMALS: "f", Channel.SEGMENTATION: "iu"}
    least = 3 if spec.channel is Channel.NORMALS else 1
    dtype = np.dtype(spec.dtype)
    is_raw = dtype.kind in kinds.get(spec.channel, "") and least <= spec.depth <= 4
    if not (is_raw or (spec.channel is not Channel.DEPTH and _is_colour(spec))):
        raise BackendError(
            f"{described} is of {dtype}, {spec.depth} for each pixel, which can't be shown as {spec.channel}"
        )


def _check_size(described: str, tiles: Tiles, width: int | None, height: int | None) -> None:
    for name, wanted, size in zip(("width", "height"), (width, height), tiles.size, strict=True):
        if wanted is not None and wanted != size:
            raise ConfigurationError(f"{name}: got {wanted}; allowed for {described}: {size}, or None")


def _find(sensors: Mapping[str, Any], name: str) -> Any:
    try:
        return sensors[name]
    except KeyError:
        raise SourceUnavailableError(
            f"looked for the sensor {name!r} in the scene, found {', '.join(sensors) or 'none'}; name one of those"
        ) from None


def _lay_out(
    envs: tuple[int, ...] | None, grid: tuple[int, int] | None, shape: Sequence[int]
) -> tuple[tuple[int, ...], Tiles]:
    """Return the environments in the picture, and their places."""
    count = shape[0]
    if envs is None:
        rows, columns = grid or (1, 1)
        if rows * columns > count:
            raise ConfigurationError(f"tiles: got {grid}; allowed: no more than the {count} environments there are")
        envs = tuple(range(rows * columns))
    outside = [env for env in envs if env >= count]
    if outside:
        raise ConfigurationError(f"env_indices: got {outside}; allowed: 0 to {count - 1}")
    if grid is None:
        columns = math.ceil(math.sqrt(len(envs)))
        grid = -(-len(envs) // columns), columns
    rows, columns = grid
    if not (rows - 1) * columns < len(envs) <= rows * columns:
        raise ConfigurationError(f"tiles: got {grid}; allowed: room for {len(envs)} environments, and no row too many")
    return envs, Tiles(count=len(envs), rows=rows, columns=columns, height=shape[1], width=shape[2])


def _checked_indices(value: Any) -> tuple[int, ...]:
    try:
        indices = tuple(operator.index(index) for index in value)
    except TypeError:
        indices = ()
    if indices and min(indices) >= 0:
        return indices
    raise ConfigurationError(f"env_indices: got {value!r}; allowed: at least one environment's index from 0, or None")


def _checked_tiles(value: Any) -> tuple[int, int]:
    try:
        rows, columns = (operator.index(side) for side in value)
    except (TypeError, ValueError):
        pass
    else:
        if rows > 0 and columns > 0:
            return rows, columns
    raise ConfigurationError(f"tiles: got {value!r}; allowed: rows and columns, both above 0, or None")
