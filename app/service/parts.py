"""The parts of a recording service, made and joined."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ..config import WorkerPriority
from ..statistics import ServiceStatistics
from ..transport.control_bytes import WORKERS_ARE_RAISED
from ..transport.messages import FramesLost, ServiceDescription
from ..transport.shared_memory import SharedMemory
from .channel import Channel
from .checkpoint import Checkpointer
from .clip_namer import ClipNamer
from .dispatcher import Dispatcher
from .journal_feed import JournalFeed
from .pool_memory import PoolMemory
from .published import Room, StatisticsWriter
from .recording import Recording
from .records import Records
from .reports import Reports
from .session_log import SessionLog
from .snapshot_spool import SnapshotSpool
from .threads import Threads
from .waking import Batching, Notifier
from .work import Frame
from .workers import Workers


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """Everything that records, joined; none of it runs yet."""

    description: ServiceDescription
    memory: SharedMemory
    threads: Threads
    channel: Channel
    progress: Notifier
    """Notifies when anything is done that somebody may wait for."""
    batching: Batching
    log: SessionLog
    recording: Recording
    spool: SnapshotSpool
    dispatcher: Dispatcher
    records: Records
    reports: Reports
    feed: JournalFeed
    workers: Workers
    checkpointer: Checkpointer
    statistics: StatisticsWriter
    pool_memory: PoolMemory

    @property
    def is_drained(self) -> bool:
        """Whether all that training has told of is done, and on disk."""
        return self.feed.is_read and self.recording.is_drained and self.records.are_written

    def publish_statistics(self, *, fresh: bool) -> None:
        """Publish counts; percentiles are sorted anew where they are to be `fresh`."""
        recording, reports = self.recording, self.reports
        spoken = [work.progress for work in recording.works.values() if not work.progress.is_silent]
        self.statistics.write(
            ServiceStatistics(
                requested_seen=recording.read.requested,
                clips_seen=recording.read.clips,
                frames=recording.totals.with_open(spoken),
                clips_open=len(spoken),
                clips_closed=recording.totals.clips_closed,
                clips_discarded=recording.totals.clips_discarded,
                restarts=reports.restarts,
                render=reports.renders.percentiles(is_fresh=fresh),
                encode=reports.encodes.percentiles(is_fresh=fresh),
            )
        )


def join_parts(
    description: ServiceDescription, memory: SharedMemory, channel: Channel, *, look_s: float, interval_s: float
) -> Parts:
    """Make the parts of a service.

    Args:
        description: The recorder's settings.
        memory: What it shares with training.
        channel: Its end of the socket.
        look_s: Time from one look at the journal to the next [s].
        interval_s: Time from one batch of work to the next; 0: everything at once.
    """
    threads, progress, batching = Threads(), Notifier(), Batching(interval_s)
    log = SessionLog(description.path, description.stem, channel.send)
    room = Room(memory)
    recording = Recording(description, room)
    spool = SnapshotSpool(
        description,
        recording.sources,
        bytes_of=lambda frame: _bytes_of(memory, frame),
        let_go=room.let_go,
        log=log,
        threads=threads,
    )
    recording.spool = spool
    records = Records(
        description,
        log,
        spool,
        threads,
        announce=channel.send,
        is_over=recording.over,
        progress=progress,
        batching=batching,
    )
    recording.settled = records.note
    dispatcher = Dispatcher(description, recording, spool, log, look_s=look_s)
    lost = _tell_if_strict(description, channel)
    reports = Reports(recording, dispatcher, records, log, lost)
    namer = ClipNamer(description, recording, records, log, threads, lost=lost)
    feed = JournalFeed(
        memory,
        recording,
        dispatcher,
        records,
        log,
        namer,
        queue_was_full=_raise_starved(description, memory, dispatcher, log),
        lost=lost,
    )
    workers = Workers(
        description,
        memory,
        dispatcher,
        reports,
        log,
        threads,
        progress=progress,
        batching=batching,
        clips_begun=lambda: recording.read.clips,
    )
    workers.dispatched = recording.publish
    checkpointer = Checkpointer(memory, recording, dispatcher, feed, reports, records, room, log)
    namer.named = checkpointer.write
    return Parts(
        description=description,
        memory=memory,
        threads=threads,
        channel=channel,
        progress=progress,
        batching=batching,
        log=log,
        recording=recording,
        spool=spool,
        dispatcher=dispatcher,
        records=records,
        reports=reports,
        feed=feed,
        workers=workers,
        checkpointer=checkpointer,
        statistics=StatisticsWriter(memory),
        pool_memory=PoolMemory(description, memory, recording, feed, progress, threads, log),
    )


def _bytes_of(memory: SharedMemory, frame: Frame) -> memoryview:
    return memory.view[frame.offset : frame.offset + frame.nbytes]


def _tell_if_strict(description: ServiceDescription, channel: Channel) -> Callable[[str], None]:
    def lost(reason: str) -> None:
        if description.strict:
            channel.send(FramesLost(reason=reason), now=True)

    return lost


def _raise_starved(
    description: ServiceDescription, memory: SharedMemory, dispatcher: Dispatcher, log: SessionLog
) -> Callable[[], None]:
    """Let workers of priority "auto" have a share of a busy machine: pixels lose frames where snapshots wait."""
    takes_pixels = any(not source.renderer for source in description.sources)
    may_raise = description.worker_priority is WorkerPriority.AUTO and takes_pixels

    def queue_was_full() -> None:
        starved = [slot for slot in dispatcher.slots if slot.is_ready and slot.is_starved]
        if may_raise and starved and not memory.view[WORKERS_ARE_RAISED]:
            memory.view[WORKERS_ARE_RAISED] = 1
            log.info("worker.raised", priority=WorkerPriority.LOW, frame_s=round(starved[0].frame_s, 3))

    return queue_was_full
