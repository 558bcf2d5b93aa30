"""What workers report, and what it changes. A report of a clip that is no longer with the worker changes nothing."""

from __future__ import annotations

from collections.abc import Callable

from ..clip import DropCause
from ..encoders import protocol
from ..errors import WorkerError
from ..statistics import Timings
from .accounting import RingProgress
from .dispatcher import Dispatcher
from .recording import Recording
from .records import Records
from .session_log import SessionLog
from .work import ClipWork
from .worker_slot import WorkerSlot

Lost = Callable[[str], None]


class Reports:
    """Takes reports, one after the other. Belongs to the service's event loop.

    Attributes:
        codec: The encoder that works here, once it is known.
        renders: Durations of drawing a snapshot in a worker.
        encodes: Durations of encoding a frame.
        restarts: Workers that were replaced.
        lost: Called with why frames were lost.
    """

    def __init__(
        self, recording: Recording, dispatcher: Dispatcher, records: Records, log: SessionLog, lost: Lost
    ) -> None:
        self.codec: str | None = None
        self.renders = Timings()
        self.encodes = Timings()
        self.restarts = 0
        self.lost = lost
        self._recording = recording
        self._dispatcher = dispatcher
        self._records = records
        self._log = log

    def take(self, slot: WorkerSlot, pid: int, reply: protocol.Reply) -> None:
        """Take one report.

        Raises:
            WorkerError: the worker reports what it was not asked for.
        """
        match reply:
            case protocol.Ready():
                slot.is_ready = True
                self.codec = reply.codec or self.codec
                self._log.info("worker.ready", worker=pid, codec=reply.codec)
            case protocol.Refused():
                slot.problem, slot.is_codec_problem = reply.message, True
            case protocol.StreamOpened():
                slot.opening -= 1
                self._drawn_by(reply.stream, reply.renderer)
                self._log.info(
                    "renderer.opened", stream=reply.stream, renderer=reply.renderer, open_s=round(reply.open_s, 3)
                )
            case protocol.StreamFailed():
                slot.opening -= 1
                self._log.warning("renderer.failed", stream=reply.stream, error=reply.message)
                self.lost(f"the renderer can't be opened: {reply.message}")
            case protocol.FrameDone():
                self._frame_done(slot, reply)
            case _:
                work = slot.clips.get(reply.clip)
                if work:
                    self._take_of_clip(slot, work, reply)

    def _take_of_clip(self, slot: WorkerSlot, work: ClipWork, reply: protocol.Reply) -> None:
        progress = work.progress
        match reply:
            case protocol.Remuxed():
                slot.remuxed[work.index] = reply.segment
            case protocol.SegmentOpened():
                progress.width, progress.height, progress.codec = reply.width, reply.height, reply.codec
                progress.segment_opened(reply.file)
                self._recording.is_changed = True
                if reply.padded:
                    self._log.trouble("video.padded", kind=progress.name, width=reply.width, height=reply.height)
                self._records.note(work)
            case protocol.SegmentClosed():
                if reply.segment.frames > progress.open_count:
                    raise WorkerError(f"the worker closed {reply.segment.file}, and has not reported all frames in it")
                progress.segment_closed(reply.segment)
                self._recording.is_changed = True
                self._records.segment_closed(work, reply.segment)
            case protocol.RingSaved():
                self._ring_saved(work, reply)
            case protocol.SegmentLost():
                self._segment_lost(slot, work, reply)
            case protocol.ClipDone():
                if not work.is_end_sent or progress.pending:
                    raise WorkerError(f"the worker ended {progress.name}, and has not reported all of its frames")
                self._dispatcher.finish(slot, work)

    def _drawn_by(self, stream: str, renderer: str) -> None:
        """Note what really draws a stream, which is only known once a worker has opened it."""
        self._recording.drawn_by[stream] = renderer
        for work in self._recording.works.values():
            if work.progress.stream == stream:
                work.progress.backend = renderer

    def _frame_done(self, slot: WorkerSlot, reply: protocol.FrameDone) -> None:
        frame = slot.in_flight[0] if slot.in_flight else None
        if frame is None or (frame.clip, frame.step) != (reply.clip, reply.step):
            raise WorkerError(f"the worker reported step {reply.step}, which it was not working on")
        slot.in_flight.popleft()
        slot.losses = 0
        work = slot.clips.get(reply.clip)
        if reply.cause:
            self._recording.drop(frame, reply.cause)
            name = work.progress.name if work else ""
            self._log.trouble("frame.dropped", kind=reply.cause, clip=name, error=reply.message)
            self.lost(f"a frame was dropped, {reply.cause}: {reply.message}")
        else:
            if work:
                work.losses = 0
            self._recording.encoded(frame)
            self.encodes.add(reply.encode_s)
        if reply.render_s:
            self.renders.add(reply.render_s)
        slot.took(reply.render_s + reply.encode_s, reply.cpu_s)

    def _ring_saved(self, work: ClipWork, reply: protocol.RingSaved) -> None:
        progress = work.progress
        if not isinstance(progress, RingProgress):
            return
        if progress.is_saved or not work.is_end_sent:
            raise WorkerError("the worker wrote last seconds that it was not asked for")
        progress.saved(reply.steps, width=reply.width, height=reply.height, codec=reply.codec)
        if reply.cause:
            self._log.trouble("ring.not_saved", kind=reply.cause, clip=progress.name, error=reply.message)
            self.lost(f"{progress.name} can't be written: {reply.message}")

    def _segment_lost(self, slot: WorkerSlot, work: ClipWork, reply: protocol.SegmentLost) -> None:
        progress = work.progress
        work.is_repair_sent = False
        if work.unrepaired:
            del work.unrepaired[0]
        saved = slot.remuxed.pop(work.index, None)
        self._dispatcher.settle_returned(slot, work, saved)
        if work.unrepaired and saved:  # What it holds is known; the steps that are still open are in the others.
            progress.segment_closed(saved)
            progress.has_salvage = True
            lost = 0
        else:
            lost = progress.segment_lost(saved, reply.cause, is_kept=reply.is_kept)
        self._recording.is_changed = True
        file = saved.file if saved else None
        self._log.warning("segment.lost", clip=progress.name, salvaged=file, frames_lost=lost, error=reply.message)
        if lost or reply.cause is not DropCause.WORKER_LOST:
            self.lost(f"a segment of {progress.name} was lost: {reply.message or reply.cause}")
        self._records.note(work)
