"""`Recorder`: the recorder for a synchronous training loop, with an event loop of its own."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self

from .config import RecorderConfig
from .errors import RecorderClosedError, RecordingError
from .interfaces import Backend, ClipHook, SegmentHook
from .loop_thread import LoopThread
from .producer import Producer
from .recorder import AsyncRecorder
from .statistics import Statistics, Summary


class Recorder:
    """Records clips of a simulation for a synchronous training loop.

    ```python
    with Recorder(config, backend) as recorder:
        recorder.reset()
        for _ in range(steps):
            train_step()
            recorder.step()
    print(recorder.summary())
    ```

    The event loop runs in a thread of its own; frames go past it, straight into the queue. All methods belong to
    the thread that steps the simulation, except `statistics`, which may be called from any. The arguments and
    what the constructor raises are `AsyncRecorder`'s; hooks are called on the event loop's thread.
    """

    def __init__(
        self,
        config: RecorderConfig,
        backend: Backend | Mapping[str, Backend],
        *,
        on_clip_closed: ClipHook | None = None,
        on_segment_closed: SegmentHook | None = None,
    ) -> None:
        self._recorder = AsyncRecorder(
            config, backend, on_clip_closed=on_clip_closed, on_segment_closed=on_segment_closed
        )
        self._producer: Producer | None = None
        self._loop: LoopThread | None = None
        self._pid = os.getpid()

    @property
    def config(self) -> RecorderConfig:
        """All settings."""
        return self._recorder.config

    def __enter__(self) -> Self:
        """Start the event loop and the workers; raises as `AsyncRecorder.__aenter__` does."""
        loop = LoopThread(self._recorder)
        try:
            loop.open()
            self._loop = loop
            self._pid = os.getpid()
            self._producer = self._recorder.producer
        except BaseException:
            loop.cut_short()
            raise
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            self.close()
        except RecordingError:
            if exc is None:
                raise

    def step(self) -> None:
        """Count one step of the simulation, and capture it where the schedule says so.

        Raises:
            RecorderClosedError: the recorder is not open.
            RecordingError: `strict` is set, and frames were lost since the last call.
        """
        producer = self._producer or self._refuse()
        producer.step()
        if producer.held:
            self._wait_for_room(producer)

    def reset(self) -> None:
        """Begin an episode; call it after the simulation was reset. Raises as `step` does."""
        producer = self._producer or self._refuse()
        producer.reset()
        if producer.held:
            self._wait_for_room(producer)

    def end_episode(
        self,
        *,
        episode_return: float | None = None,
        terminated: bool = False,
        truncated: bool = False,
        info: Mapping[str, Any] | None = None,
    ) -> None:
        """Tell how the episode went whose last step was counted; see `AsyncRecorder.end_episode`."""
        (self._producer or self._refuse()).end_episode(
            episode_return=episode_return, terminated=terminated, truncated=truncated, info=info
        )

    def start_clip(self, name: str | None = None, *, length: int | None = None) -> None:
        """Open a clip `<prefix>-<name>` with the next step, for `length` steps or until `stop_clip`."""
        (self._producer or self._refuse()).start_clip(name, length)

    def save_last(self, seconds: float | None = None, *, name: str | None = None) -> None:
        """Write what is held of the last seconds as a clip of its own; see `AsyncRecorder.save_last`."""
        (self._producer or self._refuse()).save_last(seconds, name)

    def stop_clip(self) -> None:
        """End the open clip with the step before."""
        (self._producer or self._refuse()).stop_clip()

    def pause(self) -> None:
        """Capture nothing until `resume`; steps go on counting."""
        (self._producer or self._refuse()).pause()

    def resume(self) -> None:
        """Capture again."""
        (self._producer or self._refuse()).resume()

    @contextmanager
    def idle(self) -> Iterator[None]:
        """Tell that training leaves the device alone meanwhile: a worker under `render_duty` then draws all the time.

        Put it around what training does elsewhere: an evaluation on the CPU, reading data, writing a checkpoint.
        """
        if self._producer is None:
            self._refuse()
        with self._recorder.idle():
            yield

    @property
    def is_recording(self) -> bool:
        """Whether a clip is being captured."""
        return self._recorder.is_recording

    def flush(self, timeout_s: float | None = None) -> bool:
        """Wait until all that was captured is encoded or dropped, and every ended clip is closed.

        Returns:
            False where `timeout_s` was over first; call it again to go on waiting.
        """
        (self._producer or self._refuse()).settle()
        return self._loop.flush(timeout_s) if self._loop else True

    def close(self) -> None:
        """End the open clip, finish all that was captured, and end workers and event loop.

        A second call does nothing but wait for the first. Interrupted (Ctrl-C), it drops what no worker has begun,
        closes the segments as far as they came, and passes the interruption on; interrupted again meanwhile, it leaves
        that to the event loop. In a process that was forked from the one that opened the recorder it does nothing:
        event loop and workers are not there.

        Raises:
            RecordingError: `strict` is set, and frames were lost since the last call; or the backend calls this in
                the middle of a capture, or a hook.
        """
        if os.getpid() != self._pid:
            self._producer = None
            return
        producer, loop = self._producer, self._loop
        if producer:
            producer.refuse_in_capture()
        if loop:
            loop.refuse_inside()
        try:
            self._finish(producer, loop)
        except BaseException:
            if loop:
                loop.cut_short()
            raise

    def _finish(self, producer: Producer | None, loop: LoopThread | None) -> None:
        self._producer = None
        self._recorder.release()
        try:
            if producer:
                producer.close()
                self._wait_for_room(producer)
        except Exception:
            if loop:
                loop.close()
            raise
        if loop:
            loop.close()

    def statistics(self) -> Statistics:
        """Return what happened so far; cheap, and safe to call from any thread."""
        return self._recorder.statistics()

    def summary(self) -> Summary:
        """Return every clip that is closed, and the sums; complete once the recorder is closed."""
        return self._recorder.summary()

    def _wait_for_room(self, producer: Producer) -> None:
        deadline = time.monotonic() + self.config.block_timeout_s
        while producer.held:
            left_s = max(0.0, deadline - time.monotonic())
            granted = self._recorder.queue.wait_for_room(producer.held[0].nbytes, left_s)
            producer.settle_held(granted=granted)

    def _refuse(self) -> Producer:
        raise RecorderClosedError("the recorder is not open; use it inside its `with` block")
