"""The event loop's half of the path: frames to workers, reports to manifests and the log."""

from __future__ import annotations

import math
import pickle
import time
from collections import deque
from collections.abc import Iterator
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path

import anyio
import anyio.to_thread

from .clip import CaptureFormat, ClipHook, ClipState, DropCause, Frame, Segment
from .config import DropPolicy, RecorderConfig, WorkerPriority
from .doorbell import Doorbell, Pulse, Turns
from .encoders import protocol
from .encoders.manifest import prune_clips, reserve_name, write_manifest
from .encoders.worker_process import WorkerProcess
from .errors import CodecUnavailableError, OutputError, RecordingError, StepreelError, WorkerError
from .frame_pool import FramePool
from .ledger import ClipAccount, Ledger
from .pace import PaceKeeper
from .producer import ClipEnded, ClipOpened, News, Producer, Trouble
from .scheduling.frame_queue import FrameQueue, QueuedFrame
from .session import SessionLog
from .statistics import Timings

_TURN_S = 0.03
"""Time from one turn of the event loop to the next [s], while training goes on."""
_LEAST_CREDIT = 2
"""Frames that a worker is given at a time: the one it works on, and the next; more where it is soon done with them."""
_CREDIT_NBYTES = 24_000_000
_MOST_CREDIT = 64
_AVERAGED_FRAMES = 8
_STARVED = 3.0
"""Time that a frame takes, in units of the processor time in it, from which on a worker has too little of that."""
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


@dataclass(slots=True, kw_only=True)
class _ClipInWork:
    """A clip between its first frame and its last report."""

    account: ClipAccount
    is_ended: bool = False
    is_named: bool = False
    """It has a file name of its own."""
    is_begun: bool = False
    """The present worker has heard of it."""
    is_end_sent: bool = False
    losses: int = 0
    """Workers lost over this clip since it last had a frame encoded."""
    unsalvaged: str | None = None
    """The segment that a lost worker left open."""
    is_salvage_sent: bool = False
    given_up: DropCause | None = None
    """Why frames of this clip go to no worker any more."""

    @property
    def index(self) -> int:
        return self.account.request.clip_index


@dataclass(slots=True, kw_only=True)
class _Handed:
    """A frame that was handed to a worker; its slot is kept until the worker has reported it."""

    frame: QueuedFrame
    suspicion: int = 0
    """Workers that were lost while they worked on this frame."""


@dataclass(slots=True, kw_only=True)
class _Seat:
    """A place for one worker, and the clips that it has to do."""

    number: int
    clips: dict[int, _ClipInWork] = field(default_factory=dict)
    in_flight: deque[_Handed] = field(default_factory=deque)
    returned: deque[_Handed] = field(default_factory=deque)
    """What a lost worker had not reported, for the next one."""
    salvaged: dict[int, Segment] = field(default_factory=dict)
    bell: Pulse = field(default_factory=Pulse)
    """Beats when there may be something to do for a seat without a worker."""
    process: WorkerProcess | None = None
    is_ready: bool = False
    problem: str | None = None
    """Why the last worker did not get ready."""
    losses: int = 0
    """Workers lost since one last reported a frame."""
    heard_at: float = 0.0
    """When the worker last said something [s], monotonic."""
    silent_looks: int = 0
    """How often it was seen with a frame in work and nothing said since the look before."""
    frame_s: float = _TURN_S
    """What a frame takes the worker [s], a moving average."""

    @property
    def credit(self) -> int:
        """Frames that the worker should have in hand, to be busy until the turn after the next."""
        return _LEAST_CREDIT - 1 + math.ceil(2 * _TURN_S / max(self.frame_s, 1e-6))

    cpu_s: float = _TURN_S
    """The processor time in it."""

    @property
    def is_starved(self) -> bool:
        """Whether the worker gets far less processor time than its frames need."""
        waits_s = time.monotonic() - self.heard_at if self.in_flight else 0.0
        return max(self.frame_s, waits_s) > _STARVED * self.cpu_s

    def took(self, frame_s: float, cpu_s: float) -> None:
        """Take note of what a frame took the worker."""
        self.frame_s += (frame_s - self.frame_s) / _AVERAGED_FRAMES
        self.cpu_s += (cpu_s - self.cpu_s) / _AVERAGED_FRAMES


