"""The journal feed: what training tells, taken into the recording in its order."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from ..clip import DropCause
from ..errors import WorkerError
from ..transport.journal import CAUSES, JournalReader, Kind, Record
from ..transport.messages import ClipBegan, ClipEnded, SourceDescription, Trouble, decode
from ..transport.shared_memory import SharedMemory
from .accounting import ClipProgress, RingProgress
from .clip_namer import ClipNamer
from .dispatcher import Dispatcher
from .lifecycle import Event, Phase, Wanted
from .published import ENCODED
from .recording import Recording
from .records import Records
from .session_log import SessionLog
from .work import ClipWork, Frame


class JournalFeed:
    """Reads the journal, and performs what it says. Belongs to the service's event loop.

    Attributes:
        reader: The journal.
        is_closed: Training has closed the recorder: nothing follows.
        outcomes: What became of frames that a service before this one has settled, by the number of their record.
        read_before: Number of the first record that no service before this one can have read.
        renewals: Where the descriptions of renewed sources lie: offsets and sizes.
        queue_was_full: Called where frames found no room.
        lost: Called with why frames were lost.
        namer: Names clips once they have begun.
    """

    def __init__(
        self,
        memory: SharedMemory,
        recording: Recording,
        dispatcher: Dispatcher,
        records: Records,
        log: SessionLog,
        namer: ClipNamer,
        *,
        queue_was_full: Callable[[], None],
        lost: Callable[[str], None],
    ) -> None:
        self.reader = JournalReader(memory)
        self.is_closed = False
        self.read_before = 0
        self.namer = namer
        self.outcomes: dict[int, int] = {}
        self.renewals: list[tuple[int, int]] = []
        self._memory = memory
        self._recording = recording
        self._dispatcher = dispatcher
        self._records = records
        self._log = log
        self._queue_was_full = queue_was_full
        self._lost = lost

    def read(self) -> bool:
        """Take what training has written since the last call; return whether there was anything."""
        records = self.reader.read()
        for record in records:
            self._take(record)
        return bool(records)

    @property
    def is_read(self) -> bool:
        """Whether all is taken that is there, and every clip has a name that is to have one."""
        return self.reader.position == self.reader.head and self.namer.is_done

    def load_renewal(self, offset: int, nbytes: int) -> None:
        """Have clips of a stream that begin from now on drawn from what lies at a place of the shared memory."""
        source = decode(self._memory.view[offset : offset + nbytes], SourceDescription)
        self._recording.sources[source.key] = source
        self._recording.versions[source.stream] = source.version
        self.renewals.append((offset, nbytes))

    def end_all(self, last_step: int, ended: str | None) -> None:
        """End the clips that training did not end any more, and keep those about which it decides no more."""
        for work in list(self._recording.works.values()):
            work.progress.ended = ended
            if work.life.is_captured and not (work.is_ring and work.awaits_name):
                self._end(work, max(last_step, work.progress.start_step), ClipEnded())
            if work.life.wanted is Wanted.UNDECIDED:
                self._decide(work, stays=True)

    def _take(self, record: Record) -> None:
        try:
            self._perform(record)
        except (WorkerError, msgspec.MsgspecError, ValueError) as exc:
            # A record that makes no sense costs what it tells of, and not the recording.
            self._log.trouble("journal.misread", kind=type(exc).__name__, error=str(exc)[:500])

    def _perform(self, record: Record) -> None:
        match record.kind:
            case Kind.FRAME:
                self._capture(record)
            case Kind.FRAMES_DROPPED:
                self._count_dropped(record)
            case Kind.CLIP_BEGAN:
                self._begin(record, decode(record.text, ClipBegan))
            case Kind.CLIP_ENDED:
                work = self._recording.works.get(record.clip)
                if work and work.life.is_captured:
                    self._end(work, record.step, decode(record.text, ClipEnded))
            case Kind.CLIP_DECIDED:
                work = self._recording.works.get(record.clip)
                if work:
                    self._decide(work, stays=bool(record.pts))
            case Kind.STREAM_RENEWED:
                self.load_renewal(record.offset, record.nbytes)
                self._log_renewal()
            case Kind.TROUBLE:
                self._warn(decode(record.text, Trouble))
            case Kind.CLOSED:
                self.is_closed = True

    def _capture(self, record: Record) -> None:
        frame = Frame.of(record)
        outcome = self.outcomes.get(record.number)
        if outcome is not None:
            self._recording.settled_before(frame, None if outcome == ENCODED else CAUSES[outcome - 1])
        elif record.number < self.read_before:
            # Perhaps a worker had it: then it is in a segment that will be repaired, and no policy may drop it before.
            if self._recording.accept(frame):
                self._dispatcher.return_frame(frame)
        elif taken := self._recording.capture(frame):
            self._warn_of_full_queue(len(taken))

    def _count_dropped(self, record: Record) -> None:
        cause = CAUSES[record.height] if record.height < len(CAUSES) else DropCause.CAPTURE_FAILED
        self._recording.drop_range(record.clip, record.step, record.pts, record.width, cause)

    def _begin(self, record: Record, began: ClipBegan) -> None:
        if record.clip in self._recording.works:
            return  # A service before this one has told of it.
        kind = RingProgress if began.is_ring else ClipProgress
        source = self._recording.sources[began.stream, began.version]
        progress = kind(
            index=record.clip,
            name=began.name,
            stream=began.stream,
            backend=self._recording.drawn_by.get(began.stream, source.backend),
            start_step=began.start_step,
            frame_stride=began.frame_stride,
            fps=source.fps,
        )
        work = self._recording.begin(progress, version=began.version, is_undecided=began.is_undecided)
        self._dispatcher.assign(work)
        if not work.is_ring:
            self.namer.want_name(work)

    def _end(self, work: ClipWork, end_step: int, said: ClipEnded) -> None:
        progress = work.progress
        progress.end_step = end_step
        progress.has_failed |= said.has_failed
        if not isinstance(progress, RingProgress):
            work.life.on(Event.ENDS)
            self._records.note(work)  # For whoever repairs the clip, should this process die before it is encoded.
        elif said.seconds:
            progress.seconds, progress.name = said.seconds, said.name
            self.namer.want_name(work)
        else:
            work.life.wanted = Wanted.NO
            work.life.on(Event.ENDS)

    def _decide(self, work: ClipWork, *, stays: bool) -> None:
        work.life.on(Event.KEEP if stays else Event.DISCARD)
        self._recording.is_changed = True
        if work.life.phase in (Phase.CLOSED, Phase.DISCARDED):
            self._records.note(work)

    def _warn(self, trouble: Trouble) -> None:
        self._log.trouble(trouble.event, kind=trouble.kind, count=trouble.count, **trouble.facts)
        if trouble.event == "queue.full":
            self._queue_was_full()

    def _warn_of_full_queue(self, count: int) -> None:
        kind = DropCause.QUEUE_FULL
        self._log.trouble("queue.full", kind=kind, count=count, depth=self._recording.queue.depth)
        self._queue_was_full()
        self._lost("the frame queue was full")

    def _log_renewal(self) -> None:
        source = list(self._recording.sources.values())[-1]
        self._log.info("stream.renewed", stream=source.stream, source=source.details)
