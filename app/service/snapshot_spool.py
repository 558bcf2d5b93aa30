"""The snapshot spool: snapshots of clips that are not whole, in a file beside each manifest."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping
from contextlib import asynccontextmanager

from ..clip import DropCause, SnapshotFile
from ..errors import OutputError
from ..storage.files import free_nbytes
from ..storage.snapshot_writer import SnapshotsAbout, SnapshotWriter
from ..transport.messages import ServiceDescription, SourceDescription
from .accounting import KEPT_CAUSES
from .session_log import SessionLog
from .threads import Threads
from .waking import Notifier
from .work import ClipWork, Frame

Bytes = Callable[[Frame], memoryview]


class SnapshotSpool:
    """Writes snapshots, clip by clip, on a thread. Belongs to the service's event loop.

    With `durable_snapshots` it takes every snapshot as it comes, so that a kill of everything at once loses no more
    than what came since the last `write`; the file goes when the clip is whole. Without, it takes those that nobody
    drew. It keeps a frame's memory from being released until it is written, and never more than half of `queue_bytes`.

    Args:
        description: The recorder's settings.
        sources: What the captures of each stream and version are.
        bytes_of: Returns a frame's bytes in shared memory.
        let_go: Called with each frame whose bytes it needs no longer.
        log: Hears of what can't be written.
        threads: Where files are written.
    """

    def __init__(
        self,
        description: ServiceDescription,
        sources: Mapping[tuple[str, int], SourceDescription],
        *,
        bytes_of: Bytes,
        let_go: Callable[[Frame], None],
        log: SessionLog,
        threads: Threads,
    ) -> None:
        self._description = description
        self._folder = description.path
        self._sources = sources
        self._bytes_of = bytes_of
        self._let_go = let_go
        self._log = log
        self._threads = threads
        self._waiting: dict[int, tuple[ClipWork, list[Frame]]] = {}
        self._held: dict[int, Frame] = {}
        self._nbytes = 0
        self._writers: dict[int, SnapshotWriter] = {}
        self._failed: set[int] = set()
        self._is_at_work = False
        self._freed = Notifier()

    @property
    def has_waiting(self) -> bool:
        """Whether `write` has anything to write now."""
        return any(work.progress.is_named for work, _ in self._waiting.values())

    @property
    def held(self) -> Collection[Frame]:
        """Frames whose bytes it still needs."""
        return self._held.values()

    def captured(self, work: ClipWork, frame: Frame) -> None:
        """Take a snapshot that was captured, where all are kept on disk."""
        if self._description.durable_snapshots and not work.is_ring:
            self._take(work, frame)

    def dropped(self, work: ClipWork, frame: Frame, cause: DropCause) -> None:
        """Take a snapshot that nobody draws, where those are kept only."""
        if not self._description.durable_snapshots and cause in KEPT_CAUSES and not work.is_ring:
            self._take(work, frame)

    def take_again(self, work: ClipWork, frame: Frame) -> None:
        """Take a snapshot that a service before this one had taken, and perhaps not written."""
        self._take(work, frame)

    def keeps(self, work: ClipWork) -> bool:
        """Whether some frames of a clip are left to be drawn another day."""
        is_kept = self._is_archivable(work) and work.index not in self._failed
        return is_kept and any(work.progress.missing.get(cause) for cause in KEPT_CAUSES)

    async def write(self) -> None:
        """Write what waits of clips that have a name."""
        async with self._alone():
            for work in [work for work, _ in self._waiting.values() if work.progress.is_named]:
                await self._write_waiting(work)

    async def close(self, work: ClipWork) -> SnapshotFile | None:
        """Finish a clip's file: only what nobody has drawn stays. Returns what it holds."""
        async with self._alone():
            if self.keeps(work):
                await self._write_waiting(work)
            self._forget(self._waiting.pop(work.index, (work, []))[1])
            self._failed.discard(work.index)
            writer = self._writers.pop(work.index, None)
            if writer is None:
                return None
            try:
                return await self._threads.run(writer.close, work.progress.missing_for(KEPT_CAUSES))
            except OutputError as exc:
                writer.abandon()
                self._fail(work, exc)
                return None

    async def discard(self, work: ClipWork) -> None:
        """Remove the file of a clip that is not to be kept."""
        async with self._alone():
            self._forget(self._waiting.pop(work.index, (work, []))[1])
            self._failed.discard(work.index)
            writer = self._writers.pop(work.index, None)
            if writer:
                await self._threads.run(writer.discard)

    def resume(self, work: ClipWork) -> None:
        """Go on with the file of a clip that a service before this one had in work. Blocks."""
        if self._is_archivable(work) and work.progress.is_named:
            try:
                writer = SnapshotWriter.resume(self._folder, self._about(work))
            except OutputError as exc:
                self._fail(work, exc)
            else:
                if writer:
                    self._writers[work.index] = writer

    def _take(self, work: ClipWork, frame: Frame) -> None:
        if not (frame.is_snapshot and self._is_archivable(work)) or work.index in self._failed:
            return
        if self._nbytes + frame.nbytes > self._description.queue_bytes // 2:
            self._log.trouble("snapshots.not_kept", kind="slow_disk", clip=work.progress.name, error="the disk is slow")
            return
        frame.holds += 1
        self._held[frame.number] = frame
        self._nbytes += frame.nbytes
        self._waiting.setdefault(work.index, (work, []))[1].append(frame)

    def _is_archivable(self, work: ClipWork) -> bool:
        source = self._sources.get(work.source)
        return source is not None and source.archive is not None

    @asynccontextmanager
    async def _alone(self) -> AsyncIterator[None]:
        """Wait until no other task has a thread at work: what is being written must not be closed meanwhile."""
        while self._is_at_work:
            await self._freed.wait()
        self._is_at_work = True
        try:
            yield
        finally:
            self._is_at_work = False
            self._freed.notify()

    async def _write_waiting(self, work: ClipWork) -> None:
        frames = self._waiting.pop(work.index, (work, []))[1]
        try:
            if frames:
                await self._threads.run(self._write, work, frames)
        except OutputError as exc:
            self._fail(work, exc)
        finally:
            self._forget(frames)

    def _forget(self, frames: Iterable[Frame]) -> None:
        for frame in frames:
            self._nbytes -= frame.nbytes
            self._held.pop(frame.number, None)
            self._let_go(frame)

    def _fail(self, work: ClipWork, exc: OutputError) -> None:
        self._failed.add(work.index)
        self._log.trouble("snapshots.not_kept", kind=type(exc).__name__, clip=work.progress.name, error=str(exc))

    def _write(self, work: ClipWork, frames: Iterable[Frame]) -> None:
        self._check_room()
        writer = self._writers.get(work.index)
        if writer is None:
            archive = self._sources[work.source].archive
            assert archive is not None
            writer = self._writers[work.index] = SnapshotWriter(self._folder, self._about(work), archive.members)
        for frame in frames:
            writer.append(frame.step, self._bytes_of(frame))
        writer.flush()

    def _check_room(self) -> None:
        try:
            free = free_nbytes(self._folder)
        except OSError as exc:
            raise OutputError(f"{self._folder} can't be written: {exc.strerror or exc}") from exc
        least = self._description.min_free_bytes
        if free is not None and free < least:
            raise OutputError(f"{self._folder} has less room left than min_free_bytes={least}")

    def _about(self, work: ClipWork) -> SnapshotsAbout:
        source, progress = self._sources[work.source], work.progress
        archive = source.archive
        assert archive is not None
        return SnapshotsAbout(
            clip=progress.name,
            start_step=progress.start_step,
            frame_stride=progress.frame_stride,
            fps=progress.fps,
            encoding=source.settings.to_json(),
            kind=archive.kind,
            settings=json.loads(archive.settings),
        )
