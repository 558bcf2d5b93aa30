"""`AsyncRecorder`: the recorder, embedded in the event loop of its caller."""

from __future__ import annotations

import os
import pickle
import threading
import weakref
from collections.abc import Iterator, Mapping
from contextlib import AsyncExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import anyio
import anyio.to_thread

from .config import DropPolicy, RecorderConfig, RenderTime
from .consumer import Consumer, populated_nbytes
from .doorbell import Doorbell
from .errors import BackendError, ConfigurationError, OutputError, RecorderClosedError, RecordingError
from .frame_pool import FramePool
from .interfaces import ArchivableRenderer, Backend, CaptureFormat, ClipHook, SegmentHook
from .ledger import Ledger
from .producer import Producer
from .records import Hooks
from .scheduling.frame_queue import FrameQueue
from .session import SessionLog, launched_rank, now_iso, write_session
from .statistics import Statistics, Summary
from .storage.folder_lock import FolderLock
from .storage.session_files import session_stem
from .stream import open_streams

_SPARE_POOL_NBYTES = 64 * 2**20
"""Address space beyond the queue's bytes, for captures that outgrow the first one."""


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
        on_clip_closed: Called on the event loop with each clip whose last manifest is on disk; what it raises is
            logged.
        on_segment_closed: Called likewise with each segment that is whole on disk, and its clip as it is then.

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
        on_clip_closed: ClipHook | None = None,
        on_segment_closed: SegmentHook | None = None,
    ) -> None:
        rank = launched_rank()
        self.config = config = _with_rank(config, rank)
        self._folder = Path(os.path.abspath(config.output_dir))  # The training may change its working directory.
        _check_folder(self._folder)
        self._streams = open_streams(config, backend)
        for stream in self._streams:
            _check_format(config, stream.format)
        self._lock = FolderLock.share(self._folder)
        self._started_at = now_iso()
        nbytes = max(stream.format.nbytes or 0 for stream in self._streams)
        self._pool = FramePool(_pool_nbytes(config, nbytes, len(self._streams)))
        if all(stream.format.nbytes for stream in self._streams):
            self._pool.populate(populated_nbytes(config, nbytes))
        self.queue = FrameQueue(depth=config.queue_depth, nbytes=config.queue_bytes, policy=config.drop_policy)
        self._ledger = Ledger(self._folder)
        self._doorbell = Doorbell()
        self._log = SessionLog(self._folder, session_stem(rank))
        self.producer = Producer(
            config,
            self._streams,
            queue=self.queue,
            pool=self._pool,
            ledger=self._ledger,
            doorbell=self._doorbell,
        )
        self._consumer = Consumer(
            config,
            self._folder,
            self._streams,
            self.producer,
            queue=self.queue,
            pool=self._pool,
            ledger=self._ledger,
            doorbell=self._doorbell,
            log=self._log,
            hooks=Hooks(on_clip_closed=on_clip_closed, on_segment_closed=on_segment_closed),
            training_thread=threading.get_native_id(),
        )
        self._resources = AsyncExitStack()
        # One that is never opened is never closed, either; what it took goes with it.
        self._leftovers = weakref.finalize(self, _let_go, self._doorbell, self._pool, self._lock)
        self._leftovers.atexit = False
        self._is_open = False
        self._is_used = False

    async def __aenter__(self) -> Self:
        """Start the workers.

        Raises:
            CodecUnavailableError: the codec, preset or pixel format can't be used on this machine.
            WorkerError: no worker could be started.
            RecorderClosedError: it was opened before.
        """
        if self._is_used:
            raise RecorderClosedError("a recorder is opened once; make another one to go on recording")
        self._is_used = True
        self._leftovers.detach()
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self._unlock)
            stack.callback(self._pool.close)
            stack.callback(self._doorbell.close)
            stack.callback(self.producer.close)
            tasks = await stack.enter_async_context(anyio.create_task_group())
            tasks.start_soon(self._consumer.run)
            stack.callback(self._consumer.stop)
            self._log.info("session.opened", streams=self._describe_streams())
            if self._lock.is_shared:
                self._log.warning("session.folder_shared", folder=str(self._folder))
            await self._write_session()
            stack.push_async_callback(self._close_session)
            stack.push_async_callback(self._consumer.aclose)
            # Not raised in here: a task group would wrap it.
            problem = await self._consumer.wait_until_ready()
            if problem is None:
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

        The capture is taken before this yields; it yields only under `DropPolicy.BLOCK`, while the queue is full.

        Raises:
            RecorderClosedError: the recorder is not open.
            RecordingError: `strict` is set, and frames were lost since the last call.
        """
        self._check_open()
        self.producer.step()
        if self.producer.held:
            await self._wait_for_room()

    async def reset(self) -> None:
        """Begin an episode; call it after the simulation was reset. Raises as `step` does."""
        self._check_open()
        self.producer.reset()
        if self.producer.held:
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
        self.producer.end_episode(episode_return=episode_return, terminated=terminated, truncated=truncated, info=info)

    def start_clip(self, name: str | None = None, *, length: int | None = None) -> None:
        """Open a clip `<prefix>-<name>` with the next step, for `length` steps or until `stop_clip`."""
        self._check_open()
        self.producer.start_clip(name, length)

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
        self.producer.save_last(seconds, name)

    def stop_clip(self) -> None:
        """End the open clip with the step before."""
        self._check_open()
        self.producer.stop_clip()

    def pause(self) -> None:
        """Capture nothing until `resume`; steps go on counting."""
        self._check_open()
        self.producer.pause()

    def resume(self) -> None:
        """Capture again."""
        self._check_open()
        self.producer.resume()

    @contextmanager
    def idle(self) -> Iterator[None]:
        """Tell that training leaves the device alone meanwhile: a worker under `render_duty` then draws all the time.

        Put it around what training does elsewhere: an evaluation on the CPU, reading data, writing a checkpoint.
        """
        self._check_open()
        with self._pool.training_idle():
            yield

    @property
    def is_recording(self) -> bool:
        """Whether a clip is being captured."""
        return self.producer.is_recording

    async def flush(self) -> None:
        """Wait until all that was captured is encoded or dropped, and every ended clip is closed."""
        self.producer.settle()
        await self._wait_for_room()
        with self._pool.training_idle():
            await self._consumer.drain()
        self.producer.raise_failure()

    async def aclose(self) -> None:
        """End the open clip, finish all that was captured, and end the workers. A second call does nothing.

        Cancelled, it drops what no worker has begun, and closes the segments as far as they came.

        Raises:
            RecordingError: `strict` is set, and frames were lost since the last call.
        """
        if not self._is_open:
            self.release()
            return
        self._is_open = False
        try:
            self.producer.close()
            with self._consumer.finishing.shown():
                await self.flush()
        finally:
            while self.producer.held:
                self.producer.settle_held(granted=False)
            self._consumer.discard()
            await self._resources.aclose()

    def release(self) -> None:
        """Let go of what the constructor took, where the recorder was never opened."""
        if not self._is_used:
            self._is_used = True
            self.producer.close()
            self._leftovers()

    def statistics(self) -> Statistics:
        """Return what happened so far; cheap, and safe to call from any thread."""
        return Statistics(
            steps=self.producer.step_count,
            clips_open=len(self._ledger.open_accounts),
            clips_closed=len(self._ledger.closed_clips),
            clips_discarded=self._ledger.discarded_count,
            frames=self._ledger.counts,
            queue_depth=self.queue.depth,
            queue_depth_high_water=self.queue.depth_high_water,
            queue_nbytes=self.queue.nbytes,
            worker_restarts=self._consumer.worker_restarts,
            capture=self.producer.captures.percentiles(),
            render=self._consumer.renders.percentiles(),
            encode=self._consumer.encodes.percentiles(),
        )

    def summary(self) -> Summary:
        """Return every clip that is closed, and the sums; complete once the recorder is closed."""
        return Summary(
            output_dir=self._folder,
            clips=self._ledger.closed_clips,
            frames=self._ledger.counts,
            statistics=self.statistics(),
        )

    async def _wait_for_room(self) -> None:
        """Settle the held captures, each as soon as there is room, all within `block_timeout_s`."""
        with anyio.move_on_after(self.config.block_timeout_s) as scope:
            while self.producer.held:
                while not self.queue.has_room(self.producer.held[0].nbytes):
                    await self._consumer.progressed()
                self.producer.settle_held(granted=True)
        if scope.cancelled_caught:
            while self.producer.held:
                self.producer.settle_held(granted=False)

    async def _unlock(self) -> None:
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(self._lock.release)

    async def _close_session(self) -> None:
        with anyio.CancelScope(shield=True):
            self._log.info("session.closed", steps=self.producer.step_count)
            await self._write_session(ended_at=now_iso())

    async def _write_session(self, **facts: Any) -> None:
        session = {
            "schema": 1,
            "started_at": self._started_at,
            "ended_at": None,
            "streams": self._describe_streams(),
            "codec": self._consumer.codec,
            "configuration": self.config.to_json(),
            **facts,
        }
        try:
            await anyio.to_thread.run_sync(write_session, self._folder / f"{self._log.stem}.json", session)
            await anyio.to_thread.run_sync(self._log.write_lines)
        except OSError as exc:
            self._log.warning("session.not_written", error=str(exc))

    def _describe_streams(self) -> dict[str, Any]:
        return {
            stream.name: {"backend": stream.backend.name, "source": dict(stream.format.details), "fps": stream.fps}
            for stream in self._streams
        }

    def _check_open(self) -> None:
        if not self._is_open:
            raise RecorderClosedError("the recorder is not open; use it inside its `with` block")


def _let_go(doorbell: Doorbell, pool: FramePool, lock: FolderLock) -> None:
    doorbell.close()
    pool.close()
    lock.release()


def _with_rank(config: RecorderConfig, rank: int | None) -> RecorderConfig:
    """Tell the clips of several ranks apart."""
    return config if rank is None else replace(config, name_prefix=f"{config.name_prefix}-rank{rank}")


def _check_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".stepreel-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as exc:
        raise OutputError(f"output_dir {str(folder)!r} can't be written: {exc.strerror}; choose another") from exc


def _check_format(config: RecorderConfig, capture_format: CaptureFormat) -> None:
    nbytes = capture_format.nbytes
    if nbytes and nbytes > config.queue_bytes:
        raise ConfigurationError(f"queue_bytes: got {config.queue_bytes}; allowed: at least one capture, {nbytes}")
    if config.render is RenderTime.LATER and not isinstance(capture_format.renderer, ArchivableRenderer):
        raise ConfigurationError(
            'render: got "later"; allowed: "now", for a backend that takes pictures, or snapshots that no file can keep'
        )
    if capture_format.renderer is not None:
        _check_renderer(capture_format.renderer)


def _check_renderer(renderer: object) -> None:
    if type(renderer).__module__ == "__main__":
        raise BackendError(
            f"the renderer {type(renderer).__qualname__} is defined in the script itself, which a worker can't "
            "import; move it to a module"
        )
    try:
        pickle.dumps(renderer)
    except (pickle.PicklingError, TypeError, AttributeError) as exc:
        raise BackendError(f"the renderer {type(renderer).__qualname__} can't be sent to a worker: {exc}") from exc


def _pool_nbytes(config: RecorderConfig, capture_nbytes: int, stream_count: int) -> int:
    expected = populated_nbytes(config, capture_nbytes)
    blocked = capture_nbytes * stream_count if config.drop_policy is DropPolicy.BLOCK else 0
    return max(expected + blocked, config.queue_bytes) + _SPARE_POOL_NBYTES
