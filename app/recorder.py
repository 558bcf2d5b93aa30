"""`AsyncRecorder`: the recorder, embedded in the event loop of its caller."""

from __future__ import annotations

import os
import socket
import threading
import weakref
from collections.abc import Iterator, Mapping
from contextlib import AsyncExitStack, contextmanager
from enum import StrEnum
from types import TracebackType
from typing import Any, Self

import anyio
import anyio.to_thread
from anyio.abc import TaskGroup

from .closing import LOOK_S, closing_bar
from .config import Finish, RecorderConfig
from .core import RecorderCore
from .errors import ConfigurationError, RecorderClosedError, RecordingError, describe
from .interfaces import AsyncClipHook, AsyncSegmentHook, Backend, ClipHook, SegmentHook
from .link import Hooks, Link
from .statistics import Statistics, Summary

_ROOM_LOOK_S = 0.001
_LISTEN_S = 5.0


class ServicePlace(StrEnum):
    """Where the recording service runs."""

    PROCESS = "process"
    """In a process of its own, which outlives training."""
    EMBEDDED = "embedded"
    """In the caller's event loop: a crash takes what waits, and steps share the interpreter with it."""


class AsyncRecorder:
    """Records clips of a simulation; belongs to one task of an anyio event loop (asyncio or trio).

    ```python
    async with AsyncRecorder(config, backend) as recorder:
        await recorder.reset()
        for _ in range(steps):
            await train_step()
            await recorder.step()
    ```

    Args:
        config: All settings.
        backend: The source of captures; opened here, closed when the recorder is. Or several by name, as streams: each
            step that is captured is captured of all of them, into clips called `<prefix>-<stream>-...`.
        on_clip_closed: Called on the event loop, or awaited there, with each clip whose last manifest is on disk; what
            it raises is logged.
        on_segment_closed: Likewise with each segment that is whole on disk, and its clip as it is then.
        service: Where the recording service runs: "process", or "embedded" in this event loop. Embedded, it starts no
            process but its workers; but a crash of training takes all that waits, and its work delays the loop.

    Raises:
        BackendError: the simulator can't be recorded.
        ConfigurationError: a setting does not go with the backend.
        OutputError: the output folder can't be made or written.
    """

    def __init__(
        self,
        config: RecorderConfig,
        backend: Backend | Mapping[str, Backend],
        *,
        on_clip_closed: ClipHook | AsyncClipHook | None = None,
        on_segment_closed: SegmentHook | AsyncSegmentHook | None = None,
        service: ServicePlace | str = ServicePlace.PROCESS,
    ) -> None:
        if service not in ServicePlace.__members__.values():
            allowed = " or ".join(f'"{place}"' for place in ServicePlace)
            raise ConfigurationError(f"service: got {service!r}; allowed: {allowed}")
        hooks = Hooks(on_clip_closed=on_clip_closed, on_segment_closed=on_segment_closed)
        self._core = RecorderCore(config, backend, hooks, may_await=True)
        self._place = ServicePlace(service)
        self._resources = AsyncExitStack()
        self._listener = _Listener(self._core.link)
        self._is_open = False
        self._is_used = False
        self._pid = os.getpid()
        # One that is never opened is never closed, either; what it took goes with it.
        self._abandoned = weakref.finalize(self, self._core.abandon)
        self._abandoned.atexit = False

    @property
    def config(self) -> RecorderConfig:
        """All settings."""
        return self._core.config

    async def __aenter__(self) -> Self:
        """Start the recording service, and wait until it can record.

        Raises:
            CodecUnavailableError: the codec, preset or pixel format can't be used on this machine.
            WorkerError: no worker could be started.
            RecorderClosedError: it was opened before.
        """
        if self._is_used:
            raise RecorderClosedError("a recorder is opened once; make another one to go on recording")
        self._is_used = True
        self._abandoned.detach()
        link = self._core.link
        async with AsyncExitStack() as stack:
            stack.callback(self._core.let_go)
            tasks = await stack.enter_async_context(anyio.create_task_group())
            stack.push_async_callback(self._stop, drop_waiting=True)
            stack.callback(self._core.producer.close)
            await self._start(tasks)
            while not (link.is_ready or link.refusal or link.is_over):
                await self._listener.hear_more()
            # Not raised in here: a task group would wrap it.
            problem = link.refusal
            if problem is None:
                self._core.producer.get_ready()
                await anyio.to_thread.run_sync(self._core.unlock)
                self._resources = stack.pop_all()
        if problem:
            raise problem
        self._is_open = True
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            await self.aclose()
        except RecordingError:
            if exc is None:
                raise

    async def step(self) -> None:
        """Count one step of the simulation, and capture it where the schedule says so.

        The capture is taken before this yields; it yields only under `DropPolicy.BLOCK`, while the queue is full, and
        captures then. Cancelled while it waits, it drops the frame.

        Raises:
            RecorderClosedError: the recorder is not open.
            RecordingError: `strict` is set, and frames were lost since the last call.
        """
        self._check_open()
        self._core.producer.step()
        if self._core.producer.captures.held:
            await self._wait_for_room()

    async def reset(self) -> None:
        """Begin an episode; call it after the simulation was reset. Raises as `step` does."""
        self._check_open()
        self._core.producer.reset()
        if self._core.producer.captures.held:
            await self._wait_for_room()

    def end_episode(
        self,
        *,
        episode_return: float | None = None,
        terminated: bool = False,
        truncated: bool = False,
        info: Mapping[str, Any] | None = None,
    ) -> None:
        """Tell how the episode went whose last step was counted; `keep` decides by that which clips stay.

        Call it after the last `step` of an episode and before `reset`. Without `keep` it does nothing.
        """
        self._check_open()
        self._core.producer.end_episode(
            episode_return=episode_return, terminated=terminated, truncated=truncated, info=info
        )

    def start_clip(self, name: str | None = None, *, length: int | None = None) -> None:
        """Open a clip `<prefix>-<name>` with the next step, for `length` steps or until `stop_clip`."""
        self._check_open()
        self._core.producer.start_clip(name, length)

    def save_last(self, seconds: float | None = None, *, name: str | None = None) -> None:
        """Write what is held of the last seconds as a clip `<prefix>-<name>`, by default `<prefix>-last-<step>`.

        Frames are held from the last call on, or the first step, for `ring_s`; the clip begins with the keyframe
        before, so that it is up to `gop_s` longer.

        Args:
            seconds: Of video, at most `ring_s`; None: all that is held.
            name: What the clip is called.

        Raises:
            ConfigurationError: `ring_s` is not set or less than `seconds`, or no clip can be called so.
        """
        self._check_open()
        self._core.producer.save_last(seconds, name)

    def stop_clip(self) -> None:
        """End the open clip with the step before."""
        self._check_open()
        self._core.producer.stop_clip()

    def pause(self) -> None:
        """Capture nothing until `resume`; steps go on counting."""
        self._check_open()
        self._core.producer.pause()

    def resume(self) -> None:
        """Capture again."""
        self._check_open()
        self._core.producer.resume()

    @contextmanager
    def idle(self) -> Iterator[None]:
        """Tell that training leaves the device alone meanwhile: a worker under `render_duty` then draws all the time.

        Put it around what training does elsewhere: an evaluation on the CPU, reading data, writing a checkpoint.
        """
        self._check_open()
        with self._core.training_idle():
            yield

    @property
    def is_recording(self) -> bool:
        """Whether a clip is being captured."""
        return self._core.producer.is_recording

    async def flush(self) -> None:
        """Wait until all that was captured is encoded or dropped, and every ended clip is closed."""
        self._check_open()
        self._listener.refuse_inside()
        while not (self._core.producer.settle() or self._core.link.is_over):  # noqa: ASYNC110 - a process makes room.
            await anyio.sleep(_ROOM_LOOK_S)
        answered = anyio.Event()
        self._core.link.ask_flush(answered.set)
        await answered.wait()
        self._core.producer.raise_failure()

    async def aclose(self) -> None:
        """End the open clip, and wait until all that was captured is in its files. A second call does nothing.

        With `finish="background"` it does not wait: the recording service goes on by itself. Cancelled, it drops what
        no worker has begun, and closes the segments as far as they came.

        Raises:
            RecordingError: `strict` is set, and frames were lost since the last call.
        """
        if os.getpid() != self._pid:
            return
        if not self._is_open:
            if not self._is_used:
                self._is_used = True
                self._abandoned.detach()
                self._core.producer.close()
                self._core.let_go()
            return
        self._core.producer.refuse_inside()
        self._listener.refuse_inside()
        self._is_open = False
        try:
            self._core.producer.close()
            await self._stop(drop_waiting=False)
        finally:
            await self._resources.aclose()
        self._core.producer.raise_failure()

    def statistics(self) -> Statistics:
        """Return what happened so far; cheap, and safe to call from any thread and from a signal handler."""
        return self._core.statistics()

    def summary(self) -> Summary:
        """Return every clip that is closed, and the sums; complete once the recorder is closed."""
        return self._core.summary()

    async def _start(self, tasks: TaskGroup) -> None:
        link = self._core.link
        if self._place is ServicePlace.PROCESS:
            await anyio.to_thread.run_sync(link.start)
        else:
            ours, theirs = socket.socketpair()
            link.embed(ours)
            tasks.start_soon(self._serve, theirs)
        tasks.start_soon(self._listener.run)

    async def _serve(self, connection: socket.socket) -> None:
        """Run the recording service in this loop; a fault in it ends the recording, not the training."""
        from .service.service import RecordingService

        with anyio.CancelScope(shield=True):
            try:
                await RecordingService(self._core.memory, connection, is_embedded=True).run()
            except Exception as exc:  # noqa: BLE001 - see above; the link tells of it when the connection ends.
                self._core.link.failed(describe(exc))
                connection.close()

    async def _stop(self, *, drop_waiting: bool) -> None:
        """Have the service end, and wait for it where somebody is to wait; cancelled, drop what waits."""
        link = self._core.link
        if link.is_over:
            return
        # Embedded, the service lives no longer than this loop's task.
        waits = self._core.config.finish is Finish.WAIT or self._place is ServicePlace.EMBEDDED or drop_waiting
        self._core.producer.tell_rest()
        link.ask_close(somebody_waits=waits, drop_waiting=drop_waiting)
        if not waits:
            self._listener.leave()
            return
        try:
            with closing_bar(lambda: self._core.frames_left) as bar:
                while not link.is_over:
                    with anyio.move_on_after(LOOK_S):
                        await self._listener.hear_more()
                    self._core.producer.tell_rest()
                    bar.show()
        except BaseException:
            link.ask_close(somebody_waits=True, drop_waiting=True)
            with anyio.CancelScope(shield=True):
                while not link.is_over:
                    with anyio.move_on_after(LOOK_S):
                        await self._listener.hear_more()
                    self._core.producer.tell_rest()
            raise

    async def _wait_for_room(self) -> None:
        """Capture what is held, each frame as soon as there is room, all within `block_timeout_s`."""
        captures = self._core.producer.captures
        try:
            with anyio.move_on_after(self._core.config.block_timeout_s):
                while captures.held:
                    while not captures.has_room_for_held():  # noqa: ASYNC110 - another process makes it.
                        await anyio.sleep(_ROOM_LOOK_S)
                    captures.take_held()
        finally:
            captures.drop_held()

    def _check_open(self) -> None:
        if not self._is_open:
            raise RecorderClosedError("the recorder is not open; use it inside its `with` block")


