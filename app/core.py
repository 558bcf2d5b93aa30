"""What `Recorder` and `AsyncRecorder` share: streams, shared memory, the producer, the link to the service."""

from __future__ import annotations

import inspect
import os
import sys
import tempfile
import threading
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from .available_memory import available_memory
from .capture.producer import Producer
from .capture.stream import Stream, open_streams, worker_environment
from .config import DropPolicy, RecorderConfig, RenderTime
from .errors import ConfigurationError, OutputError
from .interfaces import ArchivableRenderer, Backend, CaptureFormat
from .link import Hooks, Link
from .statistics import ServiceStatistics, Statistics, Summary
from .storage.folder_lock import FolderLock
from .storage.session_files import launched_rank, local_ranks, session_stem
from .transport.control_bytes import TRAINING_IS_IDLE
from .transport.messages import Deadlines, ServiceDescription, encode, sendable
from .transport.shared_memory import MOST_STREAMS, Layout, ServiceWord, SharedMemory, TrainingWord, aligned

DEADLINES = Deadlines()
_LEAST_RECORDS = 16384
_CHECKPOINT_NBYTES = 64 * 2**20
"""Address space for each of the two checkpoints."""
_SPARE_POOL_NBYTES = 64 * 2**20
"""Address space beyond the queue's bytes: for captures in workers' hands, and such as outgrow the first one."""
_IN_HAND_NBYTES = 32 * 2**20
"""Captures that a worker may have in hand."""
_MOST_QUEUE_NBYTES = 4 * 2**30
_LEAST_QUEUE_CAPTURES = 2
_QUEUE_SHARE = 4
"""The queue may have one part in so many of the memory that is available."""

_cores: weakref.WeakSet[RecorderCore] = weakref.WeakSet()


