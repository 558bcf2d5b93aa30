"""`Recorder`: the recorder for a synchronous training loop."""

from __future__ import annotations

import math
import os
import threading
import time
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import Any, NoReturn, Self

from .capture.producer import Producer
from .closing import LOOK_S, closing_bar
from .config import Finish, RecorderConfig
from .core import RecorderCore
from .errors import RecorderClosedError, RecordingError, StepreelError
from .interfaces import Backend, ClipHook, SegmentHook
from .link import Hooks, Latch, Link
from .statistics import Statistics, Summary

_ROOM_LOOK_S = 0.001


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

    A recording service, in a process of its own, does all but the captures; a thread here sleeps until the service has
    something to tell. All methods belong to the thread that steps the simulation, except `flush` and `close`, which
    another may call as well, and `statistics`, which may be called from anywhere. The arguments, and the errors of the
    constructor, are `AsyncRecorder`'s; hooks are called on the thread that listens.
    """

    def __init__(
        self,
        config: RecorderConfig,
        backend: Backend | Mapping[str, Backend],
        *,
        on_clip_closed: ClipHook | None = None,
        on_segment_closed: SegmentHook | None = None,
    ) -> None:
        hooks = Hooks(on_clip_closed=on_clip_closed, on_segment_closed=on_segment_closed)
        self._core = RecorderCore(config, backend, hooks, may_await=False)
        self._producer: Producer | None = None
        self._listener: _Listener | None = None
        self._is_used = False
        self._pid = os.getpid()
        # One that is dropped without being closed: its clip is finished by the service.
        self._abandoned = weakref.finalize(self, self._core.abandon)
        self._abandoned.atexit = False

    @property
    def config(self) -> RecorderConfig:
        """All settings."""
        return self._core.config

    def __enter__(self) -> Self:
        """Start the recording service, and wait until it can record.

        Raises:
            CodecUnavailableError: the codec, preset or pixel format can't be used on this machine.
            WorkerError: no worker could be started.
            RecorderClosedError: it was opened before.
        """
        if self._is_used:
            raise RecorderClosedError("a recorder is opened once; make another one to go on recording")
        self._is_used = True
        listener = self._listener = _Listener(self._core.link)
        try:
            self._core.link.start()
            listener.start()
            listener.opened.wait()
            if self._core.link.refusal:
                raise self._core.link.refusal
        except BaseException:
            self._core.producer.close()
            self._stop(listener, somebody_waits=True, drop_waiting=True)
            raise
        self._core.unlock()
        self._core.producer.get_ready()
        self._producer = self._core.producer
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
        if producer.captures.held:
            self._wait_for_room(producer)

    def reset(self) -> None:
        """Begin an episode; call it after the simulation was reset. Raises as `step` does."""
        producer = self._producer or self._refuse()
        producer.reset()
        if producer.captures.held:
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
        with self._core.training_idle():
            yield

    @property
    def is_recording(self) -> bool:
        """Whether a clip is being captured."""
        return self._core.producer.is_recording

    def flush(self, timeout_s: float | None = None) -> bool:
        """Wait until all that was captured is encoded or dropped, and every ended clip is closed.

        Returns:
            False where `timeout_s` was over first; call it again to go on waiting.
        """
        producer = self._producer or self._refuse()
        self._refuse_hook()
        end_s = math.inf if timeout_s is None else time.monotonic() + max(timeout_s, 0.0)
        while not producer.settle() and time.monotonic() < end_s and not self._core.link.is_over:
            time.sleep(_ROOM_LOOK_S)
        done = Latch()
        self._core.link.ask_flush(done.open)
        is_done = done.wait(-1.0 if timeout_s is None else max(end_s - time.monotonic(), 0.0))
        producer.raise_failure()
        return is_done

    def close(self) -> None:
        """End the open clip, and wait until all that was captured is in its files.

        With `finish="background"` it does not wait: the recording service goes on by itself. A second call does nothing
        but wait for the first. Interrupted (Ctrl-C), it drops what no worker has begun, closes the segments as far as
        they came, and passes the interruption on; interrupted again meanwhile, it leaves that to the service. In a
        process that was forked from the one that opened the recorder it does nothing.

        Raises:
            RecordingError: `strict` is set, and frames were lost since the last call; or the backend calls this in
                the middle of a capture, or a hook.
        """
        if os.getpid() != self._pid:
            self._producer = None
            return
        listener = self._listener
        self._core.producer.refuse_inside()
        self._refuse_hook()
        self._is_used = True
        self._producer = None
        self._abandoned.detach()
        try:
            self._core.producer.close()
        finally:
            if listener:
                self._stop(listener, somebody_waits=self._core.config.finish is Finish.WAIT, drop_waiting=False)
            self._core.let_go()
        self._core.producer.raise_failure()

    def statistics(self) -> Statistics:
        """Return what happened so far; cheap, and safe to call from any thread and from a signal handler."""
        return self._core.statistics()

    def summary(self) -> Summary:
        """Return every clip that is closed, and the sums; complete once the recorder is closed."""
        return self._core.summary()

    def _stop(self, listener: _Listener, *, somebody_waits: bool, drop_waiting: bool) -> None:
        """Have the service end, and wait for it where somebody is to wait."""
        link = self._core.link
        self._core.producer.tell_rest()
        link.ask_close(somebody_waits=somebody_waits, drop_waiting=drop_waiting)
        if not somebody_waits:
            link.detach()
            return
        try:
            with closing_bar(lambda: self._core.frames_left) as bar:
                while not listener.over.wait(LOOK_S):
                    self._core.producer.tell_rest()
                    bar.show()
        except BaseException:
            link.ask_close(somebody_waits=True, drop_waiting=True)
            while not listener.over.wait(LOOK_S):
                self._core.producer.tell_rest()
            raise
        finally:
            self._core.let_go()

    def _wait_for_room(self, producer: Producer) -> None:
        deadline = time.monotonic() + self._core.config.block_timeout_s
        captures = producer.captures
        try:
            while captures.held:
                while not captures.has_room_for_held():
                    if time.monotonic() >= deadline or self._core.link.is_over:
                        return
                    time.sleep(_ROOM_LOOK_S)
                captures.take_held()
        finally:
            captures.drop_held()

    def _refuse_hook(self) -> None:
        if self._listener and self._listener.is_this_thread:
            raise RecordingError("a hook called the recorder, which waits for the hook; call it from the training loop")

    def _refuse(self) -> NoReturn:
        raise RecorderClosedError("the recorder is not open; use it inside its `with` block")


class _Listener:
    """The thread that hears the service: asleep but for what a user must hear.

    Attributes:
        opened: Open once the service can record, or can't.
        over: Open once nothing more will be heard.
    """

    def __init__(self, link: Link) -> None:
        self.opened = Latch()
        self.over = Latch()
        self._link = link
        self._thread = threading.Thread(target=self._listen, name="stepreel", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        try:
            self._thread.start()
        except RuntimeError as exc:
            self.opened.open()
            self.over.open()
            raise StepreelError(f"no thread could be started: {exc}") from exc

    @property
    def is_this_thread(self) -> bool:
        """Whether this is called by a hook."""
        return threading.get_ident() == self._thread.ident

    def _listen(self) -> None:
        link = self._link
        try:
            while not link.is_over:
                for call in link.receive():
                    call.run()
                if link.needs_care:
                    link.cared(link.care())
                if link.is_ready or link.refusal:
                    self.opened.open()
                if not link.is_over:
                    link.wait()
        finally:
            self.opened.open()
            self.over.open()
            link.reap()
