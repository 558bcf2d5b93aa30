"""`BackgroundHook`: what a hook does that may take a while, on a thread of its own."""

from __future__ import annotations

from abc import ABC, abstractmethod
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Semaphore
from types import TracebackType
from typing import Self

from ..clip import Clip
from ..errors import HookError

MOST_WAITING = 256
"""Clips that may wait for a hook's thread."""


class BackgroundHook(ABC):
    """A hook that takes a clip at once, and has `send` called with it on a thread of its own, one clip after another.

    A recorder calls its hooks one after the other, on the thread that listens to the recording service or, in async
    code, on the caller's event loop: a slow one delays the others, and the end of closing. What `send` raises
    is logged as `hook.failed`, and the next clip is sent.

    ```python
    with WandbHook(run) as hook, Recorder(config, backend, on_clip_closed=hook) as recorder:
        train(recorder)
    ```

    Leaving the `with` block, or calling `close`, waits until every clip is sent. Without either, the end of the
    program waits.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix=type(self).__name__)
        self._room = Semaphore(MOST_WAITING)

    @abstractmethod
    def send(self, clip: Clip) -> None:
        """Do with a closed clip what the hook is there for. Its files are `clip.paths`; it may have none."""

    def __call__(self, clip: Clip) -> None:
        """Have a clip sent; returns at once.

        Raises:
            HookError: the hook is closed, or too many clips wait already.
        """
        if not self._room.acquire(blocking=False):
            raise HookError(f"{clip.name} is not sent: {MOST_WAITING} clips wait for {type(self).__name__} already")
        try:
            sending = self._thread.submit(self.send, clip)
        except RuntimeError as exc:
            self._room.release()
            raise HookError(f"{clip.name} is not sent: {type(self).__name__} is closed") from exc
        sending.add_done_callback(lambda done: self._sent(clip, done))

    def close(self) -> None:
        """Wait until every clip is sent, and take no other. A second call does nothing."""
        self._thread.shutdown()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _sent(self, clip: Clip, sending: Future[None]) -> None:
        self._room.release()
        problem = sending.exception()
        if problem:
            import structlog  # Not needed where all goes well, and slow to load.

            log = structlog.get_logger("stepreel")
            log.warning("hook.failed", hook=type(self).__name__, clip=clip.name, error=repr(problem))


def stream_key(key: str, clip: Clip) -> str:
    """Return what a clip is called among those of other streams."""
    return key if clip.stream == "default" else f"{key}/{clip.stream}"
