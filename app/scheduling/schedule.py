"""Which steps are captured, in which clip: a state machine, events in, actions out."""

from __future__ import annotations

import sys
from dataclasses import dataclass

from ..clip import CaptureRequest, ClipRequest
from ..config import RecorderConfig, check_name
from ..errors import ConfigurationError, StepreelError

NEVER = sys.maxsize
"""A step that doesn't come."""
_MOST_NAME_CHARACTERS = 150
_MOST_NAME_NBYTES = 200
"""Leaves room for a number and a suffix in the 255 bytes that a file name may have."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BeginClip:
    """A clip opens; the next captures belong to it."""

    clip: ClipRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class Capture:
    """The current picture is wanted."""

    request: CaptureRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class EndClip:
    """A clip's span ends with `end_step`, whether or not that step was captured."""

    clip: ClipRequest
    end_step: int


Action = BeginClip | Capture | EndClip


@dataclass(slots=True, kw_only=True)
class _OpenClip:
    clip: ClipRequest
    length: int | None
    """Steps of the span; None: no fixed length."""
    explicit: bool
    """Opened by `start_clip`: goes on over resets and triggers until `stop_clip`."""

    def covers(self, step: int) -> bool:
        return (step - self.clip.start_step) % self.clip.frame_stride == 0

    def is_last(self, step: int) -> bool:
        return self.length is not None and step - self.clip.start_step + 1 >= self.length


@dataclass(frozen=True, slots=True, kw_only=True)
class _WantedClip:
    """What `start_clip` asked for, until the next step that is not paused."""

    name: str | None
    length: int | None