class _Listener:
    """The task that hears the service; cancelling the caller's scope does not end it."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._heard: anyio.Event | None = None
        self._scope: anyio.CancelScope | None = None
        self._task: int | None = None
        link.changed = self._notify

    async def run(self) -> None:
        """Hear the service until there is nothing more to hear."""
        link = self._link
        self._task = anyio.get_current_task().id
        with anyio.CancelScope(shield=True) as self._scope:
            try:
                while not link.is_over:
                    await self._hear_once(link)
            finally:
                link.is_over = True
                self._notify()

    async def hear_more(self) -> None:
        """Wait until anything was heard."""
        if self._link.is_over:
            return
        if self._heard is None:
            self._heard = anyio.Event()
        await self._heard.wait()

    def refuse_inside(self) -> None:
        """Raise `RecordingError` in a hook, which would wait for itself."""
        if anyio.get_current_task().id == self._task:
            raise RecordingError("a hook called the recorder, which waits for the hook; call it from the training loop")

    def leave(self) -> None:
        """Hear nothing more; the service goes on by itself."""
        if self._scope:
            self._scope.cancel()
        self._link.detach()
        # Asleep until the service has ended: else that would stay in the list of processes.
        threading.Thread(target=self._link.reap, name="stepreel", daemon=True).start()

    async def _hear_once(self, link: Link) -> None:
        for call in link.receive():
            await call.run_async()
        if link.needs_care:
            link.cared(await anyio.to_thread.run_sync(link.care))
        if link.is_over:
            return
        with anyio.move_on_after(_LISTEN_S) as scope:
            await anyio.wait_readable(link.descriptors()[0])
        if scope.cancelled_caught:
            link.look()

    def _notify(self) -> None:
        heard, self._heard = self._heard, None
        if heard:
            heard.set()
