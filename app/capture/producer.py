"""The training thread's part of a recorder: performs what the schedule asks for, and tells of it in the journal."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from threading import RLock, get_ident
from typing import Any

from ..config import RecorderConfig
from ..errors import ConfigurationError, RecorderClosedError, RecordingError
from ..interfaces import ReportingBackend
from ..scheduling.schedule import Action, BeginClip, Capture, ClipSchedule, EndClip
from ..transport.journal import JournalWriter, Kind
from ..transport.shared_memory import SharedMemory, TrainingWord
from .admission import Admission
from .captures import Captures
from .clips import Clips
from .episodes import Episodes
from .frame_pool import FramePool
from .stream import Stream
from .warnings import Warnings, guarded

_LOOK_S = 0.0005


class Producer:
    """Belongs to the training thread, but for `fail`, `disown` and `close`.

    Attributes:
        captures: Takes what is wanted; holds what waits for room.
        admission: How much waits.
    """

    def __init__(self, config: RecorderConfig, streams: Sequence[Stream], memory: SharedMemory) -> None:
        self._words = memory.training
        self._journal = JournalWriter(memory)
        self._pool = FramePool(memory)
        self._warnings = Warnings(self._journal)
        self.admission = Admission(config, memory, self._pool)
        self.captures = Captures(memory, self._journal, self._pool, self.admission, self._warnings)
        self._clips = Clips(
            streams, memory, self._journal, self._pool, self.captures, self._warnings, lambda: self.step_count - 1
        )
        self._ring_s = config.ring_s
        if config.ring_s:
            self._clips.hold_last_seconds(config.frame_stride)
        self._episodes = Episodes(config.keep, self._warnings)
        self._clips.decides_later = self._episodes.decides_later
        config = replace(
            config,
            episode_trigger=guarded(config.episode_trigger, self._warnings),
            step_trigger=guarded(config.step_trigger, self._warnings),
        )
        longest = max(len(stream.prefix.encode()) for stream in streams)
        self._schedule = ClipSchedule(config, added_nbytes=longest - len(config.name_prefix.encode()))

        self._calls = _Calls()
        self._failure: RecordingError | None = None
        self._wake_step = 0
        if config.strict:
            self.captures.lost = lambda reason: self.fail(RecordingError(f"{reason} (strict=True)"))
        for stream in streams:
            if isinstance(stream.backend, ReportingBackend):
                stream.backend.report_to(self._warnings.warn)

    @property
    def step_count(self) -> int:
        """Steps counted so far."""
        return self._schedule.next_step

    @property
    def is_recording(self) -> bool:
        """Whether a clip is open."""
        return self._schedule.open_clip is not None and not self._calls.is_finished

    def step(self) -> None:
        """Count a step, and capture it where the schedule says so."""
        # Most steps belong to no clip: those cost a comparison and two stores.
        schedule = self._schedule
        if schedule.next_step < self._wake_step:
            schedule.next_step += 1
            self._words[TrainingWord.STEPS] = schedule.next_step
            return
        self._call(self._step)

    def reset(self) -> None:
        """Begin an episode."""
        self._call(lambda: self._perform(self._schedule.reset()))

    def end_episode(
        self, *, episode_return: float | None, terminated: bool, truncated: bool, info: Mapping[str, Any] | None
    ) -> None:
        """Have it decided which clips stay, by the episode whose last step was counted."""
        self._call(
            lambda: self._clips.decide(
                self._episodes.judge(self.step_count, episode_return, terminated, truncated, info)
            )
        )

    def save_last(self, seconds: float | None, name: str | None) -> None:
        """Have what is held of the last seconds written as a clip of each stream."""
        self._call(lambda: self._save_last(seconds, name))

    def start_clip(self, name: str | None, length: int | None) -> None:
        """Open a clip with the next step."""
        self._call(lambda: self._schedule.start_clip(name, length=length))

    def stop_clip(self) -> None:
        """End the open clip with the step before."""
        self._call(lambda: self._perform(self._schedule.stop_clip()))

    def pause(self) -> None:
        """Capture nothing until `resume`."""
        self._call(self._schedule.pause)

    def resume(self) -> None:
        """Capture again."""
        self._call(self._schedule.resume)

    def get_ready(self) -> None:
        """Map the memory that the service has faulted in; called once, before training begins."""
        self._pool.map_populated()

    def settle(self) -> bool:
        """Wait for the device, so that all that was captured is in the journal or held; False where it has no room.

        On another thread than the one that steps it does nothing: what that one captures is not waited for.

        Raises:
            RecordingError: called by the backend, in the middle of a capture.
        """
        self._calls.refuse_inside()
        if self._calls.are_of_this_thread and (self.captures.are_on_their_way or self._journal.has_backlog):
            self._call(lambda: self.captures.publish_arrived(wait=True))
        return not self._journal.has_backlog

    def close(self) -> None:
        """End the open clip and wait for the device; no call is taken from here on.

        On another thread than the one that steps it waits for the end of the call that is under way there. A second
        call does what an interrupted one left; on another thread it waits for the first.

        Raises:
            RecordingError: called by the backend, in the middle of a capture.
        """
        if not self._calls.close():
            return
        with self._calls.closing:
            if self._calls.is_finished:
                return
            self._wake_step = 0
            try:
                self._end_clips()
            finally:
                self.captures.drop_held()
                self._warnings.flush()
                self._clips.close_backends()
                self._journal.write(Kind.CLOSED)
                self._pool.close()
                self._calls.is_finished = True

    def tell_rest(self) -> None:
        """Do what an interrupted `close` left, and write what found no room; call it until the service has ended."""
        self.close()
        self._journal.write_backlog()

    def disown(self) -> None:
        """Be of no effect from here on: this process was forked from the one whose recorder this is."""
        self._calls.disown()
        self._wake_step = 0

    def fail(self, failure: RecordingError) -> None:
        """Have the next call raise. Safe to call from any thread."""
        self._failure = failure
        self._wake_step = 0

    def raise_failure(self) -> None:
        """Raise, once, what `fail` was told."""
        failure, self._failure = self._failure, None
        if failure:
            raise failure

    def refuse_inside(self) -> None:
        """Raise `RecordingError` where a backend calls in the middle of a capture: it would wait for itself."""
        self._calls.refuse_inside()

    def _call(self, act: Callable[[], object]) -> None:
        """Do what a caller asked for, between what each call begins and ends with."""
        self._calls.refuse_inside()
        failure, self._failure = self._failure, None  # Of an earlier call: this one's is told by the next.
        try:  # An interruption (Ctrl-C) may come anywhere in here.
            if self._calls.begin():
                if self._journal.has_backlog:
                    self._journal.write_backlog()
                if self.captures.are_on_their_way:
                    self.captures.publish_arrived(wait=False)
                act()
                self._set_wake_step()
        finally:
            self._calls.caller = None
        if failure:
            raise failure

    def _step(self) -> None:
        actions = self._schedule.step()
        self._words[TrainingWord.STEPS] = self._schedule.next_step
        self._perform(actions)
        if self._ring_s and not self._schedule.is_paused:
            self._clips.capture_last_seconds()

    def _perform(self, actions: Iterable[Action]) -> None:
        for action in actions:
            match action:
                case BeginClip(clip=clip):
                    self._episodes.begin(clip.clip_index)
                    self._clips.begin(clip)
                case Capture(request=request):
                    self._clips.capture(request)
                case EndClip(clip=clip, end_step=end_step):
                    self._clips.end(clip, end_step)
                    self._clips.decide(self._episodes.end(clip.clip_index, end_step))

    def _set_wake_step(self) -> None:
        must_wake = self.captures.are_on_their_way or self._journal.has_backlog or self._ring_s or self._failure
        self._wake_step = 0 if must_wake else self._schedule.wake_step

    def _save_last(self, seconds: float | None, name: str | None) -> None:
        most = self._ring_s
        if self._clips.last_seconds is None or most is None:
            raise ConfigurationError("ring_s: got None; allowed: as many seconds as save_last may be asked for")
        seconds = most if seconds is None else seconds
        if not 0 < seconds <= most:
            raise ConfigurationError(f"seconds: got {seconds!r}; allowed: above 0, at most ring_s ({most:g})")
        suffix = f"last-{self.step_count - 1}" if name is None else name
        self._schedule.check_name(suffix)
        self._clips.last_seconds.save(float(seconds), suffix, self.step_count - 1)

    def _end_clips(self) -> None:
        self._perform(self._schedule.stop_clip())
        if self._clips.last_seconds:
            self._clips.last_seconds.forget(self.step_count - 1)
        self.captures.publish_arrived(wait=True)
        self._clips.decide(self._episodes.finish())


class _Calls:
    """Which calls are taken: none after the closing, and none inside of another one.

    Threads share plain attributes of it: a call announces itself before it looks whether it is taken, and closing
    forbids calls before it looks whether one is under way.

    Attributes:
        caller: The thread whose call is under way.
        closing: Held by who closes; taken in one instruction.
        is_finished: Whether the closing has done all that it has to.
    """

    def __init__(self) -> None:
        self.caller: int | None = None
        self.closing = RLock()
        self.is_finished = False
        self._is_closed = False
        self._is_disowned = False
        self._owner: int | None = None
        """The thread that calls."""

    def begin(self) -> bool:
        """Announce a call; return whether it is taken. Raises `RecorderClosedError`."""
        self.caller = self._owner = get_ident()
        if self._is_closed:
            raise RecorderClosedError("the recorder is closed; open another one to go on recording")
        return not self._is_disowned

    @property
    def are_of_this_thread(self) -> bool:
        """Whether this is the thread that calls, or nobody has called yet, and calls are taken."""
        return self._owner in (None, get_ident()) and not (self._is_closed or self._is_disowned)

    def close(self) -> bool:
        """Take no more calls, and wait for the end of one under way; False where these are a forked process's."""
        self.refuse_inside()
        if self._is_disowned:
            return False
        self._is_closed = True
        while self.caller is not None:
            time.sleep(_LOOK_S)
        return True

    def disown(self) -> None:
        """Have calls do nothing: they are a forked process's."""
        self._is_disowned = True
        self.caller = None

    def refuse_inside(self) -> None:
        """Raise `RecordingError` on a thread whose call is under way."""
        if self.caller == get_ident():
            raise RecordingError("called in the middle of a capture, by the backend")