class RecorderCore:
    """Makes all that one recorder needs on training's side, and lets go of it.

    Attributes:
        config: All settings, with the names of a rank of several told apart, and the size of the queue as chosen.
        producer: The training thread's part.
        link: The link to the recording service.

    Raises:
        BackendError: the simulator can't be recorded.
        ConfigurationError: a setting does not go with the backend, or a hook can't be called.
        OutputError: the output folder can't be made or written.
    """

    def __init__(
        self, config: RecorderConfig, backend: Backend | Mapping[str, Backend], hooks: Hooks, *, may_await: bool
    ) -> None:
        rank = launched_rank()
        self.config = config = _with_rank(config, rank)
        self.folder = Path(os.path.abspath(config.output_dir))  # The training may change its working directory.
        _check_hooks(hooks, may_await=may_await)
        _check_folder(self.folder)
        self._streams = open_streams(config, backend)
        try:
            queue_nbytes = _choose_queue(config, self._streams)
            self.config = config = replace(config, queue_bytes=queue_nbytes)
            for stream in self._streams:
                _check_format(config, stream.format, queue_nbytes)
            self._lock: FolderLock | None = FolderLock.share(self.folder)
            description = encode(self._describe(hooks, session_stem(rank), queue_nbytes))
            self.memory = SharedMemory.create(
                _layout(config, self._streams, len(description), queue_nbytes), description
            )
        except BaseException:
            for stream in self._streams:
                stream.backend.close()
            raise
        self.producer = Producer(config, self._streams, self.memory)
        self.link = Link(self.memory, self.folder, hooks, self.producer.fail, is_strict=config.strict)
        self._last: Statistics | None = None
        self._idle_count = 0
        _cores.add(self)

    @contextmanager
    def training_idle(self) -> Iterator[None]:
        """Have workers not rest between frames meanwhile."""
        self._idle_count += 1
        self.memory.view[TRAINING_IS_IDLE] = min(self._idle_count, 255)
        try:
            yield
        finally:
            self._idle_count -= 1
            if self.memory.is_open:
                self.memory.view[TRAINING_IS_IDLE] = min(self._idle_count, 255)

    @property
    def frames_left(self) -> int:
        """Frames that are neither encoded nor dropped."""
        return self.statistics().frames.pending

    def statistics(self) -> Statistics:
        """Return what happened so far. Reads counters only: safe to call from any thread, and from a signal handler."""
        if self._last is not None:
            return self._last
        training = self.memory.training
        service = ServiceStatistics.read(self.memory)
        # Read after the service's block, so that it never has seen more than there is.
        unseen = max(training[TrainingWord.REQUESTED] - service.requested_seen, 0)
        frames = service.frames
        admission, captures = self.producer.admission, self.producer.captures
        return Statistics(
            steps=self.producer.step_count,
            clips_open=service.clips_open + max(training[TrainingWord.CLIPS] - service.clips_seen, 0),
            clips_closed=service.clips_closed,
            clips_discarded=service.clips_discarded,
            frames=replace(frames, requested=frames.requested + unseen, pending=frames.pending + unseen),
            queue_depth=admission.depth,
            queue_depth_high_water=admission.depth_high_water,
            queue_nbytes=admission.nbytes,
            queue_limit_nbytes=self.memory.layout.queue_nbytes,
            memory_nbytes=max(self.memory.service[ServiceWord.POPULATED] - self.memory.layout.pool, 0),
            worker_restarts=service.restarts,
            capture=captures.timings.percentiles(),
            render=service.render,
            encode=service.encode,
        )

    def summary(self) -> Summary:
        """Return every clip that is closed, and the sums; complete once the recorder is closed."""
        statistics = self.statistics()
        return Summary(output_dir=self.folder, clips=self.link.clips, frames=statistics.frames, statistics=statistics)

    def let_go(self) -> None:
        """Let go of what the constructor took, once the service is over or goes on by itself.

        A second call does what an interrupted one left.
        """
        if self._last is None:
            left = ServiceStatistics.read(self.memory).frames.pending
            self._last = _settled(self.statistics(), left)
        self.producer.disown()
        self.memory.close()
        self.unlock()

    def unlock(self) -> None:
        """Let go of the folder, which the service locks for itself."""
        if self._lock:
            self._lock.release()
            self._lock = None

    def abandon(self) -> None:
        """Close a recorder that nobody has closed and nobody refers to any more; the service finishes its clip."""
        if self._last is None and not self.link.is_over:
            self.producer.close()
            self.link.ask_close(somebody_waits=False, drop_waiting=False)
            self.link.detach()
        self.let_go()

    def disown(self) -> None:
        """Be of no effect in a process that was forked."""
        self.producer.disown()
        self.link.disown()

    def _describe(self, hooks: Hooks, stem: str, queue_nbytes: int) -> ServiceDescription:
        config = self.config
        return ServiceDescription(
            folder=os.fsencode(self.folder),
            folder_is_shared=self._lock is not None and self._lock.is_shared,
            stem=stem,
            started_at=datetime.now(UTC).isoformat(timespec="milliseconds"),
            program=os.path.basename(sys.argv[0]) if sys.argv else "",
            training_process=os.getpid(),
            training_thread=threading.get_native_id(),
            environment=worker_environment(self._streams),
            sources=[stream.to_description() for stream in self._streams],
            configuration=sendable(config.to_json()),
            keep_last_n_clips=config.keep_last_n_clips,
            ring_s=config.ring_s,
            ring_bytes=config.ring_bytes,
            min_free_bytes=config.min_free_bytes,
            queue_depth=config.queue_depth,
            queue_bytes=queue_nbytes,
            drop_policy=config.drop_policy,
            render=config.render,
            durable_snapshots=config.durable_snapshots or config.render is RenderTime.LATER,
            worker_count=config.worker_count,
            worker_priority=config.worker_priority,
            render_duty=config.render_duty,
            strict=config.strict,
            has_hooks=hooks.on_clip_closed is not None or hooks.on_segment_closed is not None,
            deadlines=DEADLINES,
        )