class ClipSchedule:
    """Turns a training loop's calls into clips and captures.

    Steps are numbered from 0 by the calls of `step`. The picture of a reset, which belongs to no step, is
    numbered as the step before the episode's first. At most one clip is open; a trigger that fires while one is
    open ends it and opens the next. While paused nothing is requested and no clip opens, but time goes on.

    Attributes:
        next_step: Number of the step that comes next. A caller may count a step itself, without calling `step`,
            while `next_step < wake_step`.
        wake_step: First step for which `step` has anything to do.
    """

    def __init__(self, config: RecorderConfig, *, stream: str = "default", added_nbytes: int = 0) -> None:
        """Begin at step 0; others will add so many bytes to the names of clips."""
        self._config = config
        self._added_nbytes = added_nbytes
        self._stream = stream
        self._open: _OpenClip | None = None
        self._wanted: _WantedClip | None = None
        self._paused = False
        self._clip_count = 0
        self._episode = -1
        self.next_step = 0
        self.wake_step = 0
        self._set_wake_step()

    @property
    def open_clip(self) -> ClipRequest | None:
        """The clip whose span goes on; None between clips."""
        return self._open.clip if self._open else None

    @property
    def is_paused(self) -> bool:
        """Whether nothing is asked for at present."""
        return self._paused

    def step(self) -> list[Action]:
        """Count one step; return what it asks for, in order."""
        step = self.next_step
        self.next_step += 1
        actions: list[Action] = []
        if not self._paused:
            self._begin_due(step, actions)
            self._capture(step, actions)
        self._end_complete(step, actions)
        self._set_wake_step()
        return actions

    def reset(self) -> list[Action]:
        """Begin an episode; return what its first picture asks for, in order."""
        self._episode += 1
        step = self.next_step - 1
        actions: list[Action] = []
        if self._open and self._open.length is None and not self._open.explicit:
            self._end(step, actions)
        trigger = self._config.episode_trigger
        if trigger and not self._paused and not self._is_explicit() and trigger(self._episode):
            if self._open:
                self._end(step, actions)  # This step's picture was its last; the reset's is the next clip's first.
            self._begin(self._new_clip(f"{self._config.name_prefix}-episode-{self._episode}", step), actions)
            self._capture(step, actions)
            self._end_complete(step, actions)
        self._set_wake_step()
        return actions

    def start_clip(self, name: str | None = None, *, length: int | None = None) -> None:
        """Open a clip with the next step, for `length` steps, or until `stop_clip`.

        Raises:
            ConfigurationError: `name` can't be part of a file name, or `length` is below 1.
        """
        if name is not None:
            self.check_name(name)
        if length is not None and length < 1:
            raise ConfigurationError(f"length: got {length!r}; allowed: at least 1, or None")
        self._wanted = _WantedClip(name=name, length=length)
        self._set_wake_step()

    def check_name(self, name: str) -> None:
        """Raise `ConfigurationError` where no clip can be called so."""
        allowed = check_name(name)
        if allowed:
            raise ConfigurationError(f"name: got {name!r}; allowed: {allowed}")
        full_name = f"{self._config.name_prefix}-{name}"
        nbytes = len(full_name.encode()) + self._added_nbytes
        if len(full_name) > _MOST_NAME_CHARACTERS or nbytes > _MOST_NAME_NBYTES:
            raise ConfigurationError(
                f"name: got {name!r}; allowed: at most {_MOST_NAME_CHARACTERS} characters and {_MOST_NAME_NBYTES} "
                "bytes together with name_prefix"
            )

    def stop_clip(self) -> list[Action]:
        """End the open clip with the step before; without one, withdraw what `start_clip` asked for."""
        self._wanted = None
        actions: list[Action] = []
        if self._open:
            self._end(self.next_step - 1, actions)
        self._set_wake_step()
        return actions

    def pause(self) -> None:
        """Ask for nothing until `resume`; a clip that is open stays open."""
        self._paused = True
        self._set_wake_step()

    def resume(self) -> None:
        """Ask for captures again."""
        self._paused = False
        self._set_wake_step()

    def _begin_due(self, step: int, actions: list[Action]) -> None:
        if self._wanted:
            wanted, self._wanted = self._wanted, None
            suffix = f"step-{step}" if wanted.name is None else wanted.name
            clip = self._new_clip(f"{self._config.name_prefix}-{suffix}", step).clip
            self._begin(_OpenClip(clip=clip, length=wanted.length, explicit=True), actions)
        elif not self._is_explicit() and self._is_due(step):
            self._begin(self._new_clip(f"{self._config.name_prefix}-step-{step}", step), actions)

    def _is_due(self, step: int) -> bool:
        if self._config.step_trigger:
            return bool(self._config.step_trigger(step))
        return step == self._next_due(step)

    def _next_due(self, step: int) -> int:
        """Return the first step from `step` on at which the interval opens a clip."""
        config = self._config
        if config.step_trigger or config.episode_trigger:
            return NEVER
        if step <= config.step_offset:
            return config.step_offset
        if config.video_interval == 0:
            return NEVER
        return step + (config.step_offset - step) % config.video_interval

    def _is_explicit(self) -> bool:
        return self._open is not None and self._open.explicit

    def _new_clip(self, name: str, start_step: int) -> _OpenClip:
        clip = ClipRequest(
            name=name,
            stream=self._stream,
            start_step=start_step,
            frame_stride=self._config.frame_stride,
            clip_index=self._clip_count,
        )
        self._clip_count += 1
        return _OpenClip(clip=clip, length=self._config.video_length or None, explicit=False)

    def _begin(self, opened: _OpenClip, actions: list[Action]) -> None:
        if self._open:
            self._end(opened.clip.start_step - 1, actions)
        self._open = opened
        actions.append(BeginClip(clip=opened.clip))

    def _capture(self, step: int, actions: list[Action]) -> None:
        if self._open and self._open.covers(step):
            clip = self._open.clip
            pts = (step - clip.start_step) // clip.frame_stride
            actions.append(Capture(request=CaptureRequest(clip=clip, step=step, pts=pts)))

    def _end_complete(self, step: int, actions: list[Action]) -> None:
        if self._open and self._open.is_last(step):
            self._end(step, actions)

    def _end(self, end_step: int, actions: list[Action]) -> None:
        if self._open is None:
            raise StepreelError("no clip is open")
        end_step = max(end_step, self._open.clip.start_step)
        actions.append(EndClip(clip=self._open.clip, end_step=end_step))
        self._open = None

    def _set_wake_step(self) -> None:
        if self._open or (self._wanted and not self._paused):
            self.wake_step = 0
        elif self._paused:
            self.wake_step = NEVER
        elif self._config.step_trigger:
            self.wake_step = 0
        else:
            self.wake_step = self._next_due(self.next_step)
