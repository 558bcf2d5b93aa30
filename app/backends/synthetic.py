"""A simulator that isn't there: a deterministic moving picture that carries its step number.

For tests, benchmarks and trying things out. What was recorded can be held against what was asked for: `read_step`
finds the step number in decoded pixels, also after lossy compression.
"""

from __future__ import annotations

import math
import os
import signal
import struct
import time
import zlib
from collections.abc import Collection
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..clip import CaptureRequest, Frame, Snapshot
from ..errors import BackendError, CaptureError
from ..interfaces import CaptureFormat, PendingSnapshot, RendererArchive, Slot
from .camera import Camera

_BITS = 40
"""The step as 32 bits in two's complement and a checksum of 8, most significant bit first."""
_MIN_BLOCK = 8
"""Shortest side of a block [pixels] that is still black or white after strong compression."""
_SCROLL_PER_STEP = 2
_SNAPSHOT = struct.Struct("<q")


class SyntheticBackend:
    """Pictures, or snapshots of 8 bytes that a worker draws, of the step in each capture request.

    A strip of black and white blocks along the top edge tells the step; below it colours scroll and a disc moves.
    """

    name = "synthetic"

    def __init__(
        self,
        *,
        width: int = 320,
        height: int = 180,
        steps_per_second: float | None = 30.0,
        snapshot: bool = False,
        snapshot_polls: int = 0,
        render_delay_s: float = 0.0,
        failing_steps: Collection[int] = (),
        fatal_steps: Collection[int] = (),
    ) -> None:
        """Describe the simulator.

        Args:
            width: Pixels, unless the recorder asks for another size.
            height: Pixels, likewise.
            steps_per_second: Simulated steps a second [Hz]; None: not told.
            snapshot: Capture snapshots, to be drawn by a worker, instead of pixels.
            snapshot_polls: Looks at a snapshot before it is whole, as with a copy from a device; 0: whole at once.
            render_delay_s: Wall-clock time that drawing one picture takes longer [s], wherever it is drawn.
            failing_steps: Steps of which there is no picture: `CaptureError` from whoever draws them.
            fatal_steps: Steps that kill the process that draws them, as a broken graphics driver would.
        """
        self._size = (width, height)
        self._steps_per_second = steps_per_second
        self._snapshot = snapshot
        self._snapshot_polls = snapshot_polls
        self._render_delay_s = render_delay_s
        self._failing_steps = frozenset(failing_steps)
        self._fatal_steps = frozenset(fatal_steps)
        self._renderer: SyntheticRenderer | None = None

    def open(self, *, width: int | None, height: int | None, worker_device: str) -> CaptureFormat:
        """See `stepreel.interfaces.Backend.open`; every `worker_device` will do."""
        renderer = SyntheticRenderer(
            width=self._size[0] if width is None else width,
            height=self._size[1] if height is None else height,
            render_delay_s=self._render_delay_s,
            failing_steps=self._failing_steps,
            fatal_steps=self._fatal_steps,
        )
        if not self._snapshot:
            renderer.open()
        self._renderer = renderer
        return CaptureFormat(
            width=renderer.width,
            height=renderer.height,
            nbytes=_SNAPSHOT.size if self._snapshot else renderer.width * renderer.height * 3,
            steps_per_second=self._steps_per_second,
            renderer=renderer if self._snapshot else None,
            details={"failing_steps": len(self._failing_steps), "render_delay_s": self._render_delay_s},
        )

    def capture(self, request: CaptureRequest, slot: Slot) -> Frame | Snapshot | PendingSnapshot:
        """See `stepreel.interfaces.Backend.capture`."""
        renderer = self._renderer
        if renderer is None:
            raise CaptureError("the synthetic backend is not open")
        if self._snapshot:
            slot.array(_SNAPSHOT.size)[:] = np.frombuffer(_SNAPSHOT.pack(request.step), np.uint8)
            snapshot = Snapshot(nbytes=_SNAPSHOT.size)
            return _SlowSnapshot(snapshot, self._snapshot_polls) if self._snapshot_polls else snapshot
        frame = Frame(height=renderer.height, width=renderer.width)
        renderer.draw(request.step, slot.array(frame.nbytes).reshape(frame.height, frame.width, 3))
        return frame

    def close(self) -> None:
        """Let go of the scenery."""
        self._renderer = None


