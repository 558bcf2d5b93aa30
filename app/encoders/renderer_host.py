"""The renderers of a worker's streams: opened, opened again after a failure, and replaced."""

from __future__ import annotations

import contextlib
import pickle
import time
from collections.abc import Callable
from contextlib import AbstractContextManager

import numpy as np
from numpy.typing import NDArray

from ..errors import StepreelError, describe
from ..interfaces import Renderer
from .protocol import OpenStream, Reply, StreamFailed, StreamOpened

Send = Callable[[Reply], None]


class RenderedStream:
    """One version of a source of captures, and its renderer, if it needs one."""

    def __init__(self, opened: OpenStream) -> None:
        self.name = opened.stream
        self.version = opened.version
        self.settings = opened.settings
        self.render_duty = opened.render_duty
        self.size = (opened.width, opened.height) if opened.width and opened.height else None
        """Width and height of the pictures [pixels]; None where only the first one tells."""
        self.is_failing = False
        """The last snapshot could not be drawn: perhaps the drawing context is lost."""
        self._pickled = opened.payload
        self._renderer: Renderer | None = None

    @property
    def needs_opening(self) -> bool:
        """Whether there is a renderer that is not open."""
        return bool(self._pickled) and self._renderer is None

    def open(self) -> str:
        """Open the renderer; return what draws. Raises whatever a renderer raises."""
        renderer: Renderer = pickle.loads(self._pickled)
        renderer.open()
        name = str(renderer.name)
        self._renderer = renderer
        return name

    def render(self, snapshot: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Draw one snapshot, shape `[nbytes]`; return `[height, width, 3]`. Raises whatever a renderer raises."""
        if self._renderer is None:
            raise StepreelError("the renderer of this stream could not be opened")
        self.is_failing = True
        picture = _check_picture(self._renderer.render(snapshot))
        self.is_failing = False
        return picture

    def close(self) -> None:
        """Let go of the renderer. What it raises is of no use to anybody any more."""
        renderer, self._renderer = self._renderer, None
        self.is_failing = False
        if renderer:
            with contextlib.suppress(BaseException):
                renderer.close()


class RendererHost:
    """Opens and closes the renderers of all streams. Whatever a renderer raises costs its frames, not the worker.

    Args:
        send: Hears of renderers that are open, or can't be opened.
        unconfined: Gives a context in which the process may use every CPU that it may: drawing libraries, such as
            Mesa's llvmpipe, count the CPUs while they are opened, and start as many threads for good.
    """

    def __init__(self, send: Send, unconfined: Callable[[], AbstractContextManager[None]]) -> None:
        self._send = send
        self._unconfined = unconfined
        self._streams: dict[tuple[str, int], RenderedStream] = {}

    @property
    def stream_count(self) -> int:
        """How many streams were added, each version for itself."""
        return len(self._streams)

    def add(self, command: OpenStream) -> RenderedStream:
        """Take a stream, without opening its renderer."""
        stream = self._streams[command.stream, command.version] = RenderedStream(command)
        return stream

    def stream(self, name: str, version: int) -> RenderedStream:
        """Return a stream that was added."""
        return self._streams[name, version]

    def open_all(self) -> None:
        """Open the renderer of every stream."""
        for stream in self._streams.values():
            self.open(stream)

    def open(self, stream: RenderedStream) -> None:
        """Open a stream's renderer, where it has one that is not open."""
        if not stream.needs_opening:
            return
        start = time.monotonic()
        try:
            with self._unconfined():
                renderer = stream.open()
        except BaseException as exc:  # noqa: BLE001 - see the class.
            self._send(StreamFailed(stream=stream.name, message=describe(exc)))
        else:
            self._send(StreamOpened(stream=stream.name, renderer=renderer, open_s=time.monotonic() - start))

    def reopen_failing(self, stream: RenderedStream) -> None:
        """Give another clip a fresh renderer, where the one before ended with frames that could not be drawn."""
        if stream.is_failing:
            stream.close()
            self.open(stream)

    def close_replaced(self, stream: RenderedStream) -> None:
        """Close a renderer that no clip needs, where a later version of its stream has taken its place."""
        if (stream.name, stream.version + 1) in self._streams:
            stream.close()

    def close(self) -> None:
        """Close every renderer."""
        for stream in self._streams.values():
            stream.close()


def _check_picture(picture: object) -> NDArray[np.uint8]:
    if isinstance(picture, np.ndarray) and picture.dtype == np.uint8 and picture.shape[2:] == (3,) and picture.size:
        return picture
    what = f"{picture.dtype} {list(picture.shape)}" if isinstance(picture, np.ndarray) else type(picture).__name__
    raise StepreelError(f"the renderer returned {what}; wanted: uint8 [height, width, 3]")
