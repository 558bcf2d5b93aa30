"""The state of a recording: clips in work, frames that wait, counts. Pure, but for releases in shared memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from ..clip import DropCause
from ..config import DropPolicy
from ..scheduling.frame_queue import FrameQueue
from ..transport.messages import ServiceDescription, SourceDescription
from .accounting import ClipProgress, RingProgress, Totals
from .lifecycle import Event, Life, Phase, Wanted
from .published import Room
from .snapshot_spool import SnapshotSpool
from .work import ClipWork, Frame, Read


class Recording:
    """Clips from their beginning until they are over, and frames from their record until they are settled.

    Attributes:
        works: Clips that are not over, by index.
        queue: Frames that wait for a worker.
        sources: What captures are, by stream and version.
        versions: The version of each stream that clips begin with now.
        read: How much the journal has told of.
        is_changed: Something changed that a service that takes over could not find out by itself.
        settled: Called with a clip of which every frame is accounted for.
    """

    def __init__(self, description: ServiceDescription, room: Room) -> None:
        self.works: dict[int, ClipWork] = {}
        self.queue: FrameQueue[Frame] = FrameQueue(
            depth=description.queue_depth, nbytes=description.queue_bytes, policy=description.drop_policy
        )
        # Training holds itself to the queue's size there, and a service that takes over finds more than was waiting.
        self._is_admitted_before = description.drop_policy in (DropPolicy.BLOCK, DropPolicy.DROP_NEWEST)
        self.sources: dict[tuple[str, int], SourceDescription] = {one.key: one for one in description.sources}
        self.versions = {one.stream: one.version for one in description.sources}
        self.drawn_by: dict[str, str] = {}
        self.totals = Totals()
        self.read = Read()
        self.used_nbytes = 0
        """Up to where captures have used the shared memory."""
        self.capture_nbytes = max((one.nbytes or 0 for one in description.sources), default=0)
        self.is_changed = True
        self.settled: Callable[[ClipWork], None] = _nothing
        self.spool: SnapshotSpool | None = None
        self._room = room

    def begin(self, progress: ClipProgress | RingProgress, *, version: int, is_undecided: bool) -> ClipWork:
        """Take a clip that training has begun."""
        life = Life(wanted=Wanted.UNDECIDED if is_undecided else Wanted.YES)
        work = ClipWork(progress=progress, life=life, version=version)
        self.works[work.index] = work
        self.read.clips += not work.is_ring
        self.is_changed = True
        return work

    def capture(self, frame: Frame) -> tuple[Frame, ...]:
        """Take a frame that training has captured; return what the drop policy took, the frame itself perhaps."""
        if not self.accept(frame):
            return ()
        if self._is_admitted_before:
            self.queue.put_anyway(frame)
            return ()
        admitted = self.queue.put(frame)
        taken = admitted.evicted if admitted.is_in else (*admitted.evicted, frame)
        for one in taken:
            self.drop(one, DropCause.QUEUE_FULL)
        return taken

    def accept(self, frame: Frame) -> bool:
        """Count a frame as captured; False where it is of no clip that is captured, and nothing comes of it."""
        work = self.works.get(frame.clip)
        self._count_read(frame)
        if work is None or not work.life.is_captured:
            self._room.settle(frame, DropCause.CLOSED)
            return False
        self.capture_nbytes = frame.nbytes
        self.used_nbytes = max(self.used_nbytes, frame.offset + frame.nbytes)
        work.progress.frame_requested(frame.step)
        if self.spool:
            self.spool.captured(work, frame)
        return True

    def settled_before(self, frame: Frame, cause: DropCause | None) -> None:
        """Count a frame that a service before this one has settled."""
        work = self.works.get(frame.clip)
        self._count_read(frame)
        if work:
            work.progress.frame_requested(frame.step)
            self.count_settled(work, frame, cause)

    def count_settled(self, work: ClipWork, frame: Frame, cause: DropCause | None) -> None:
        """Count what became of a frame whose memory is released already."""
        if cause is None:
            work.progress.frame_encoded(frame.step)
        else:
            work.progress.frame_dropped(frame.step, cause)

    def drop_range(self, clip: int, first: int, last: int, stride: int, cause: DropCause) -> int:
        """Count frames that training asked for and could not take; return how many."""
        work = self.works.get(clip)
        count = (last - first) // max(stride, 1) + 1
        self.read.requested += count if clip >= 0 else 0
        if work:
            work.progress.range_dropped(first, last, cause)
        return count

    def take(self, clips: dict[int, ClipWork]) -> Frame | None:
        """Take the frame out of the queue that has waited longest, of these clips."""
        return self.queue.get(clips)

    def drop(self, frame: Frame, cause: DropCause) -> None:
        """Count a frame as dropped, and let go of it."""
        work = self.works.get(frame.clip)
        if work:
            work.progress.frame_dropped(frame.step, cause)
            if self.spool:
                self.spool.dropped(work, frame, cause)
        self._room.settle(frame, cause)

    def encoded(self, frame: Frame) -> None:
        """Count a frame as encoded, and let go of it."""
        work = self.works.get(frame.clip)
        if work:
            work.progress.frame_encoded(frame.step)
        self._room.settle(frame, None)

    def discard_waiting(self, work: ClipWork, cause: DropCause, returned: Iterable[Frame] = ()) -> None:
        """Drop all that waits of a clip, and what lost workers had of it."""
        for frame in returned:
            self.drop(frame, cause)
        for frame in self.queue.discard(work.index):
            self.drop(frame, cause)

    def drain(self, work: ClipWork) -> None:
        """Take a clip out of work: every frame is accounted for, its segments are closed."""
        self.is_changed = True
        if isinstance(work.progress, RingProgress) and work.progress.seconds and not work.progress.is_saved:
            work.progress.failed()
        if work.life.on(Event.DRAINED):
            self.settled(work)

    def over(self, work: ClipWork) -> None:
        """Forget a clip for which nothing is left to do."""
        if self.works.pop(work.index, None) is None:
            return
        self.is_changed = True
        if work.is_ring and work.progress.is_silent:
            return
        self.totals.add(work.progress.counts)
        if work.life.phase is Phase.DISCARDED:
            self.totals.clips_discarded += 1
        else:
            self.totals.clips_closed += 1

    def publish(self) -> None:
        """Tell training what waits, and to what the clips that it captures were thinned."""
        self._room.publish_taken(self.read.frames - self.queue.depth, self.read.nbytes - self.queue.nbytes)
        streams = {work.index: self.sources[work.source].index for work in self.captured if not work.is_ring}
        self._room.publish_grids(self.queue.grids, streams)

    @property
    def captured(self) -> list[ClipWork]:
        """Clips of which captures may follow."""
        return [work for work in self.works.values() if work.life.is_captured]

    @property
    def is_drained(self) -> bool:
        """Whether no clip that has ended, and no frame, waits for anything but the decision whether a clip stays."""
        return not any(
            (not work.life.is_captured and work.life.phase is not Phase.WAITING) or work.progress.pending
            for work in self.works.values()
        )

    @property
    def holds_nothing(self) -> bool:
        """Whether nothing is captured, and the bytes of no capture are needed any more."""
        return not (self.captured or self.frames_left or self.queue.depth or (self.spool and self.spool.held))

    @property
    def frames_left(self) -> int:
        """Frames that are neither encoded nor dropped."""
        return sum(work.progress.pending for work in self.works.values())

    def _count_read(self, frame: Frame) -> None:
        self.read.frames += 1
        self.read.nbytes += frame.nbytes
        self.read.requested += frame.clip >= 0


def _nothing(work: ClipWork) -> None:
    pass