class SyntheticRenderer:
    """Draws the picture of a step, in the training process or, pickled, in a worker.

    Raises:
        BackendError: the picture is too small for the blocks that tell the step.
    """

    name = "synthetic"

    def __init__(
        self,
        *,
        width: int,
        height: int,
        render_delay_s: float = 0.0,
        failing_steps: frozenset[int] = frozenset(),
        fatal_steps: frozenset[int] = frozenset(),
    ) -> None:
        block, _columns, rows = _layout(width)
        if width < _MIN_BLOCK or height < rows * block:
            raise BackendError(
                f"a synthetic picture of {width}x{height} pixels has no room for its step number;"
                f" make it larger, such as 320x180 (at a width of {width}: a height of {rows * block} or more)"
            )
        self.width = width
        self.height = height
        self._render_delay_s = render_delay_s
        self._failing_steps = failing_steps
        self._fatal_steps = fatal_steps
        self._scenery: NDArray[np.uint8] = np.empty((0, 0, 3), np.uint8)
        self._disc: NDArray[np.uint8] = np.empty((0, 0, 3), np.uint8)
        self._picture: NDArray[np.uint8] = np.empty((0, 0, 3), np.uint8)

    def open(self) -> None:
        """See `stepreel.interfaces.Renderer.open`."""
        self._scenery = _draw_scenery(self.width, self.height)
        self._disc = _draw_disc(min(self.width, self.height) // 4)

    def render(self, snapshot: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """See `stepreel.interfaces.Renderer.render`; `CaptureError` at the failing steps."""
        (step,) = _SNAPSHOT.unpack(snapshot.tobytes())
        if self._picture.size == 0:
            self._picture = np.empty((self.height, self.width, 3), np.uint8)
        self.draw(step, self._picture)
        return self._picture

    def draw(self, step: int, target: NDArray[np.uint8]) -> None:
        """Draw the picture of `step` into `target`, shape `[height, width, 3]`, uint8, C-contiguous.

        Raises:
            CaptureError: at a failing step, or one of more than 32 bits.
        """
        if self._render_delay_s > 0.0:
            time.sleep(self._render_delay_s)
        if step in self._fatal_steps:
            os.kill(os.getpid(), signal.SIGKILL)
        if step in self._failing_steps:
            raise CaptureError(f"no picture of step {step}: it is among the failing steps")
        offset = step * _SCROLL_PER_STEP % self.width
        np.copyto(target, self._scenery[:, offset : offset + self.width])
        top, left = self._disc_place(step)
        side = self._disc.shape[0]
        place = target[top : top + side, left : left + side]
        np.bitwise_or(place, self._disc, out=place)
        _write_step(target, step)

    def close(self) -> None:
        """See `stepreel.interfaces.Renderer.close`."""
        self._scenery = self._picture = np.empty((0, 0, 3), np.uint8)

    def to_archive(self) -> RendererArchive:
        """See `stepreel.interfaces.ArchivableRenderer.to_archive`."""
        return RendererArchive(kind="synthetic", arrays={}, settings={"width": self.width, "height": self.height})

    def _disc_place(self, step: int) -> tuple[int, int]:
        """Return top and left of the disc: it swings from edge to edge, out of step across and down."""
        side = self._disc.shape[0]
        down = 0.5 + 0.5 * math.sin(step * math.tau / 90)
        across = 0.5 + 0.5 * math.sin(step * math.tau / 210)
        return round(down * (self.height - side)), round(across * (self.width - side))


def from_archive(
    archive: RendererArchive, *, camera: Camera | None, width: int | None, height: int | None
) -> SyntheticRenderer:
    """See `stepreel.backends.archives.make_renderer`."""
    if camera is not None:
        raise BackendError("a synthetic picture is taken by no camera; leave the camera away")
    settings = archive.settings
    return SyntheticRenderer(width=width or int(settings["width"]), height=height or int(settings["height"]))


class _SlowSnapshot:
    """A snapshot that is whole after so many polls."""

    def __init__(self, snapshot: Snapshot, polls: int) -> None:
        self._snapshot = snapshot
        self._polls = polls

    def poll(self) -> Snapshot | None:
        self._polls -= 1
        return self._snapshot if self._polls < 0 else None

    def wait(self) -> Snapshot:
        self._polls = 0
        return self._snapshot


def read_step(pixels: NDArray[Any]) -> int:
    """Return the step that a picture of a `SyntheticBackend` shows.

    Args:
        pixels: Shape `[height, width, 3]` or `[height, width]`, uint8; as drawn, or decoded from a video, also one
            that was padded to even sides.

    Raises:
        ValueError: the picture is of something else, or too damaged to tell.
    """
    block, columns, rows = _layout(pixels.shape[1])
    if pixels.shape[0] < rows * block:
        raise ValueError(f"a picture of shape {list(pixels.shape)} is too small to show a step")
    strip = pixels[: rows * block].reshape(rows * block, pixels.shape[1], -1)[:, : columns * block]
    if strip.shape[1] < columns * block:  # An odd width: the last block lacks a column.
        strip = np.concatenate([strip, strip[:, -1:]], axis=1)
    inner = slice(block // 4, block - block // 4)  # The pixels of a block that compression blurs least.
    blocks = strip.reshape(rows, block, columns, block, -1)[:, inner, :, inner]
    bits = blocks.mean(axis=(1, 3, 4)).ravel()[:_BITS] > 127.5
    data = np.packbits(bits).tobytes()
    if data[4] != _checksum(data[:4]):
        raise ValueError(f"no step to be read: the blocks say {data[:4].hex()} with the checksum {data[4]:02x}")
    return int.from_bytes(data[:4], "big", signed=True)


def _layout(width: int) -> tuple[int, int, int]:
    """Return side [pixels], columns and rows of the blocks; the same for a width and that width padded to even."""
    even = width + width % 2
    block = max(_MIN_BLOCK, even // _BITS)
    columns = max(1, even // block)
    return block, min(columns, _BITS), -(-_BITS // columns)


def _checksum(data: bytes) -> int:
    # Turned over in part, so that neither a black nor a white picture passes.
    return zlib.crc32(data) & 0xFF ^ 0x5A


def _write_step(target: NDArray[np.uint8], step: int) -> None:
    if not -(2**31) <= step < 2**31:
        raise CaptureError(f"step {step} does not fit into the 32 bits that a synthetic picture shows")
    data = step.to_bytes(4, "big", signed=True)
    bits = np.unpackbits(np.frombuffer(data + bytes([_checksum(data)]), np.uint8))
    height, width = target.shape[:2]
    block, columns, rows = _layout(width)
    lines = target.reshape(height, width * 3)
    lines[: rows * block] = 0
    for row in range(rows):
        strip = np.repeat(bits[row * columns : (row + 1) * columns] * np.uint8(255), block * 3)[: width * 3]
        lines[row * block : (row + 1) * block, : strip.size] = strip


def _draw_scenery(width: int, height: int) -> NDArray[np.uint8]:
    """Return a rainbow that fades downwards, twice side by side: shape `[height, 2 * width, 3]`."""
    phase = np.arange(width, dtype=np.float32)[:, None] / width + np.arange(3, dtype=np.float32) / 3
    rainbow = 0.5 + 0.5 * np.cos(math.tau * phase)
    brightness = np.linspace(230, 60, height, dtype=np.float32)
    scenery = (brightness[:, None, None] * rainbow).astype(np.uint8)
    return np.concatenate([scenery, scenery], axis=1)


def _draw_disc(side: int) -> NDArray[np.uint8]:
    """Return a white disc on black: shape `[side, side, 3]`."""
    distance = np.arange(side) - (side - 1) / 2
    inside = distance[:, None] ** 2 + distance[None, :] ** 2 < (side / 2) ** 2
    return np.repeat(np.uint8(255) * inside[..., None], 3, axis=2)
