"""The records of a recorder: manifests and log lines brought to disk, clips announced, deleted and pruned."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..clip import Clip, Segment, SnapshotFile
from ..errors import OutputError, describe
from ..storage.manifest import delete_clip, prune_clips, write_manifest
from ..transport.messages import ClipReady, SegmentReady, ServiceDescription
from .lifecycle import Event, Phase, Wanted
from .session_log import SessionLog
from .snapshot_spool import SnapshotSpool
from .threads import Threads
from .waking import Batching, Notifier
from .work import ClipWork

Announce = Callable[[ClipReady | SegmentReady], None]


class Records:
    """Brings the latest state of each clip to disk, and announces a clip once its last manifest is there.

    Belongs to the service's event loop.

    Args:
        description: The recorder's settings.
        log: The session's log.
        spool: Snapshots of clips that are not whole.
        threads: Where files are written.
        announce: Hands what hooks want to hear of to training.
        is_over: Called with each clip for which nothing is left to do.
        progress: Notifies when anything is done.
        batching: Has the work done together.
    """

    def __init__(
        self,
        description: ServiceDescription,
        log: SessionLog,
        spool: SnapshotSpool,
        threads: Threads,
        *,
        announce: Announce,
        is_over: Callable[[ClipWork], None],
        progress: Notifier,
        batching: Batching,
    ) -> None:
        self._folder = description.path
        self._keep_last_n_clips = description.keep_last_n_clips
        self._prefixes = {source.stream: source.prefix for source in description.sources}
        self._log = log
        self._spool = spool
        self._threads = threads
        self._announce = announce
        self._is_over = is_over
        self._progress = progress
        self._batching = batching
        self._noted: dict[int, ClipWork] = {}
        self.unheard: dict[int, str] = {}
        """Names of announced clips whose hooks were not called yet: they may not be deleted. By index."""
        self.waits_for_hooks = description.has_hooks
        self._undecided: set[str] = set()
        self._prunings = 0
        """Under way."""

    def note(self, work: ClipWork) -> None:
        """Have a clip's manifest written, with what is known by then."""
        self._noted[work.index] = work
        self._log.appended.notify()

    @property
    def are_written(self) -> bool:
        """Whether all that was noted and logged is on disk."""
        return not (self._noted or self._log.has_lines or self._spool.has_waiting)

    @property
    def is_done(self) -> bool:
        """Whether all is on disk, and nothing is left to be deleted once hooks were called."""
        return self.are_written and not (self._keep_last_n_clips and (self.unheard or self._prunings))

    async def run(self) -> None:
        """Write what was noted, for as long as the recorder runs."""
        while True:
            while not self.are_written:
                await self._spool.write()
                await self._write()
                await self._batching.rest()
            self._progress.notify()
            await self._log.appended.wait()

    def segment_closed(self, work: ClipWork, segment: Segment) -> None:
        """Log and announce a segment that is whole on disk."""
        self._log.info("segment.closed", clip=work.progress.name, file=segment.file, frames=segment.frames)
        self.note(work)
        if work.life.wanted is not Wanted.NO:
            self._announce(SegmentReady(clip=work.progress.to_clip(None, is_final=False), segment=segment))

    async def heard(self, index: int) -> None:
        """Note that the hooks of a clip were called: it may be deleted, if there are newer ones."""
        self.unheard.pop(index, None)
        for stream in self._prefixes:
            await self.prune(stream)
        self._progress.notify()

    def forget_hooks(self) -> None:
        """Wait for no hook any more: training does not listen."""
        self.waits_for_hooks = False
        self.unheard.clear()

    async def _write(self) -> None:
        """Bring the log to disk, and the clips that have waited longest: half of them, so that each batch is short."""
        due = self._take_due()
        settling = [work for work in due if work.life.phase is Phase.SETTLING]
        for work in settling:
            work.progress.snapshots = await self._close_spool(work)
        clips = [
            work.progress.to_clip(None, is_final=not work.life.is_in_work)
            for work in due
            # Of one that waits for a decision, the last manifest is there already.
            if work.progress.is_named and work.life.wanted is not Wanted.NO and work.life.phase is not Phase.WAITING
        ]
        unwritten, log_error = await self._threads.run(self._bring_to_disk, clips)
        for clip, exc in unwritten:
            self._log.trouble("manifest.failed", kind=type(exc).__name__, clip=clip.name, error=str(exc))
        if log_error:
            self._log.trouble("log.not_written", kind=type(log_error).__name__, error=describe(log_error))
        for work in settling:
            work.life.on(Event.WRITTEN)
        for work in due:
            await self._conclude(work)

    async def _close_spool(self, work: ClipWork) -> SnapshotFile | None:
        if work.life.wanted is Wanted.NO:
            await self._spool.discard(work)
            return None
        return await self._spool.close(work)

    def _take_due(self) -> list[ClipWork]:
        oldest = sorted(self._noted)  # The oldest first: clips are as old as their manifests.
        return [self._noted.pop(index) for index in oldest[: (len(oldest) + 1) // 2]]

    def _bring_to_disk(self, clips: Sequence[Clip]) -> tuple[list[tuple[Clip, OutputError]], OSError | None]:
        """Write manifests and what was logged, in one go on a thread; return what could not be written, and why."""
        unwritten: list[tuple[Clip, OutputError]] = []
        for clip in clips:
            try:
                write_manifest(self._folder, clip)
            except OutputError as exc:
                unwritten.append((clip, exc))
        try:
            self._log.write_lines()
        except OSError as exc:
            return unwritten, exc
        return unwritten, None

    async def _conclude(self, work: ClipWork) -> None:
        """Announce a clip that is whole on disk, or delete it, once that is decided."""
        if work.is_concluded:
            return
        work.is_concluded = work.life.is_over
        match work.life.phase:
            case Phase.WAITING:
                self._undecided.add(work.progress.name)
            case Phase.CLOSED:
                await self._finish(work)
            case Phase.DISCARDED:
                await self._throw_away(work)

    async def _finish(self, work: ClipWork) -> None:
        clip = work.progress.to_clip(None, is_final=True)
        self._undecided.discard(clip.name)
        if work.progress.is_silent:  # Last seconds that nobody asked for.
            self._is_over(work)
            return
        self._log_closed(clip)
        if self.waits_for_hooks:
            self.unheard[work.index] = clip.name
        self._is_over(work)
        if self._keep_last_n_clips:
            await self.prune(clip.stream)
        self._announce(ClipReady(index=work.index, clip=clip))

    async def _throw_away(self, work: ClipWork) -> None:
        """Delete the files of a clip that nobody is to hear of."""
        name = work.progress.name
        self._undecided.discard(name)
        await self._spool.discard(work)
        if work.progress.is_named:
            try:
                await self._threads.run(delete_clip, self._folder, name)
            except OutputError as exc:
                self._log.trouble("prune.failed", kind=type(exc).__name__, error=str(exc))
        work.progress.files_deleted()
        self._is_over(work)
        if not work.is_ring:
            self._log.info("clip.discarded", clip=name, requested=work.progress.counts.requested)

    def _log_closed(self, clip: Clip) -> None:
        self._log.info(
            "clip.closed",
            clip=clip.name,
            state=clip.state,
            requested=clip.frames.requested,
            encoded=clip.frames.encoded,
            dropped={str(cause): count for cause, count in clip.frames.dropped.items()},
            files=[segment.file for segment in clip.segments],
            **({"ended": clip.ended} if clip.ended else {}),
        )

    async def prune(self, stream: str) -> None:
        """Delete the oldest clips of a stream where there are more than are to be kept."""
        if not self._keep_last_n_clips:
            return
        spared = self._undecided.union(self.unheard.values())
        self._prunings += 1
        try:
            files = await self._threads.run(
                prune_clips, self._folder, self._prefixes[stream], self._keep_last_n_clips, frozenset(spared)
            )
        except OutputError as exc:
            self._log.trouble("prune.failed", kind=type(exc).__name__, error=str(exc))
            return
        finally:
            self._prunings -= 1
        if files:
            self._log.info("clips.pruned", files=files)
