"""The event loop's half of the path: frames to workers, reports to manifests and the log."""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterable, Iterator, Sequence
from contextlib import aclosing
from pathlib import Path

import anyio
import anyio.to_thread

from .clip import DropCause, Frame, Segment, Snapshot
from .config import DropPolicy, RecorderConfig, RenderTime, WorkerPriority
from .doorbell import Doorbell, Pulse, Turns
from .encoders import protocol
from .encoders.worker_process import WorkerProcess, WorkerSetup
from .errors import CodecUnavailableError, OutputError, RecordingError, StepreelError, WorkerError
from .finishing import FinishingProgress
from .frame_pool import FramePool
from .ledger import ClipAccount, Ledger, RingAccount
from .pace import PaceKeeper
from .producer import ClipEnded, ClipJudged, ClipOpened, News, Producer, StreamRenewed, Trouble
from .records import Hooks, Records
from .scheduling.frame_queue import FrameQueue, QueuedFrame
from .seats import TURN_S, ClipInWork, HandedFrame, Seat, Source, most_credit
from .session import SessionLog
from .snapshot_keeper import KEPT_CAUSES, SnapshotKeeper
from .statistics import Timings
from .storage.manifest import reserve_name
from .stream import Stream, worker_environment

_POPULATE_NBYTES = 8 << 20
"""Memory that is faulted in at a time, on a processor that training may want back."""
_SHARED_GPU_DUTY = 0.05
"""Share of time spent drawing on the GPU that training computes on, unless the user says."""
_START_TIMEOUT_S = 60.0
_END_TIMEOUT_S = 5.0
_MOST_BACKOFF_S = 5.0
_HANG_S = 300.0
"""Silence after which a worker with a frame in work is taken to hang: longer than a first frame's kernels compile."""
_HANG_LOOKS = 10
_MOST_SUSPICION = 2
"""Workers that one frame may lose before it is dropped."""
_MOST_LOSSES = 3
"""Workers that one clip may lose before the rest of it is set aside."""