class Consumer:
    """Owns the workers and every task of the event loop.

    `run` must be running in a task while the other coroutines are awaited.
    """

    def __init__(
        self,
        config: RecorderConfig,
        folder: Path,
        capture_format: CaptureFormat,
        producer: Producer,
        *,
        fps: float,
        queue: FrameQueue,
        pool: FramePool,
        ledger: Ledger,
        doorbell: Doorbell,
        log: SessionLog,
        on_clip_closed: ClipHook | None,
        training_thread: int,
    ) -> None:
        self.renders = Timings()
        self.encodes = Timings()
        self.worker_restarts = 0
        self.codec: str | None = None
        self._config = config
        self._folder = folder
        self._format = capture_format
        self._fps = fps
        self._producer = producer
        self._queue = queue
        self._pool = pool
        self._ledger = ledger
        self._doorbell = doorbell
        self._log = log
        self._on_clip_closed = on_clip_closed
        self._training_thread = training_thread
        self._pace = PaceKeeper(folder, lambda: producer.step_count, log)
        self._seats = [_Seat(number=number) for number in range(config.worker_count)]
        self._clips: dict[int, _ClipInWork] = {}
        self._unrecorded: dict[int, ClipAccount] = {}
        self._records = log.appended
        self._progress = Pulse()
        self._closing = anyio.Event()
        self._crash: WorkerError | None = None
        self._is_stopped = False
        self._scope: anyio.CancelScope | None = None
        self._refusal: CodecUnavailableError | None = None
        self._may_raise = config.worker_priority is WorkerPriority.AUTO and capture_format.renderer is None
        self._sized = anyio.Event()
        # Where the training thread waits for room, every turn that the loop lets pass is the training's.
        self._turns = Turns(0.0 if config.drop_policy is DropPolicy.BLOCK else _TURN_S)

    async def run(self) -> None:
        """Do all the work, until `stop`; cancelling the caller's scope does not end it."""
        if self._is_stopped:
            return
        try:
            with anyio.CancelScope(shield=True) as self._scope:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(self._keep_records)
                    tasks.start_soon(self._take_news)
                    for seat in self._seats:
                        tasks.start_soon(self._serve, seat)
                    tasks.start_soon(self._watch_for_hangs)
                    tasks.start_soon(self._pace.run)
                    if not self._format.nbytes:
                        tasks.start_soon(self._populate)
        except Exception as exc:  # noqa: BLE001 - a fault in here must not end, or hang, the training.
            self._crash = WorkerError(f"the recorder itself failed: {exc!r}")
            self._crash.__cause__ = exc
            self._log.warning("recorder.failed", error=repr(exc))
            self._producer.stop_waiting()
            self._fail_if_strict(str(self._crash))
            self._progress.beat()

    async def wait_until_ready(self) -> StepreelError | None:
        """Return when the first worker is ready, or with why none is."""
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
        waiting = any(clip.is_ended or clip.account.pending for clip in self._clips.values())
        return not (waiting or self._producer.news or self._unrecorded or self._log.has_lines)

    def _drop_strays(self) -> None:
        """Drop what an interruption (Ctrl-C) of the training thread left between the schedule and the queue.

        Nothing is captured meanwhile: whoever waits here is the training thread, or has closed its half.
        """
        if self._producer.news:
            return
        dropped = 0
        for seat in self._seats:
            handed = {(one.frame.clip_index, one.frame.request.step) for one in (*seat.in_flight, *seat.returned)}
            for clip in seat.clips.values():
                known = {step for index, step in handed if index == clip.index}.union(self._queue.steps(clip.index))
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
                self._discard(seat, clip, DropCause.CLOSED)
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
            if self._crash:
                self._settle_without_workers()
                return
            self._log.flush_trouble()
            for clip in self._clips.values():
                clip.is_ended = True  # Whatever an interruption of the training thread kept from being told.
            while not (self.is_drained or self._crash):
                for seat in self._seats:
                    for clip in list(seat.clips.values()):
                        self._discard(seat, clip, DropCause.CLOSED)
                        clip.account.drop_pending(DropCause.CLOSED)
                        self._give_up(seat, clip, DropCause.CLOSED)
                await self._progress.wait()

    async def _end_workers(self) -> None:
        while not self._crash and (processes := [seat.process for seat in self._seats if seat.process]):
            for process in processes:
                process.end_commands()
            await self._progress.wait()

    def _settle_without_workers(self) -> None:
        for account in self._ledger.open_accounts:
            account.drop_pending(DropCause.CLOSED)
            self._ledger.close(account, self._folder)

    # The training thread's news

    async def _take_news(self) -> None:
        while True:
            await self._doorbell.wait()
            while self._producer.news:
                await self._hear(self._producer.news[0])
                self._producer.news.popleft()
            if self._producer.capture_nbytes:
                self._sized.set()
            self._ring_all()
            self._progress.beat()
            await self._turns.rest()

    async def _populate(self) -> None:
        """Fault the frame pool in, once the first capture tells how much of it is needed."""
        await self._sized.wait()
        for start in range(0, end := self._expected_nbytes(), _POPULATE_NBYTES):
            await anyio.to_thread.run_sync(self._pool.populate, min(start + _POPULATE_NBYTES, end), start)
            await anyio.sleep(_TURN_S / 4)

    async def _hear(self, news: News) -> None:
        match news:
            case ClipOpened(account=account):
                await self._open_clip(account)
            case ClipEnded(account=account):
                self._clips[account.request.clip_index].is_ended = True
                self._record(account)  # For whoever mends the clip, should the process die before it is encoded.
            case Trouble(event=event, kind=kind, count=count, facts=facts):
                self._log.trouble(event, kind=kind, count=count, **facts)
                if event == "capture.failed":
                    self._fail_if_strict(f"a capture failed: {facts.get('error', kind)}")
                elif event == "backend.failed":
                    self._fail_if_strict(f"the backend can't be closed: {facts.get('error', kind)}")
                elif event == "queue.full":
                    self._raise_starved()
                    self._fail_if_strict("the frame queue was full")

    async def _open_clip(self, account: ClipAccount) -> None:
        clip = self._clips[account.request.clip_index] = _ClipInWork(account=account)
        seat = min(self._seats, key=lambda one: len(one.clips))
        seat.clips[clip.index] = clip
        try:
            account.name = await anyio.to_thread.run_sync(reserve_name, self._folder, account.request.name)
        except OutputError as exc:
            clip.given_up = cause_of(exc)
            self._log.trouble("clip.unnamed", kind=type(exc).__name__, clip=account.name, error=str(exc))
            self._fail_if_strict(f"{account.name} can't be written: {exc}")
        else:
            clip.is_named = True
            self._log.info("clip.opened", clip=account.name, step=account.request.start_step)
            self._record(account)

    # The workers

    async def _serve(self, seat: _Seat) -> None:
        """Keep a worker running; after one that did not get ready, try again with the next clip."""
        while not self._closing.is_set():
            await self._employ(seat)
            if self._closing.is_set():
                return
            if seat.problem or (seat.losses >= _MOST_LOSSES and not seat.clips):
                await self._wait_for_next_clip(seat, DropCause.WORKER_LOST)
            else:
                await anyio.sleep(min(0.1 * seat.losses**2, _MOST_BACKOFF_S))

    async def _employ(self, seat: _Seat) -> None:
        """Start a worker, and talk to it until it ends."""
        seat.is_ready, seat.problem = False, None
        try:
            seat.process = await WorkerProcess.start(self._pool, self._format.worker_environment, self._training_thread)
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

    @staticmethod
    def _note_start(seat: _Seat, status: int, output: str) -> None:
        if not seat.is_ready and not seat.problem:
            seat.problem = f"the worker ended with status {status} before it was ready: {output}"

    async def _converse(self, seat: _Seat, process: WorkerProcess) -> tuple[int, str]:
        """Send and receive until the worker ends; return its exit status and last words."""
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(process.collect_diagnostics)
                tasks.start_soon(process.send_waiting)
                for command in self._opening_commands():
                    process.send_nowait(command)
                await self._receive_from(seat, process)
                tasks.cancel_scope.cancel()
        finally:
            status = await process.aclose()
        return status, process.diagnostics

    async def _wait_for_next_clip(self, seat: _Seat, cause: DropCause) -> None:
        present = set(seat.clips)
        while not self._closing.is_set() and set(seat.clips) <= present:
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

    def _dispatch(self, seat: _Seat) -> None:
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

    def _opening_commands(self) -> Iterator[protocol.Command]:
        config = self._config
        yield protocol.Configure(
            folder=str(self._folder),
            codec=config.codec,
            preset=config.preset,
            crf=config.crf,
            pix_fmt=config.pix_fmt,
            gop_s=config.gop_s,
            segment_s=config.segment_s,
            segment_bytes=config.segment_bytes,
            priority=config.worker_priority.value,
            render_duty=config.render_duty or (_SHARED_GPU_DUTY if self._format.shares_gpu else 1.0),
            min_free_bytes=config.min_free_bytes,
        )
        yield protocol.OpenStream(
            stream="default",
            width=self._format.width,
            height=self._format.height,
            fps=self._fps,
            payload=pickle.dumps(self._format.renderer) if self._format.renderer else b"",
        )

    def _next_commands(self, seat: _Seat) -> Iterator[protocol.Command]:
        """Decide what the worker hears next: clips that are named, frames while it has credit, ends of clips."""
        for clip in list(seat.clips.values()):
            if clip.given_up or clip.losses >= _MOST_LOSSES:
                self._give_up(seat, clip, clip.given_up or DropCause.WORKER_LOST)
            elif clip.unsalvaged and not clip.is_salvage_sent:
                clip.is_salvage_sent = True
                yield self._salvage(seat, clip, clip.unsalvaged)
            elif clip.is_named and not clip.is_begun and not clip.unsalvaged:
                clip.is_begun = True
                yield self._begin(clip)
        begun = {index for index, clip in seat.clips.items() if clip.is_begun}
        credit = min(seat.credit, most_credit(self._producer.capture_nbytes))
        while len(seat.in_flight) < credit and (handed := self._next_frame(seat, begun)):
            if not seat.in_flight:
                seat.heard_at, seat.silent_looks = time.monotonic(), 0
            seat.in_flight.append(handed)
            yield _encode(handed.frame)
        for clip in list(seat.clips.values()):
            if clip.is_begun and clip.is_ended and not clip.is_end_sent and self._is_all_sent(seat, clip):
                clip.is_end_sent = True
                yield _end(clip)

    def _next_frame(self, seat: _Seat, clips: set[int]) -> _Handed | None:
        for handed in seat.returned:
            if handed.frame.clip_index in clips:
                seat.returned.remove(handed)
                return handed
        frame = self._queue.get_nowait(clips)
        return _Handed(frame=frame) if frame else None

    def _is_all_sent(self, seat: _Seat, clip: _ClipInWork) -> bool:
        return not self._queue.waiting(clip.index) and clip.account.pending == sum(
            handed.frame.clip_index == clip.index for handed in seat.in_flight
        )

    def _begin(self, clip: _ClipInWork) -> protocol.BeginClip:
        account = clip.account
        return protocol.BeginClip(
            clip=clip.index,
            stream=account.request.stream,
            name=account.name,
            start_step=account.request.start_step,
            frame_stride=account.request.frame_stride,
            first_index=account.segments_opened,
        )

    def _salvage(self, seat: _Seat, clip: _ClipInWork, part: str) -> protocol.Salvage:
        returned = any(handed.frame.clip_index == clip.index for handed in seat.returned)
        waits = returned or self._queue.waiting(clip.index)
        goes_on = not clip.is_ended or waits or clip.account.segments_opened > 1
        final = part.removesuffix(".part") if goes_on else f"{clip.account.name}.mp4"
        return protocol.Salvage(clip=clip.index, part=part, final=final)

    async def _receive_from(self, seat: _Seat, process: WorkerProcess) -> None:
        try:
            async with aclosing(process.replies()) as replies:
                async for heard in replies:
                    seat.heard_at, seat.silent_looks = time.monotonic(), 0
                    for reply in heard:
                        self._take_reply(seat, process, reply)
                    self._dispatch(seat)
                    self._progress.beat()
                    await self._turns.rest()
        except WorkerError as exc:
            self._log.warning("worker.broke_protocol", worker=process.pid, error=str(exc))
            process.kill()

    def _take_reply(self, seat: _Seat, process: WorkerProcess, reply: protocol.Message) -> None:
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
                self._ledger.drawn_by(reply.renderer)
                self._log.info("renderer.opened", renderer=reply.renderer, open_s=round(reply.open_s, 3))
            case protocol.StreamFailed():
                self._log.warning("renderer.failed", error=reply.message)
                self._fail_if_strict(f"the renderer can't be opened: {reply.message}")
            case protocol.FrameDone():
                self._take_frame_done(seat, reply)
            case protocol.Salvaged():
                seat.salvaged[reply.clip] = reply.segment
            case _:
                self._take_clip_reply(seat, reply)

    def _take_clip_reply(self, seat: _Seat, reply: protocol.Message) -> None:
        match reply:
            case protocol.SegmentOpened():
                account = seat.clips[reply.clip].account
                account.width, account.height, account.codec = reply.width, reply.height, reply.codec
                account.segment_opened(reply.file)
                if reply.padded:
                    self._log.trouble("video.padded", kind=account.name, width=reply.width, height=reply.height)
                self._record(account)
            case protocol.SegmentClosed():
                account = seat.clips[reply.clip].account
                account.segment_closed(reply.segment)
                self._log.info(
                    "segment.closed", clip=account.name, file=reply.segment.file, frames=reply.segment.frames
                )
                self._record(account)
            case protocol.SegmentLost():
                self._take_segment_lost(seat, reply)
            case protocol.ClipDone():
                self._close_clip(seat, seat.clips[reply.clip])
            case _:
                raise WorkerError(f"a worker does not report {type(reply).__name__}")

    def _take_frame_done(self, seat: _Seat, reply: protocol.FrameDone) -> None:
        frame = seat.in_flight[0].frame if seat.in_flight else None
        if frame is None or (frame.clip_index, frame.request.step) != (reply.clip, reply.step):
            raise WorkerError(f"the worker reported step {reply.step}, which it was not working on")
        seat.in_flight.popleft()
        frame.slot.release()
        seat.losses = 0
        clip = seat.clips[reply.clip]
        if reply.cause:
            cause = DropCause(reply.cause)
            clip.account.frame_dropped(reply.step, cause)
            self._log.trouble("frame.dropped", kind=cause, clip=clip.account.name, error=reply.message)
            self._fail_if_strict(f"a frame was dropped, {cause}: {reply.message}")
        else:
            clip.losses = 0
            clip.account.frame_encoded(reply.step)
            self.encodes.add(reply.encode_s)
        if reply.render_s:
            self.renders.add(reply.render_s)
        seat.took(reply.render_s + reply.encode_s, reply.cpu_s)

    def _take_segment_lost(self, seat: _Seat, reply: protocol.SegmentLost) -> None:
        clip = seat.clips[reply.clip]
        clip.unsalvaged, clip.is_salvage_sent = None, False
        account = clip.account
        salvaged = seat.salvaged.pop(reply.clip, None)
        self._settle_returned(seat, clip, salvaged)
        lost = account.segment_lost(salvaged, DropCause(reply.cause), is_kept=reply.is_kept)
        file = salvaged.file if salvaged else None
        self._log.warning("segment.lost", clip=account.name, salvaged=file, frames_lost=lost, error=reply.message)
        self._fail_if_strict(f"a segment of {account.name} was lost: {reply.message or reply.cause}")
        self._record(account)

    def _account_for_loss(self, seat: _Seat) -> None:
        """Keep what a worker that ended had not reported, and have what it left on disk mended by the next one."""
        seat.losses += 1
        if seat.in_flight:
            seat.in_flight[0].suspicion += 1
            self._fail_if_strict("a worker was lost")
        seat.returned.extendleft(reversed(seat.in_flight))
        seat.in_flight.clear()
        seat.salvaged.clear()
        for clip in seat.clips.values():
            if clip.is_begun or clip.is_salvage_sent:
                clip.losses += 1
                clip.unsalvaged = clip.account.open_segment
                clip.is_begun = clip.is_end_sent = clip.is_salvage_sent = False
                if not clip.unsalvaged:
                    self._settle_returned(seat, clip, None)

    def _settle_returned(self, seat: _Seat, clip: _ClipInWork, salvaged: Segment | None) -> None:
        """Book the unreported frames that did get into a segment, and those that no worker survives."""
        for handed in [one for one in seat.returned if one.frame.clip_index == clip.index]:
            step = handed.frame.request.step
            if salvaged and step <= salvaged.last_step:
                clip.account.frame_encoded(step)
            elif handed.suspicion >= _MOST_SUSPICION:
                clip.account.frame_dropped(step, DropCause.WORKER_LOST)
            else:
                continue
            seat.returned.remove(handed)
            handed.frame.slot.release()

    def _give_up(self, seat: _Seat, clip: _ClipInWork, cause: DropCause) -> None:
        """Have no worker bother with a clip any more: what waits of it is dropped, now and as it comes."""
        clip.given_up = cause
        if clip.unsalvaged:
            clip.unsalvaged = None
            clip.account.segment_lost(None, cause, is_kept=True)
        self._discard(seat, clip, cause)
        if clip.is_ended and not clip.account.pending:
            self._close_clip(seat, clip)

    def _discard(self, seat: _Seat, clip: _ClipInWork, cause: DropCause) -> None:
        returned = [handed for handed in seat.returned if handed.frame.clip_index == clip.index]
        for handed in returned:
            seat.returned.remove(handed)
        for frame in [*(handed.frame for handed in returned), *self._queue.discard(clip.index)]:
            frame.slot.release()
            clip.account.frame_dropped(frame.request.step, cause)
        self._progress.beat()

    def _close_clip(self, seat: _Seat, clip: _ClipInWork) -> None:
        del seat.clips[clip.index]
        self._record(clip.account)
        clip.account.close()

    # The records

    def _record(self, account: ClipAccount) -> None:
        self._unrecorded[account.request.clip_index] = account
        self._records.beat()

    async def _keep_records(self) -> None:
        """Bring manifests and log lines to disk, on a thread of its own, the latest state of each clip only."""
        while True:
            while self._unrecorded or self._log.has_lines:
                while self._unrecorded:  # The oldest first: clips are as old as their manifests.
                    await self._write_manifest(self._unrecorded.pop(min(self._unrecorded)))
                await self._write_log()
            self._progress.beat()
            await self._records.wait()

    async def _write_manifest(self, account: ClipAccount) -> None:
        clip = account.to_clip()
        in_work = self._clips.get(account.request.clip_index)
        try:
            if in_work and in_work.is_named:
                await anyio.to_thread.run_sync(write_manifest, self._folder, clip)
        except OutputError as exc:
            self._log.trouble("manifest.failed", kind=type(exc).__name__, clip=clip.name, error=str(exc))
        if clip.state is not ClipState.RECORDING and in_work:
            await self._finish(account)

    async def _finish(self, account: ClipAccount) -> None:
        """Announce a clip whose last manifest is on disk."""
        clip = self._ledger.close(account, self._folder)
        del self._clips[account.request.clip_index]
        self._log.info(
            "clip.closed",
            clip=clip.name,
            state=clip.state,
            requested=clip.frames.requested,
            encoded=clip.frames.encoded,
            dropped={str(cause): count for cause, count in clip.frames.dropped.items()},
            files=[segment.file for segment in clip.segments],
        )
        if self._config.keep_last_n_clips:
            await self._prune(self._config.keep_last_n_clips)
        if self._on_clip_closed:
            try:
                self._on_clip_closed(clip)
            except Exception as exc:  # noqa: BLE001 - a caller's hook must not end the recording.
                self._log.warning("hook.failed", hook="on_clip_closed", error=repr(exc))

    async def _prune(self, keep: int) -> None:
        try:
            files = await anyio.to_thread.run_sync(prune_clips, self._folder, self._config.name_prefix, keep)
        except OutputError as exc:
            self._log.trouble("prune.failed", kind=type(exc).__name__, error=str(exc))
            return
        if files:
            self._log.info("clips.pruned", files=files)

    async def _write_log(self) -> None:
        try:
            await anyio.to_thread.run_sync(self._log.write_lines)
        except OSError as exc:
            self._log.trouble("log.not_written", kind=type(exc).__name__, error=str(exc))

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


def most_credit(capture_nbytes: int) -> int:
    """Return the most frames of one size that a worker is given at a time."""
    return max(_LEAST_CREDIT, min(_CREDIT_NBYTES // max(capture_nbytes, 1), _MOST_CREDIT))


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


def _end(clip: _ClipInWork) -> protocol.EndClip:
    request, end_step = clip.account.request, clip.account.end_step
    if end_step is None:
        raise StepreelError(f"{clip.account.name} has no end")
    return protocol.EndClip(clip=clip.index, end_pts=(end_step - request.start_step) // request.frame_stride + 1)