def _settled(statistics: Statistics, left: int) -> Statistics:
    """Return the last statistics.

    Frames that the service has `left` are still pending: it goes on by itself, or was lost. If it has left none, an
    interruption kept from being told what still counts as pending.
    """
    frames = statistics.frames
    untold = 0 if left else frames.pending
    return replace(
        statistics, frames=replace(frames, requested=frames.requested - untold, pending=frames.pending - untold)
    )


def _with_rank(config: RecorderConfig, rank: int | None) -> RecorderConfig:
    """Tell the clips of several ranks apart."""
    return config if rank is None else replace(config, name_prefix=f"{config.name_prefix}-rank{rank}")


def _choose_queue(config: RecorderConfig, streams: tuple[Stream, ...]) -> int:
    """Return how many bytes of captures may wait."""
    if config.queue_bytes is not None:
        return config.queue_bytes
    # Recorders that are open in this process, and ranks on this machine, have to share.
    sharers = (1 + sum(core.memory.is_open for core in tuple(_cores))) * local_ranks()
    share = min(available_memory().nbytes // _QUEUE_SHARE, _MOST_QUEUE_NBYTES) // sharers
    least = _LEAST_QUEUE_CAPTURES * max(aligned(stream.format.nbytes or 1) for stream in streams)
    return max(share, least)


def _check_hooks(hooks: Hooks, *, may_await: bool) -> None:
    for name in ("on_clip_closed", "on_segment_closed"):
        hook = getattr(hooks, name)
        is_async = inspect.iscoroutinefunction(hook) or (
            callable(hook) and inspect.iscoroutinefunction(type(hook).__call__)
        )
        if is_async and not may_await:
            raise ConfigurationError(
                f"{name}: got a coroutine function; allowed: a function, which is called on a thread; "
                "AsyncRecorder awaits coroutines"
            )


def _check_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder, prefix=".stepreel-"):
            pass
    except OSError as exc:
        raise OutputError(f"output_dir {str(folder)!r} can't be written: {exc.strerror}; choose another") from exc


def _check_format(config: RecorderConfig, capture_format: CaptureFormat, queue_nbytes: int) -> None:
    nbytes = capture_format.nbytes
    if nbytes and nbytes > queue_nbytes:
        raise ConfigurationError(f"queue_bytes: got {queue_nbytes}; allowed: at least one capture, {nbytes}")
    if config.render is RenderTime.LATER and not isinstance(capture_format.renderer, ArchivableRenderer):
        raise ConfigurationError(
            'render: got "later"; allowed: "now", for a backend that takes pictures, or snapshots that no file can keep'
        )


def _layout(config: RecorderConfig, streams: tuple[Stream, ...], description_nbytes: int, queue_nbytes: int) -> Layout:
    if len(streams) > MOST_STREAMS:
        raise ConfigurationError(f"backend: got {len(streams)} streams; allowed: at most {MOST_STREAMS}")
    nbytes = max(stream.capture_nbytes for stream in streams)
    records = max(_LEAST_RECORDS, 8 * config.queue_depth)
    in_hand = max(_IN_HAND_NBYTES, 4 * aligned(nbytes)) * config.worker_count
    depth_nbytes = min(2 * config.queue_depth * aligned(1), 2**32)  # Small captures take a page each.
    blocked = nbytes * len(streams) if config.drop_policy is DropPolicy.BLOCK else 0
    return Layout(
        record_count=1 << (records - 1).bit_length(),
        description_nbytes=description_nbytes,
        checkpoint_nbytes=_CHECKPOINT_NBYTES,
        pool_nbytes=queue_nbytes + in_hand + depth_nbytes + blocked + 4 * description_nbytes + _SPARE_POOL_NBYTES,
        queue_nbytes=queue_nbytes,
    )


def _disown_all() -> None:
    for core in tuple(_cores):
        core.disown()


# A process that training forks has copies of its recorders, and must not record into the parent's clips.
os.register_at_fork(after_in_child=_disown_all)
