"""The dispatcher: decides what each worker hears next, and what becomes of what a lost one had."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from ..clip import DropCause, Segment
from ..encoders import protocol
from ..transport.messages import ServiceDescription
from .accounting import RingProgress
from .lifecycle import Wanted
from .recording import Recording
from .session_log import SessionLog
from .snapshot_spool import SnapshotSpool
from .work import ClipWork, Frame
from .worker_slot import WorkerSlot, most_credit

_SHARED_GPU_DUTY = 0.05
"""Share of time spent drawing on the GPU that training computes on, unless the user says."""
_MOST_CRASHES = 2
"""Workers that one frame may lose before it is dropped."""
MOST_LOSSES = 3
"""Workers that one clip may lose before the rest of it is set aside."""


class Dispatcher:
    """Decides; sends nothing. Belongs to the service's event loop.

    Args:
        description: The recorder's settings.
        recording: Clips and frames.
        spool: Knows which frames are left to be drawn another day.
        log: The session's log.
        look_s: Time from one look at the journal to the next [s].
    """

    def __init__(
        self,
        description: ServiceDescription,
        recording: Recording,
        spool: SnapshotSpool,
        log: SessionLog,
        *,
        look_s: float,
    ) -> None:
        self.slots = [WorkerSlot() for _ in range(description.worker_count)]
        self._description = description
        self._recording = recording
        self._spool = spool
        self._log = log
        self._look_s = look_s

    def assign(self, work: ClipWork) -> None:
        """Give a clip to the worker that has least to do. A clip is never split: its segments are in order."""
        slot = min(self.slots, key=lambda one: (one.is_doubtful, len(one.clips)))
        slot.clips[work.index] = work

    def opening_commands(self, slot: WorkerSlot) -> Iterator[protocol.Command]:
        """Return what a worker hears first."""
        sources = [self._recording.sources[key] for key in self._recording.versions.items()]
        yield protocol.Configure(
            folder=self._description.path,
            priority=self._description.worker_priority,
            min_free_bytes=self._description.min_free_bytes,
            stream_count=len(sources),
        )
        for source in sources:
            yield self._open_stream(slot, source.key)

    def next_commands(self, slot: WorkerSlot) -> Iterator[protocol.Command]:
        """Return what a worker hears next: clips that have names, frames while it has credit, ends of clips."""
        for work in list(slot.clips.values()):
            yield from self._next_for_clip(slot, work)
        begun = {index: work for index, work in slot.clips.items() if work.is_begun}
        credit = min(slot.credit(self._look_s), most_credit(self._recording.capture_nbytes))
        while len(slot.in_flight) < credit and (frame := self._next_frame(slot, begun)):
            if not slot.in_flight:
                slot.heard()
            slot.in_flight.append(frame)
            yield _encode(frame)
            # Before the frames of other clips, whose segments would be open at the same time.
            yield from self._next_ends(slot, [slot.clips[frame.clip]])
        yield from self._next_ends(slot, list(slot.clips.values()))

    def give_up(self, slot: WorkerSlot, work: ClipWork, cause: DropCause) -> None:
        """Give a clip to no worker any more: what waits of it is dropped, now and as it comes."""
        work.given_up = cause
        if work.unrepaired:
            work.unrepaired = []
            work.progress.segment_lost(None, cause, is_kept=True)
        self._recording.discard_waiting(work, cause, slot.take_returned(work.index))
        if not (work.life.is_captured or work.progress.pending or work.awaits_name):
            self.finish(slot, work)

    def return_frame(self, frame: Frame) -> None:
        """Give a frame, that a service before this one had, to the worker of its clip."""
        slot = next((one for one in self.slots if frame.clip in one.clips), self.slots[0])
        slot.returned.append(frame)

    def drop_waiting(self) -> None:
        """Drop every frame that no worker has begun."""
        for slot in self.slots:
            for work in slot.clips.values():
                if not work.unrepaired:  # What a lost worker had may be in the segment that is being repaired.
                    self._recording.discard_waiting(work, DropCause.CLOSED, slot.take_returned(work.index))

    def finish(self, slot: WorkerSlot, work: ClipWork) -> None:
        """Take a clip from its worker: it is done with, or given up."""
        slot.clips.pop(work.index, None)
        self._recording.drain(work)

    def worker_lost(self, slot: WorkerSlot) -> bool:
        """Keep what a worker had not reported, and have what it left on disk repaired by the next one.

        Returns:
            Whether it had frames in hand.
        """
        slot.losses += 1
        slot.opening = 0
        culprit = None
        if slot.in_flight:
            slot.in_flight[0].crash_count += 1
            culprit = slot.in_flight[0].clip
        slot.returned.extendleft(reversed(slot.in_flight))
        slot.in_flight.clear()
        slot.remuxed.clear()
        for work in slot.clips.values():
            if work.is_begun or work.is_repair_sent:
                # A clip that only waited for another one's frame is not to blame.
                work.losses += work.is_repair_sent or culprit in (None, work.index)
                part = work.progress.open_segment
                if part and part not in work.unrepaired:
                    work.unrepaired.append(part)
                if not work.unrepaired:
                    self.settle_returned(slot, work, None)
            work.worker_lost()
        return culprit is not None

    def settle_returned(self, slot: WorkerSlot, work: ClipWork, saved: Segment | None) -> None:
        """Count the unreported frames that did get into a segment, and those that no worker survives."""
        for frame in slot.take_returned(work.index):
            if saved and frame.step <= saved.last_step:
                self._recording.encoded(frame)
            elif frame.crash_count >= _MOST_CRASHES:
                self._recording.drop(frame, DropCause.WORKER_LOST)
            else:
                slot.returned.append(frame)

    def _next_for_clip(self, slot: WorkerSlot, work: ClipWork) -> Iterator[protocol.Command]:
        if work.life.wanted is Wanted.NO and not work.is_ring:
            self._recording.discard_waiting(work, DropCause.DISCARDED, slot.take_returned(work.index))
            if not work.is_begun and not work.is_repair_sent:
                work.given_up = DropCause.DISCARDED
        if work.given_up or work.losses >= MOST_LOSSES:
            if not work.is_repair_sent:
                self.give_up(slot, work, work.given_up or DropCause.WORKER_LOST)
        elif work.unrepaired and not work.is_repair_sent:
            work.is_repair_sent = True
            yield self._remux(work)
        elif work.can_begin and not work.is_begun and not work.unrepaired:
            work.is_begun = True
            if work.source not in slot.opened:
                yield self._open_stream(slot, work.source)
            yield self._begin(work)

    def _next_ends(self, slot: WorkerSlot, works: Iterable[ClipWork]) -> Iterator[protocol.Command]:
        for work in works:
            if work.is_begun and not work.life.is_captured and not work.is_end_sent and self._is_all_sent(slot, work):
                work.is_end_sent = True
                yield self._end(work)

    def _next_frame(self, slot: WorkerSlot, begun: dict[int, ClipWork]) -> Frame | None:
        for frame in slot.returned:
            if frame.clip in begun:
                slot.returned.remove(frame)
                return frame
        return self._recording.take(begun)

    def _is_all_sent(self, slot: WorkerSlot, work: ClipWork) -> bool:
        in_hand = sum(frame.clip == work.index for frame in slot.in_flight)
        return work.progress.pending == in_hand

    def _open_stream(self, slot: WorkerSlot, key: tuple[str, int]) -> protocol.OpenStream:
        source = self._recording.sources[key]
        slot.opened.add(key)
        slot.opening += bool(source.renderer)
        duty = self._description.render_duty or (_SHARED_GPU_DUTY if source.shares_gpu else 1.0)
        return protocol.OpenStream(
            stream=source.stream,
            version=source.version,
            width=source.width,
            height=source.height,
            settings=source.settings,
            render_duty=duty,
            payload=source.renderer,
        )

    def _begin(self, work: ClipWork) -> protocol.BeginClip:
        progress = work.progress
        return protocol.BeginClip(
            clip=work.index,
            stream=progress.stream,
            version=work.version,
            name=progress.name,
            start_step=progress.start_step,
            frame_stride=progress.frame_stride,
            first_index=progress.segments_opened,
            ring_s=(self._description.ring_s or 0.0) if work.is_ring else 0.0,
            ring_nbytes=self._description.ring_bytes,
        )

    def _end(self, work: ClipWork) -> protocol.EndClip:
        progress = work.progress
        last = progress.start_step if progress.end_step is None else progress.end_step
        # The last frame leaves room for those that are left to be drawn another day.
        end_pts = 0 if self._spool.keeps(work) else max(last - progress.start_step, 0) // progress.frame_stride + 1
        seconds = progress.seconds if isinstance(progress, RingProgress) and progress.is_named else 0.0
        name = progress.name if seconds else ""
        return protocol.EndClip(clip=work.index, end_pts=end_pts, saved_as=name, seconds=seconds)

    def _remux(self, work: ClipWork) -> protocol.Remux:
        part, progress = work.unrepaired[0], work.progress
        goes_on = work.life.is_captured or progress.pending or progress.segments_opened > 1 or len(work.unrepaired) > 1
        final = part.removesuffix(".part") if goes_on else f"{progress.name}.mp4"
        return protocol.Remux(clip=work.index, part=part, final=final)


def _encode(frame: Frame) -> protocol.EncodeFrame:
    return protocol.EncodeFrame(
        clip=frame.clip,
        step=frame.step,
        pts=frame.pts,
        offset=frame.offset,
        nbytes=frame.nbytes,
        height=frame.height,
        width=frame.width,
    )