class Consumer:
    """Owns the workers and every task of the event loop.

    `run` must be running in a task while the other coroutines are awaited.
    """

    def __init__(
        self,
        config: RecorderConfig,
        folder: Path,
        streams: Sequence[Stream],
        producer: Producer,
        *,
        queue: FrameQueue,
        pool: FramePool,
        ledger: Ledger,
        doorbell: Doorbell,
        log: SessionLog,
        hooks: Hooks,
        training_thread: int,
    ) -> None:
        self.renders = Timings()
        self.encodes = Timings()
        self.worker_restarts = 0
        self.codec: str | None = None
        self._config = config
        self._folder = folder
        self._sources = {
            one.name: Source(stream=one.name, version=one.version, format=one.format, fps=one.fps) for one in streams
        }
        self._environment = worker_environment(streams)
        self._producer = producer
        self._queue = queue
        self._pool = pool
        self._ledger = ledger
        self._doorbell = doorbell
        self._log = log
        self._training_thread = training_thread
        self.finishing = FinishingProgress(lambda: ledger.counts.pending, log)
        self._pace = PaceKeeper(folder, lambda: producer.step_count, log)
        self._seats = [Seat() for _ in range(config.worker_count)]
        self._clips: dict[int, ClipInWork] = {}
        self._clips_opened = 0
        self._progress = Pulse()
        # Where the training thread waits for room, every turn that the loop lets pass is the training's.
        self._turns = Turns(0.0 if config.drop_policy is DropPolicy.BLOCK else TURN_S)
        self._keeper = SnapshotKeeper(config, folder, log, wake=log.appended)
        self._records = Records(
            folder,
            ledger,
            log,
            hooks=hooks,
            keep_last_n_clips=config.keep_last_n_clips,
            prefixes={one.name: one.prefix for one in streams},
            settled=self._forget,
            progress=self._progress,
            turns=self._turns,
            keeper=self._keeper,
        )
        self._closing = anyio.Event()
        self._crash: WorkerError | None = None
        self._is_stopped = False
        self._scope: anyio.CancelScope | None = None
        self._refusal: CodecUnavailableError | None = None
        takes_pixels = any(one.format.renderer is None for one in streams)
        self._may_raise = config.worker_priority is WorkerPriority.AUTO and takes_pixels
        self._is_sized = all(one.format.nbytes for one in streams)
        self._sized = anyio.Event()

    async def run(self) -> None:
        """Do all the work, until `stop`; cancelling the caller's scope does not end it."""
        if self._is_stopped:
            return
        try:
            with anyio.CancelScope(shield=True) as self._scope:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(self._records.keep)
                    tasks.start_soon(self._take_news)
                    for seat in self._seats:
                        tasks.start_soon(self._serve, seat)
                    tasks.start_soon(self._watch_for_hangs)
                    tasks.start_soon(self._pace.run)
                    tasks.start_soon(self.finishing.run)
                    if not self._is_sized:
                        tasks.start_soon(self._populate)
        except Exception as exc:  # noqa: BLE001 - a fault in here must not end, or hang, the training.
            self._crash = WorkerError(f"the recorder itself failed: {exc!r}")
            self._crash.__cause__ = exc
            self._log.warning("recorder.failed", error=repr(exc))
            self._producer.stop_waiting()
            self._fail_if_strict(str(self._crash))
            self._progress.beat()

    async def wait_until_ready(self) -> StepreelError | None:
        """Return when the first worker is ready, or with why none is; at once where none is wanted."""
        if self._config.render is RenderTime.LATER:
            return self._crash
        with anyio.move_on_after(_START_TIMEOUT_S):
            while not (self._crash or any(seat.is_ready or seat.problem for seat in self._seats)):
                await self._progress.wait()
        if self._crash:
            return self._crash
        if any(seat.is_ready for seat in self._seats):
            return None
        problem = next((seat.problem for seat in self._seats if seat.problem), None)
        return self._refusal or WorkerError(problem or f"no worker was ready within {_START_TIMEOUT_S:g} s")

    def stop(self) -> None:
        """End `run`; call `aclose` first."""
        self._is_stopped = True
        if self._scope:
            self._scope.cancel()

    async def drain(self) -> None:
        """Wait until every frame that was captured so far is accounted for, and every ended clip is closed."""
        with self._turns.hurry():
            while not (self.is_drained or self._crash):
                self._drop_strays()
                await self._progress.wait()

    @property
    def is_drained(self) -> bool:
        """Whether `drain` would return at once."""
        waiting = any(
            (clip.is_ended or clip.account.pending) and not self._records.holds(clip.account)
            for clip in self._clips.values()
        )
        return self._records.are_written and not (waiting or self._producer.news)

    def _drop_strays(self) -> None:
        """Drop what an interruption (Ctrl-C) of the training thread left between the schedule and the queue.

        Nothing is captured meanwhile: whoever waits here is the training thread, or has closed its half.
        """
        if self._producer.news:
            return
        dropped = 0
        for seat in self._seats:
            for clip in seat.clips.values():
                known = {one.frame.request.step for one in seat.handed(clip)}.union(self._queue.steps(clip.index))
                dropped += clip.account.drop_pending(DropCause.CLOSED, but=known)
        if dropped:
            self._ring_all()

    async def progressed(self) -> None:
        """Wait until something was taken out of the queue, or reported."""
        await self._progress.wait()

    def discard(self) -> None:
        """Drop every frame that no worker has begun."""
        for seat in self._seats:
            for clip in seat.clips.values():
                self._discard(seat, clip, clip.given_up or DropCause.CLOSED)
        self._ring_all()

    async def aclose(self) -> None:
        """End the workers and settle what is left; call `drain` first to lose nothing.

        What a worker holds of a clip in work is closed as far as it came.
        """
        with anyio.CancelScope(shield=True), self._turns.hurry():
            self._closing.set()
            self._ring_all()
            with anyio.move_on_after(_END_TIMEOUT_S):
                await self._end_workers()
            for seat in self._seats:
                if seat.process:
                    seat.process.kill()
            await self._end_workers()
            self._doorbell.ring()  # An interruption may have come between news and its ring.
            while self._producer.news and not self._crash:
                await self._progress.wait()
            if self._crash:
                self._settle_without_workers()
                return
            self._log.flush_trouble()
            for account in self._ledger.open_accounts:
                await self._open_untold(account)
            for clip in self._clips.values():
                clip.is_ended = True  # Whatever an interruption of the training thread kept from being told.
                if isinstance(clip.account, RingAccount) and not clip.account.seconds:
                    clip.account.is_unwanted = True
                if clip.account.is_undecided:
                    clip.account.is_undecided = False
                    self._records.note(clip.account)
            while not (self.is_drained or self._crash):
                for seat in self._seats:
                    for clip in list(seat.clips.values()):
                        cause = clip.given_up or DropCause.CLOSED
                        self._discard(seat, clip, cause)
                        clip.account.drop_pending(DropCause.CLOSED)
                        self._give_up(seat, clip, cause)
                await self._progress.wait()

    async def _end_workers(self) -> None:
        while not self._crash and (processes := [seat.process for seat in self._seats if seat.process]):
            for process in processes:
                process.end_commands()
            await self._progress.wait()

    def _settle_without_workers(self) -> None:
        for account in self._ledger.open_accounts:
            account.drop_pending(DropCause.CLOSED)
            self._ledger.close(account)

    def _forget(self, account: ClipAccount) -> None:
        del self._clips[account.request.clip_index]

    # The training thread's news

    async def _take_news(self) -> None:
        while True:
            await self._doorbell.wait()
            await self._turns.rest()  # Not at once: who rings gave up the GIL for it, and wants it back.
            while self._producer.news:
                await self._hear(self._producer.news[0])
                self._producer.news.popleft()
            if self._producer.capture_nbytes:
                self._sized.set()
            self._ring_all()
            self._progress.beat()

    async def _populate(self) -> None:
        """Fault the frame pool in, once the first capture tells how much of it is needed."""
        await self._sized.wait()
        for start in range(0, end := self._expected_nbytes(), _POPULATE_NBYTES):
            await anyio.to_thread.run_sync(self._pool.populate, min(start + _POPULATE_NBYTES, end), start)
            await anyio.sleep(TURN_S / 4)

    async def _hear(self, news: News) -> None:
        match news:
            case StreamRenewed():
                self._renew_source(news)
            case ClipOpened(account=account):
                await self._open_untold(account)  # Whoever closes may have opened it before the news was heard.
            case ClipEnded(account=account):
                await self._end_clip(account)
            case ClipJudged(account=account):
                self._records.note(account)
            case Trouble(event=event, kind=kind, count=count, facts=facts):
                self._log.trouble(event, kind=kind, count=count, **facts)
                if event == "capture.failed":
                    self._fail_if_strict(f"a capture failed: {facts.get('error', kind)}")
                elif event == "backend.failed":
                    self._fail_if_strict(f"the backend can't be closed: {facts.get('error', kind)}")
                elif event == "queue.full":
                    self._raise_starved()
                    self._fail_if_strict("the frame queue was full")

    async def _open_untold(self, account: ClipAccount) -> None:
        """Open a clip whose opening was not told: an interruption (Ctrl-C) came between its books and the news."""
        if account.request.clip_index not in self._clips and self._ledger.account(account.request.clip_index):
            await self._open_clip(account)

    def _renew_source(self, news: StreamRenewed) -> None:
        """Have clips of a stream that open from now on drawn from what its backend says now."""
        fps = self._sources[news.stream].fps
        source = Source(stream=news.stream, version=news.version, format=news.format, fps=fps)
        self._sources[news.stream] = source
        self._log.info("stream.renewed", stream=news.stream, source=dict(news.format.details))

    async def _open_clip(self, account: ClipAccount) -> None:
        clip = ClipInWork(account=account, source=self._sources[account.request.stream])
        self._clips[clip.index] = clip
        self._clips_opened += 1
        seat = min(self._seats, key=lambda one: (one.is_doubtful, len(one.clips)))
        seat.clips[clip.index] = clip
        if not account.request.is_ring:
            await self._name_clip(clip)

    async def _end_clip(self, account: ClipAccount) -> None:
        await self._open_untold(account)
        clip = self._clips[account.request.clip_index]
        if not isinstance(account, RingAccount):
            self._records.note(account)  # For whoever mends the clip, should the process die before it is encoded.
        elif account.seconds:
            await self._name_clip(clip)
        clip.is_ended = True

    async def _name_clip(self, clip: ClipInWork) -> None:
        """Take a file name for a clip that no other has."""
        account = clip.account
        try:
            account.name = await anyio.to_thread.run_sync(reserve_name, self._folder, account.name)
        except OutputError as exc:
            clip.given_up = cause_of(exc)
            self._log.trouble("clip.unnamed", kind=type(exc).__name__, clip=account.name, error=str(exc))
            self._fail_if_strict(f"{account.name} can't be written: {exc}")
        else:
            account.is_named = True
            self._log.info("clip.opened", clip=account.name, step=account.request.start_step)
            self._records.note(account)

    # The workers

    async def _serve(self, seat: Seat) -> None:
        """Keep a worker running; after one that did not get ready, try again with the next clip."""
        while self._config.render is RenderTime.LATER and not self._closing.is_set():
            await self._wait_for_next_clip(seat, DropCause.NOT_RENDERED)
        while not self._closing.is_set():
            await self._employ(seat)
            if self._closing.is_set():
                return
            if seat.problem or (seat.losses >= _MOST_LOSSES and not seat.clips):
                await self._wait_for_next_clip(seat, DropCause.WORKER_LOST)
            else:
                await anyio.sleep(min(0.1 * seat.losses**2, _MOST_BACKOFF_S))

    async def _employ(self, seat: Seat) -> None:
        """Start a worker, and talk to it until it ends."""
        seat.is_ready, seat.problem = False, None
        seat.opened.clear()
        try:
            seat.process = await WorkerProcess.start(self._worker_setup())
        except WorkerError as exc:
            seat.problem = str(exc)
            self._log.warning("worker.lost", status=None, problem=seat.problem, output="")
        else:
            status, output = await self._converse(seat, seat.process)
            self._note_start(seat, status, output)
            if not self._closing.is_set():
                self._log.warning("worker.lost", status=status, problem=seat.problem, output=output)
                self.worker_restarts += 1
        self._account_for_loss(seat)
        seat.process, seat.is_ready = None, False
        self._progress.beat()

    def _worker_setup(self) -> WorkerSetup:
        return WorkerSetup(
            memory_fd=self._pool.fd,
            memory_nbytes=self._pool.mapped_nbytes,
            training_process=os.getpid(),
            training_thread=self._training_thread,
            environment=self._environment,
        )

    @staticmethod
    def _note_start(seat: Seat, status: int, output: str) -> None:
        if not seat.is_ready and not seat.problem:
            seat.problem = f"the worker ended with status {status} before it was ready: {output}"

    async def _converse(self, seat: Seat, process: WorkerProcess) -> tuple[int, str]:
        """Send and receive until the worker ends; return its exit status and last words."""
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(process.collect_diagnostics)
                tasks.start_soon(process.send_waiting)
                for command in self._opening_commands(seat):
                    process.send_nowait(command)
                await self._receive_from(seat, process)
                tasks.cancel_scope.cancel()
        finally:
            status = await process.aclose()
        return status, process.diagnostics

    async def _wait_for_next_clip(self, seat: Seat, cause: DropCause) -> None:
        """Have clips recorded by others, if there are any, until one more was opened: then a worker is tried again."""
        seen = self._clips_opened
        while not self._closing.is_set() and self._clips_opened == seen:
            for clip in list(seat.clips.values()):
                self._give_up(seat, clip, cause)
            await seat.bell.wait()

    async def _watch_for_hangs(self) -> None:
        """End a worker that has had a frame for very long without a word; it is then replaced like any other.

        Time is counted in looks: on the clock, one look after both processes were suspended would find it late.
        """
        while True:
            await anyio.sleep(_HANG_S / _HANG_LOOKS)
            for seat in self._seats:
                seat.silent_looks = seat.silent_looks + 1 if seat.in_flight else 0
                if seat.process and seat.silent_looks > _HANG_LOOKS:
                    seat.process.kill()

    def _dispatch(self, seat: Seat) -> None:
        """Send a worker what it may hear now."""
        if seat.process and seat.is_ready and not self._closing.is_set():
            for command in self._next_commands(seat):
                seat.process.send_nowait(command)

    def _raise_starved(self) -> None:
        """Let workers of priority "auto" have a share of a busy machine: pixels lose frames where snapshots wait."""
        starved = [seat for seat in self._seats if seat.is_ready and seat.is_starved]
        if self._may_raise and starved:
            self._may_raise = False
            self._pool.raise_workers()
            self._log.info("worker.raised", priority=WorkerPriority.LOW, frame_s=round(starved[0].frame_s, 3))

    def _opening_commands(self, seat: Seat) -> Iterator[protocol.Command]:
        config = self._config
        yield protocol.Configure(
            folder=self._folder,
            priority=config.worker_priority,
            min_free_bytes=config.min_free_bytes,
            stream_count=len(self._sources),
        )
        for source in self._sources.values():
            yield self._open_stream(seat, source)

    def _open_stream(self, seat: Seat, source: Source) -> protocol.OpenStream:
        seat.opened.add(source.key)
        return protocol.OpenStream(
            stream=source.stream,
            version=source.version,
            width=source.format.width,
            height=source.format.height,
            settings=self._config.encode_settings(fps=source.fps),
            render_duty=self._config.render_duty or (_SHARED_GPU_DUTY if source.format.shares_gpu else 1.0),
            payload=pickle.dumps(source.format.renderer) if source.format.renderer else b"",
        )

    def _next_commands(self, seat: Seat) -> Iterator[protocol.Command]:
        """Decide what the worker hears next: clips that are named, frames while it has credit, ends of clips."""
        for clip in list(seat.clips.values()):
            if clip.account.is_unwanted:
                self._discard(seat, clip, DropCause.DISCARDED)
                if not clip.is_begun:
                    clip.given_up = DropCause.DISCARDED
            if clip.given_up or clip.losses >= _MOST_LOSSES:
                self._give_up(seat, clip, clip.given_up or DropCause.WORKER_LOST)
            elif clip.unsalvaged and not clip.is_salvage_sent:
                clip.is_salvage_sent = True
                yield self._salvage(clip, clip.unsalvaged)
            elif clip.can_begin and not clip.is_begun and not clip.unsalvaged:
                clip.is_begun = True
                if clip.source.key not in seat.opened:
                    yield self._open_stream(seat, clip.source)
                yield self._begin(clip)
        begun = {index for index, clip in seat.clips.items() if clip.is_begun}
        credit = min(seat.credit, most_credit(self._producer.capture_nbytes))
        while len(seat.in_flight) < credit and (handed := self._next_frame(seat, begun)):
            if not seat.in_flight:
                seat.heard()
            seat.in_flight.append(handed)
            yield _encode(handed.frame)
            # Before the frames of other clips, whose segments would be open at the same time.
            yield from self._next_ends(seat, [seat.clips[handed.frame.clip_index]])
        yield from self._next_ends(seat, list(seat.clips.values()))

    def _next_ends(self, seat: Seat, clips: Iterable[ClipInWork]) -> Iterator[protocol.Command]:
        for clip in clips:
            if clip.is_begun and clip.is_ended and not clip.is_end_sent and self._is_all_sent(seat, clip):
                clip.is_end_sent = True
                yield _end(clip)

    def _next_frame(self, seat: Seat, clips: set[int]) -> HandedFrame | None:
        for handed in seat.returned:
            if handed.frame.clip_index in clips:
                seat.returned.remove(handed)
                return handed
        # A worker that has something in hand will report it: the next look is then.
        frame = self._queue.get_nowait(clips, waits=not seat.in_flight)
        return HandedFrame(frame=frame) if frame else None

    def _is_all_sent(self, seat: Seat, clip: ClipInWork) -> bool:
        return not self._queue.waiting(clip.index) and clip.account.pending == sum(
            handed.frame.clip_index == clip.index for handed in seat.in_flight
        )

    def _begin(self, clip: ClipInWork) -> protocol.BeginClip:
        account = clip.account
        return protocol.BeginClip(
            clip=clip.index,
            stream=clip.source.stream,
            version=clip.source.version,
            name=account.name,
            start_step=account.request.start_step,
            frame_stride=account.request.frame_stride,
            first_index=account.segments_opened,
            ring_s=(self._config.ring_s or 0.0) if account.request.is_ring else 0.0,
            ring_nbytes=self._config.ring_bytes,
        )

    def _salvage(self, clip: ClipInWork, part: str) -> protocol.Remux:
        # The books know of the end before the news of it is heard.
        account = clip.account
        goes_on = account.end_step is None or account.pending or account.segments_opened > 1
        final = part.removesuffix(".part") if goes_on else f"{account.name}.mp4"
        return protocol.Remux(clip=clip.index, part=part, final=final)

    async def _receive_from(self, seat: Seat, process: WorkerProcess) -> None:
        try:
            async with aclosing(process.replies()) as replies:
                async for heard in replies:
                    seat.heard()
                    for reply in heard:
                        self._take_reply(seat, process, reply)
                    self._dispatch(seat)
                    self._progress.beat()
                    await self._turns.rest()
        except WorkerError as exc:
            self._log.warning("worker.broke_protocol", worker=process.pid, error=str(exc))
            process.kill()

    def _take_reply(self, seat: Seat, process: WorkerProcess, reply: protocol.Reply) -> None:
        match reply:
            case protocol.Ready():
                seat.is_ready = True
                self.codec = reply.codec or self.codec
                self._log.info("worker.ready", worker=process.pid, codec=reply.codec)
            case protocol.Refused():
                seat.problem = reply.message
                self._refusal = CodecUnavailableError(reply.message)
                process.end_commands()
            case protocol.StreamOpened():
                self._ledger.drawn_by(reply.stream, reply.renderer)
                self._log.info(
                    "renderer.opened", stream=reply.stream, renderer=reply.renderer, open_s=round(reply.open_s, 3)
                )
            case protocol.StreamFailed():
                self._log.warning("renderer.failed", stream=reply.stream, error=reply.message)
                self._fail_if_strict(f"the renderer can't be opened: {reply.message}")
            case protocol.FrameDone():
                self._take_frame_done(seat, reply)
            case protocol.Remuxed():
                seat.salvaged[reply.clip] = reply.segment
            case _:
                self._take_clip_reply(seat, reply)

    def _take_clip_reply(self, seat: Seat, reply: protocol.Reply) -> None:
        match reply:
            case protocol.SegmentOpened():
                account = seat.clips[reply.clip].account
                account.width, account.height, account.codec = reply.width, reply.height, reply.codec
                account.segment_opened(reply.file)
                if reply.padded:
                    self._log.trouble("video.padded", kind=account.name, width=reply.width, height=reply.height)
                self._records.note(account)
            case protocol.SegmentClosed():
                account = seat.clips[reply.clip].account
                account.segment_closed(reply.segment)
                self._records.segment_closed(account, reply.segment)
            case protocol.RingSaved():
                self._take_ring_saved(seat.clips[reply.clip], reply)
            case protocol.SegmentLost():
                self._take_segment_lost(seat, reply)
            case protocol.ClipDone():
                self._close_clip(seat, seat.clips[reply.clip])
            case _:
                raise WorkerError(f"a worker does not report {type(reply).__name__}")

    def _take_ring_saved(self, clip: ClipInWork, reply: protocol.RingSaved) -> None:
        if not isinstance(clip.account, RingAccount):
            raise WorkerError(f"the worker held nothing of {clip.account.name}")
        clip.account.saved(reply.steps, width=reply.width, height=reply.height, codec=reply.codec)
        if reply.cause:
            self._log.trouble("ring.not_saved", kind=reply.cause, clip=clip.account.name, error=reply.message)
            self._fail_if_strict(f"{clip.account.name} can't be written: {reply.message}")

    def _take_frame_done(self, seat: Seat, reply: protocol.FrameDone) -> None:
        frame = seat.in_flight[0].frame if seat.in_flight else None
        if frame is None or (frame.clip_index, frame.request.step) != (reply.clip, reply.step):
            raise WorkerError(f"the worker reported step {reply.step}, which it was not working on")
        seat.in_flight.popleft()
        seat.losses = 0
        clip = seat.clips[reply.clip]
        if reply.cause:
            cause = DropCause(reply.cause)
            self._drop(clip, frame, cause)
            self._log.trouble("frame.dropped", kind=cause, clip=clip.account.name, error=reply.message)
            self._fail_if_strict(f"a frame was dropped, {cause}: {reply.message}")
        else:
            clip.losses = 0
            clip.account.frame_encoded(reply.step)
            frame.slot.release()
            self.encodes.add(reply.encode_s)
        if reply.render_s:
            self.renders.add(reply.render_s)
        seat.took(reply.render_s + reply.encode_s, reply.cpu_s)

    def _take_segment_lost(self, seat: Seat, reply: protocol.SegmentLost) -> None:
        clip = seat.clips[reply.clip]
        clip.unsalvaged, clip.is_salvage_sent = None, False
        account = clip.account
        salvaged = seat.salvaged.pop(reply.clip, None)
        self._settle_returned(seat, clip, salvaged)
        lost = account.segment_lost(salvaged, DropCause(reply.cause), is_kept=reply.is_kept)
        file = salvaged.file if salvaged else None
        self._log.warning("segment.lost", clip=account.name, salvaged=file, frames_lost=lost, error=reply.message)
        self._fail_if_strict(f"a segment of {account.name} was lost: {reply.message or reply.cause}")
        self._records.note(account)

    def _account_for_loss(self, seat: Seat) -> None:
        """Keep what a worker that ended had not reported, and have what it left on disk mended by the next one."""
        seat.losses += 1
        culprit = None
        if seat.in_flight:
            seat.in_flight[0].suspicion += 1
            culprit = seat.in_flight[0].frame.clip_index
            self._fail_if_strict("a worker was lost")
        seat.returned.extendleft(reversed(seat.in_flight))
        seat.in_flight.clear()
        seat.salvaged.clear()
        for clip in seat.clips.values():
            if clip.is_begun or clip.is_salvage_sent:
                # A clip that only waited for another one's frame is not to blame.
                clip.losses += clip.is_salvage_sent or culprit in (None, clip.index)
                clip.unsalvaged = clip.account.open_segment
                clip.is_begun = clip.is_end_sent = clip.is_salvage_sent = False
                if not clip.unsalvaged:
                    self._settle_returned(seat, clip, None)

    def _settle_returned(self, seat: Seat, clip: ClipInWork, salvaged: Segment | None) -> None:
        """Book the unreported frames that did get into a segment, and those that no worker survives."""
        for handed in [one for one in seat.returned if one.frame.clip_index == clip.index]:
            step = handed.frame.request.step
            if salvaged and step <= salvaged.last_step:
                clip.account.frame_encoded(step)
                handed.frame.slot.release()
            elif handed.suspicion >= _MOST_SUSPICION:
                self._drop(clip, handed.frame, DropCause.WORKER_LOST)
            else:
                continue
            seat.returned.remove(handed)

    def _give_up(self, seat: Seat, clip: ClipInWork, cause: DropCause) -> None:
        """Have no worker bother with a clip any more: what waits of it is dropped, now and as it comes."""
        clip.given_up = cause
        if clip.unsalvaged:
            clip.unsalvaged = None
            clip.account.segment_lost(None, cause, is_kept=True)
        self._discard(seat, clip, cause)
        if clip.is_ended and not clip.account.pending:
            self._close_clip(seat, clip)

    def _discard(self, seat: Seat, clip: ClipInWork, cause: DropCause) -> None:
        returned = [handed.frame for handed in seat.take_returned(clip)]
        for frame in [*returned, *self._queue.discard(clip.index)]:
            self._drop(clip, frame, cause)
        self._progress.beat()

    def _drop(self, clip: ClipInWork, frame: QueuedFrame, cause: DropCause) -> None:
        """Book a captured frame as dropped; its snapshot may be kept."""
        if cause in KEPT_CAUSES and isinstance(frame.capture, Snapshot):
            self._keeper.offer(clip, frame.request.step, frame.slot.array(frame.nbytes))
        frame.slot.release()
        clip.account.frame_dropped(frame.request.step, cause)

    def _close_clip(self, seat: Seat, clip: ClipInWork) -> None:
        del seat.clips[clip.index]
        self._records.note(clip.account)
        clip.account.close()

    def _fail_if_strict(self, reason: str) -> None:
        if self._config.strict:
            self._producer.fail(RecordingError(f"{reason} (strict=True)"))

    def _expected_nbytes(self) -> int:
        return populated_nbytes(self._config, self._producer.capture_nbytes)

    def _ring_all(self) -> None:
        for seat in self._seats:
            self._dispatch(seat)
            seat.bell.beat()


