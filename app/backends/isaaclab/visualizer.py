"""`VisualizerBackend`: the pictures that an Isaac Lab visualizer draws itself, copied on the thread that draws them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from ...clip import CaptureRequest, Frame
from ...errors import BackendError, CaptureError
from ...interfaces import CaptureFormat, Slot
from ..pixels import copy_pixels

_METHODS = {False: "render_rgb_array", True: "render_tiled_rgb_array"}
"""Of a visualizer: its view of the scene, and its panel of camera pictures."""


class VisualizerBackend:
    """Records the pictures of a visualizer, which draws on the training thread at every captured step.

    Args:
        visualizer: Has `render_rgb_array()`, or `render_tiled_rgb_array()` for its streaming view.
        sim: Isaac Lab's `SimulationContext`: where it renders nothing by itself, poses are stale, and `forward()` is
            called before each capture. None: nothing is called.
        is_streaming_view: Record its panel of camera pictures in place of its view of the scene.
        steps_per_second: Simulated steps a second [Hz]; None: not known.

    Raises:
        BackendError: the visualizer makes no pictures.
    """

    name = "visualizer"

    def __init__(
        self,
        visualizer: Any,
        *,
        sim: Any = None,
        is_streaming_view: bool = False,
        steps_per_second: float | None = None,
    ) -> None:
        method = _METHODS[is_streaming_view]
        if not callable(getattr(visualizer, method, None)):
            raise BackendError(
                f"looked for {method}() of {type(visualizer).__name__}, which has none: it makes no pictures; record a "
                'sensor, or pass source="renderer"'
            )
        self._draw: Callable[[], Any] = getattr(visualizer, method)
        self._described = f"{type(visualizer).__name__}.{method}()"
        self._sim = sim
        self._steps_per_second = steps_per_second
        self._size: tuple[int | None, int | None] = (None, None)
        self._thread = 0

    def open(self, *, width: int | None, height: int | None, worker_device: str) -> CaptureFormat:
        """See `stepreel.interfaces.Backend.open`. The size is the visualizer's own; another is refused."""
        self._size = (width, height)
        self._thread = threading.get_ident()
        return CaptureFormat(
            width=width,
            height=height,
            nbytes=width * height * 3 if width and height else None,
            steps_per_second=self._steps_per_second,
            details={"pictures": self._described},
        )

    def capture(self, request: CaptureRequest, slot: Slot) -> Frame:
        """Have the visualizer draw the current state, and copy the picture into `slot`.

        Raises:
            CaptureError: it raised, gave no picture, or one of another size; or this is not the thread it draws on.
        """
        if threading.get_ident() != self._thread:
            raise CaptureError(f"{self._described} is called on the thread that opened the recorder, on no other")
        picture = self._picture()
        if picture is None:
            raise CaptureError(f"{self._described} returned None: the visualizer has drawn nothing")
        frame = copy_pixels(picture, slot)
        width, height = self._size
        if (frame.width, frame.height) != (width or frame.width, height or frame.height):
            raise CaptureError(
                f"the visualizer draws {frame.width}x{frame.height} pixels where width={width}, height={height} was"
                " asked for; give it that size, or leave width and height out"
            )
        return frame

    def close(self) -> None:
        """See `stepreel.interfaces.Backend.close`."""

    def _picture(self) -> Any:
        try:
            if self._sim is not None and not self._sim.is_rendering:
                self._sim.forward()
            return self._draw()
        except Exception as exc:
            raise CaptureError(f"{self._described} failed: {type(exc).__name__}: {exc}") from exc
