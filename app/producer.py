"""The training thread's half of the path: schedule, lease, capture, put."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from .clip import CaptureRequest, ClipRequest, DropCause, Frame, Snapshot
from .config import DropPolicy, Episode, RecorderConfig
from .doorbell import Doorbell
from .errors import ConfigurationError, RecorderClosedError, RecordingError, SourceChangedError
from .frame_pool import FramePool, PoolSlot
from .interfaces import CaptureFormat, PendingSnapshot, ReportingBackend
from .ledger import ClipAccount, Ledger, RingAccount
from .scheduling.frame_queue import FrameQueue, QueuedFrame
from .scheduling.keeping import Keeping, Verdict
from .scheduling.schedule import Action, BeginClip, Capture, ClipSchedule, EndClip
from .statistics import Timings
from .stream import Stream, stream_of

_TROUBLE_INTERVAL_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipOpened:
    """For the event loop: frames of a new clip follow."""

    account: ClipAccount


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipEnded:
    """For the event loop: no frame of this clip follows."""

    account: ClipAccount


@dataclass(frozen=True, slots=True, kw_only=True)
class Trouble:
    """For the event loop: something to log."""

    event: str
    kind: str
    count: int
    facts: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamRenewed:
    """For the event loop: clips of this stream that open from now on are captured, and drawn, otherwise."""

    stream: str
    version: int
    format: CaptureFormat


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipJudged:
    """For the event loop: it is decided whether a clip stays."""

    account: ClipAccount


News = StreamRenewed | ClipOpened | ClipEnded | ClipJudged | Trouble


@dataclass(frozen=True, slots=True, kw_only=True)
class _OnItsWay:
    """A capture whose copy from the device is still under way."""

    stream: Stream
    request: CaptureRequest
    snapshot: PendingSnapshot
    slot: PoolSlot


class Producer:
    """Performs what the schedule asks for. Every method but `fail` belongs to the training thread.

    Attributes:
        news: What the event loop should hear of, oldest first; filled here, emptied there.
        held: Under `DropPolicy.BLOCK`, captures that found no room; whoever called waits for it, then calls
            `settle_held`.
        captures: Durations of captures.
    """

    def __init__(
        self,
        config: RecorderConfig,
        streams: Sequence[Stream],
        *,
        queue: FrameQueue,
        pool: FramePool,
        ledger: Ledger,
        doorbell: Doorbell,
    ) -> None:
        self.news: deque[News] = deque()
        self.held: deque[QueuedFrame] = deque()
        self.captures = Timings()
        self._streams = streams
        self._queue = queue
        self._pool = pool
        self._ledger = ledger
        self._ring = doorbell.ring
        self._waits_for_room = config.drop_policy is DropPolicy.BLOCK
        self._block_timeout_s = config.block_timeout_s
        self._schedule = ClipSchedule(
            replace(
                config,
                episode_trigger=self._guard(config.episode_trigger),
                step_trigger=self._guard(config.step_trigger),
            ),
            added_nbytes=max(len(stream.prefix.encode()) for stream in streams) - len(config.name_prefix.encode()),
        )
        self._troubles: dict[tuple[str, str], tuple[float, int]] = {}
        self._on_their_way: deque[_OnItsWay | ClipEnded] = deque()
        self._failure: RecordingError | None = None
        self._closed = False
        self._is_capturing = False
        self._wake_step = 0
        self._ring_s = config.ring_s
        self._rings: dict[str, RingAccount] = {}
        self._ring_steps: dict[str, int] = {}
        """The last step that each ring got, or let pass."""
        self._ring_count = 0
        self._stride = config.frame_stride
        self._keeping = Keeping(config.keep) if config.keep else None
        self._undecided: dict[int, list[ClipAccount]] = {}
        for stream in streams:
            if isinstance(stream.backend, ReportingBackend):
                stream.backend.report_to(self._trouble)
        self._episode_count = 0
        self._episode_start = 0

    @property
    def capture_nbytes(self) -> int:
        """Bytes of the largest stream's last capture; 0 before a first one where no backend can tell."""
        return max(stream.capture_nbytes for stream in self._streams)

    @property
    def step_count(self) -> int:
        """Steps counted so far."""
        return self._schedule.next_step

    @property
    def is_recording(self) -> bool:
        """Whether a clip is open."""
        return self._schedule.open_clip is not None

    def step(self) -> None:
        """Count a step, and capture it where the schedule says so."""
        schedule = self._schedule
        if schedule.next_step < self._wake_step:
            schedule.next_step += 1
            return
        self._enter()
        self._perform(schedule.step())
        if self._ring_s and not schedule.is_paused:
            self._capture_for_rings(schedule.next_step - 1)
        self.raise_failure()

    def reset(self) -> None:
        """Begin an episode."""
        self._enter()
        self._perform(self._schedule.reset())
        self.raise_failure()

    def end_episode(
        self, *, episode_return: float | None, terminated: bool, truncated: bool, info: Mapping[str, Any] | None
    ) -> None:
        """Have it decided which clips stay, by the episode whose last step was counted."""
        self._enter()
        if self._keeping:
            episode = Episode(
                number=self._episode_count,
                step_count=self._schedule.next_step - self._episode_start,
                episode_return=None if episode_return is None else float(episode_return),
                terminated=bool(terminated),
                truncated=bool(truncated),
                info=info or {},
            )
            try:
                self._execute(self._keeping.judge(episode, self._schedule.next_step))
            except Exception as exc:  # noqa: BLE001 - a rule that fails costs no clip, and not the training.
                self._trouble("keep.failed", type(exc).__name__, error=str(exc), number=episode.number)
                self._execute(self._keeping.finish())
        self._episode_count += 1
        self._episode_start = self._schedule.next_step
        self._perform(())
        self.raise_failure()

    def save_last(self, seconds: float | None, name: str | None) -> None:
        """Have what is held of the last seconds written as a clip of each stream."""
        self._enter()
        if not self._ring_s:
            raise ConfigurationError("ring_s: got None; allowed: as many seconds as save_last may be asked for")
        seconds = self._ring_s if seconds is None else seconds
        if not 0 < seconds <= self._ring_s:
            raise ConfigurationError(f"seconds: got {seconds!r}; allowed: above 0, at most ring_s ({self._ring_s:g})")
        suffix = f"last-{self._schedule.next_step - 1}" if name is None else name
        self._schedule.check_name(suffix)
        for stream in self._streams:
            account = self._rings.pop(stream.name, None)
            if account:
                account.name = f"{stream.prefix}-{suffix}"
                account.seconds = seconds
                self._end(account.request, self._schedule.next_step - 1)
        self._perform(())
        self.raise_failure()

    def start_clip(self, name: str | None, length: int | None) -> None:
        """Open a clip with the next step."""
        self._enter()
        self._schedule.start_clip(name, length=length)
        self._perform(())
        self.raise_failure()

    def stop_clip(self) -> None:
        """End the open clip with the step before."""
        self._enter()
        self._perform(self._schedule.stop_clip())
        self.raise_failure()

    def pause(self) -> None:
        """Capture nothing until `resume`."""
        self._enter()
        self._schedule.pause()
        self._perform(())

    def resume(self) -> None:
        """Capture again."""
        self._enter()
        self._schedule.resume()
        self._perform(())

    def settle(self) -> None:
        """Wait for the device, so that all that was captured is in the queue or held.

        Raises:
            RecordingError: called by the backend, in the middle of a capture.
        """
        self.refuse_in_capture()
        if self._on_their_way:
            self._publish_arrived(wait=True)
            self._perform(())

    def close(self) -> None:
        """End the open clip and wait for the device, so that all that was captured is in the queue or held.

        Raises:
            RecordingError: called by the backend, in the middle of a capture.
        """
        self.refuse_in_capture()
        if not self._closed:
            self._perform(self._schedule.stop_clip())
            for name in list(self._rings):
                self._forget_ring(name)
            self._publish_arrived(wait=True)
            if self._keeping:
                self._execute(self._keeping.finish())
            self._tell_waiting_troubles()
            self._closed = True
            self._wake_step = 0
            for stream in self._streams:
                try:
                    stream.backend.close()
                except Exception as exc:  # noqa: BLE001 - the recording is done; it is logged.
                    self._trouble("backend.failed", type(exc).__name__, error=str(exc))

    def fail(self, failure: RecordingError) -> None:
        """Have the next call raise. Safe to call from any thread."""
        self._failure = failure
        self._wake_step = 0

    def raise_failure(self) -> None:
        """Raise, once, what `fail` was told."""
        failure, self._failure = self._failure, None
        if failure:
            raise failure

    def stop_waiting(self) -> None:
        """Have nothing wait for room any more: nobody makes any. Safe to call from any thread."""
        self._waits_for_room = False

    def settle_held(self, *, granted: bool) -> None:
        """Put the first held capture, or drop it where no room was granted."""
        frame = self.held.popleft()
        if not (granted and self._queue.put_nowait(frame)):
            self._drop(frame.request, DropCause.QUEUE_FULL, frame.slot)
            self._trouble("queue.full", DropCause.QUEUE_FULL, depth=self._queue.depth)
        self._ring_if_wanted()

    def refuse_in_capture(self) -> None:
        """Raise `RecordingError` where a backend calls in the middle of a capture: it would wait for itself."""
        if self._is_capturing:
            raise RecordingError("called in the middle of a capture, by the backend or on another thread")

    def _enter(self) -> None:
        self.refuse_in_capture()
        if self._closed:
            raise RecorderClosedError("the recorder is closed; open another one to go on recording")
        if self._on_their_way:
            self._publish_arrived(wait=False)

    def _perform(self, actions: Iterable[Action]) -> None:
        for action in actions:
            match action:
                case BeginClip(clip=clip):
                    for stream in self._streams:
                        self._begin(stream, stream.clip(clip))
                    self._await_verdict(clip)
                case Capture(request=request):
                    for stream in self._streams:
                        self._capture(stream, stream.request(request))
                case EndClip(clip=clip, end_step=end_step):
                    for stream in self._streams:
                        self._end(stream.clip(clip), end_step)
                    if self._keeping:
                        self._execute(self._keeping.end(clip.clip_index, end_step))
        self._wake_step = 0 if self._on_their_way or self._ring_s else self._schedule.wake_step
        if self._failure:
            self._wake_step = 0

    def _begin(self, stream: Stream, clip: ClipRequest) -> ClipAccount:
        try:
            if stream.renew():
                self._tell(StreamRenewed(stream=stream.name, version=stream.version, format=stream.format))
                self._forget_ring(stream.name)
            stream.begin(clip)
        except Exception as exc:  # noqa: BLE001 - whatever a simulator raises costs this clip, not the training.
            self._trouble("backend.failed", type(exc).__name__, error=str(exc))
        account = self._ledger.open(clip, backend=stream.backend.name, fps=stream.fps)
        self._tell(ClipOpened(account=account))
        return account

    def _capture_for_rings(self, step: int) -> None:
        for stream in self._streams:
            request = self._ring_request(stream, step)
            if request:
                self._capture(stream, request)

    def _ring_request(self, stream: Stream, step: int) -> CaptureRequest | None:
        """Return what a ring wants of a step, if it does; it wants each step once."""
        if not self._ring_s or step <= self._ring_steps.get(stream.name, -1):
            return None
        self._ring_steps[stream.name] = step
        account = self._rings.get(stream.name)
        if account is None or account.end_step is not None:  # What it held is of a simulator that is no more.
            account = self._begin_ring(stream, step)
        steps, rest = divmod(step - account.request.start_step, self._stride)
        return None if rest else CaptureRequest(clip=account.request, step=step, pts=steps)

    def _share_with_ring(
        self, stream: Stream, request: CaptureRequest, capture: Frame | Snapshot, slot: PoolSlot
    ) -> QueuedFrame | None:
        """Return what was captured for a clip once more, where its ring wants it: it is not captured twice."""
        wanted = None if request.clip.is_ring else self._ring_request(stream, request.step)
        account = self._ledger.account(wanted.clip.clip_index) if wanted else None
        if not (wanted and account):
            return None
        account.frame_requested(wanted.step)
        return QueuedFrame(request=wanted, capture=capture, slot=slot.share())

    def _begin_ring(self, stream: Stream, step: int) -> RingAccount:
        self._ring_count += 1
        request = ClipRequest(
            name="ring",
            stream=stream.name,
            start_step=step,
            frame_stride=self._stride,
            clip_index=-self._ring_count,  # Those of other clips count up from 0.
            is_ring=True,
        )
        account = self._begin(stream, request)
        assert isinstance(account, RingAccount)
        self._rings[stream.name] = account
        return account

    def _forget_ring(self, stream: str) -> None:
        account = self._rings.pop(stream, None)
        if account:
            account.is_unwanted = True
            self._end(account.request, self._schedule.next_step - 1)

    def _await_verdict(self, clip: ClipRequest) -> None:
        if self._keeping:
            accounts = [self._ledger.account(stream.clip(clip).clip_index) for stream in self._streams]
            self._undecided[clip.clip_index] = [account for account in accounts if account]
            for account in self._undecided[clip.clip_index]:
                account.is_undecided = True
            self._keeping.begin(clip.clip_index)

    def _execute(self, verdict: Verdict) -> None:
        for clips, is_unwanted in ((verdict.kept, False), (verdict.discarded, True)):
            for account in [account for clip in clips for account in self._undecided.pop(clip, ())]:
                account.is_unwanted = is_unwanted
                account.is_undecided = False
                self._tell(ClipJudged(account=account))

    def _capture(self, stream: Stream, request: CaptureRequest) -> None:
        account = self._ledger.account(request.clip.clip_index)
        # None where an interruption came between the schedule and the opening of the clip.
        if account is None or account.end_step is not None:
            return
        account.frame_requested(request.step)
        if not self._waits_for_room and not self._make_room(request, stream.capture_nbytes):
            account.frame_dropped(request.step, DropCause.QUEUE_FULL)
            return
        slot = self._pool.lease()
        start = time.perf_counter()
        self._is_capturing = True
        try:
            capture = stream.backend.capture(request, slot)
        except SourceChangedError as exc:
            self._drop(request, DropCause.CAPTURE_FAILED, slot)
            self._trouble("capture.failed", type(exc).__name__, error=str(exc), step=request.step)
            account.fail()
            self._end(request.clip, request.step)
            return
        except Exception as exc:  # noqa: BLE001 - whatever a simulator raises costs this frame, not the training.
            self._drop(request, DropCause.CAPTURE_FAILED, slot)
            self._trouble("capture.failed", type(exc).__name__, error=str(exc), step=request.step)
            return
        except BaseException:
            self._drop(request, DropCause.CAPTURE_FAILED, slot)
            raise
        finally:
            self._is_capturing = False
        self.captures.add(time.perf_counter() - start)
        if isinstance(capture, Frame | Snapshot):
            shared = self._share_with_ring(stream, request, capture, slot)
            self._publish(stream, QueuedFrame(request=request, capture=capture, slot=slot))
            if shared:
                self._publish(stream, shared)
        else:
            self._on_their_way.append(_OnItsWay(stream=stream, request=request, snapshot=capture, slot=slot))

    def _end(self, clip: ClipRequest, end_step: int) -> None:
        account = self._ledger.account(clip.clip_index)
        if account is None or account.end_step is not None:
            return
        account.end_step = end_step
        try:
            stream_of(self._streams, clip.stream).end(clip)
        except Exception as exc:  # noqa: BLE001 - the clip is done; it is logged.
            self._trouble("backend.failed", type(exc).__name__, error=str(exc))
        ended = ClipEnded(account=account)
        if self._on_their_way:
            self._on_their_way.append(ended)
        else:
            self._tell(ended)

    def _publish_arrived(self, *, wait: bool) -> None:
        """Publish, in order, the captures that the device has finished copying."""
        while self._on_their_way:
            head = self._on_their_way[0]
            if isinstance(head, _OnItsWay) and not self._publish_if_arrived(head, wait=wait):
                return
            if isinstance(head, ClipEnded):
                self._tell(head)
            self._on_their_way.popleft()

    def _publish_if_arrived(self, head: _OnItsWay, *, wait: bool) -> bool:
        try:
            snapshot = head.snapshot.wait() if wait else head.snapshot.poll()
        except Exception as exc:  # noqa: BLE001 - a device that fails costs this frame, not the training.
            self._drop(head.request, DropCause.CAPTURE_FAILED, head.slot)
            self._trouble("capture.failed", type(exc).__name__, error=str(exc), step=head.request.step)
            return True
        if snapshot is None:
            return False
        self._publish(head.stream, QueuedFrame(request=head.request, capture=snapshot, slot=head.slot))
        return True

    def _publish(self, stream: Stream, frame: QueuedFrame) -> None:
        if frame.nbytes > frame.slot.room:
            self._drop(frame.request, DropCause.CAPTURE_FAILED, frame.slot)
            error = f"the backend announced {frame.nbytes} bytes, and asked its slot for {frame.slot.room}"
            self._trouble("capture.failed", "size", error=error, step=frame.request.step)
            return
        stream.capture_nbytes = frame.nbytes
        waits = self._waits_for_room and self._queue.fits(frame.nbytes)
        if not waits and not self._make_room(frame.request, frame.nbytes):
            self._drop(frame.request, DropCause.QUEUE_FULL, frame.slot)
        elif self.held or not self._queue.put_nowait(frame):
            self.held.append(frame)
        else:
            self._ring_if_wanted()

    def _make_room(self, request: CaptureRequest, nbytes: int) -> bool:
        room = self._queue.make_room(request, nbytes)
        for frame in room.evicted:
            self._drop(frame.request, DropCause.QUEUE_FULL, frame.slot)
        dropped = len(room.evicted) + (not room.granted)
        if dropped:
            self._trouble("queue.full", DropCause.QUEUE_FULL, count=dropped, depth=self._queue.depth)
        return room.granted

    def _drop(self, request: CaptureRequest, cause: DropCause, slot: PoolSlot) -> None:
        slot.release()
        account = self._ledger.account(request.clip.clip_index)
        if account:
            account.frame_dropped(request.step, cause)

    def _guard(self, trigger: Callable[[int], bool] | None) -> Callable[[int], bool] | None:
        """Keep a trigger that raises from ending the training: it then doesn't fire."""
        if trigger is None:
            return None

        def guarded(number: int) -> bool:
            try:
                return bool(trigger(number))
            except Exception as exc:  # noqa: BLE001 - see above; it is logged.
                self._trouble("trigger.failed", type(exc).__name__, error=str(exc), number=number)
                return False

        guarded.__qualname__ = getattr(trigger, "__qualname__", type(trigger).__qualname__)
        return guarded

    def _trouble(self, event: str, kind: str, *, count: int = 1, **facts: Any) -> None:
        """Have something logged: the first of its kind at once, later ones together, once in a while."""
        told, waiting = self._troubles.get((event, kind), (-_TROUBLE_INTERVAL_S, 0))
        now = time.monotonic()
        if now - told < _TROUBLE_INTERVAL_S:
            self._troubles[event, kind] = (told, waiting + count)
            return
        self._troubles[event, kind] = (now, 0)
        self._tell(Trouble(event=event, kind=kind, count=waiting + count, facts=facts))

    def _tell_waiting_troubles(self) -> None:
        for (event, kind), (_, waiting) in self._troubles.items():
            if waiting:
                self._tell(Trouble(event=event, kind=kind, count=waiting, facts={}))
        self._troubles.clear()

    def _ring_if_wanted(self) -> None:
        """Wake the event loop only where a worker is idle: its turns with the GIL are the training's delays."""
        if self._queue.is_wanting:
            self._queue.is_wanting = False
            self._ring()

    def _tell(self, news: News) -> None:
        self.news.append(news)
        self._ring()