def cause_of(exc: OutputError) -> DropCause:
    """Return why frames are lost when a file can't be made."""
    return DropCause.of_write_error(exc.__cause__) if isinstance(exc.__cause__, OSError) else DropCause.ENCODE_FAILED


def populated_nbytes(config: RecorderConfig, capture_nbytes: int) -> int:
    """Return how much of the frame pool captures of one size can use [bytes]."""
    aligned = -(-capture_nbytes // 4096) * 4096
    in_hand = (most_credit(capture_nbytes) * config.worker_count + 2) * aligned
    return min(config.queue_depth * aligned, config.queue_bytes) + in_hand


def _encode(frame: QueuedFrame) -> protocol.EncodeFrame:
    pixels = frame.capture if isinstance(frame.capture, Frame) else None
    return protocol.EncodeFrame(
        clip=frame.clip_index,
        step=frame.request.step,
        pts=frame.request.pts,
        offset=frame.slot.offset,
        nbytes=frame.nbytes,
        height=pixels.height if pixels else 0,
        width=pixels.width if pixels else 0,
    )


def _end(clip: ClipInWork) -> protocol.EndClip:
    request, end_step = clip.account.request, clip.account.end_step
    if end_step is None:
        raise StepreelError(f"{clip.account.name} has no end")
    # The last frame leaves room for those that are kept to be drawn later.
    end_pts = 0 if clip.account.kept else (end_step - request.start_step) // request.frame_stride + 1
    account = clip.account
    seconds = account.seconds if isinstance(account, RingAccount) and account.is_named else 0.0
    return protocol.EndClip(clip=clip.index, end_pts=end_pts, saved_as=account.name if seconds else "", seconds=seconds)
