"""`WrapperBase`: attributes, clips begun and ended as Gymnasium does, and a recorder that the first reset opens."""

from __future__ import annotations

import gc
import os
import threading
import weakref
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gymnasium import logger

from ..config import RecorderConfig
from ..errors import ConfigurationError
from ..interfaces import Backend, ClipHook, SegmentHook

if TYPE_CHECKING:
    from ..blocking import Recorder

Trigger = Callable[[int], bool]

_DEFAULT_FPS = 30
_CUBES = frozenset(number**3 for number in range(10))


def capped_cubic_video_schedule(episode_id: int) -> bool:
    """Return whether Gymnasium records an episode unless told otherwise: 0, 1, 8, 27, ..., 729, 1000, 2000, ..."""
    return episode_id in _CUBES or (episode_id >= 1000 and episode_id % 1000 == 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoArguments:
    """The arguments that both `RecordVideo` have in common; `RecordVideo` explains them.

    Raises:
        ConfigurationError: `config` contradicts another argument, or a value can't work.
    """

    video_folder: str | os.PathLike[str]
    episode_trigger: Trigger | None
    step_trigger: Trigger | None
    video_length: int
    name_prefix: str
    fps: float | None
    disable_logger: bool
    gc_trigger: Trigger | None
    config: RecorderConfig | None
    on_clip_closed: ClipHook | None
    on_segment_closed: SegmentHook | None

    def given(self) -> dict[str, Any]:
        """Return the constructor's arguments, for another call of it."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @property
    def folder(self) -> str:
        """The absolute path of the clips' folder."""
        return os.path.abspath(self.video_folder)

    def recorder_config(self, frames_per_sec: float) -> RecorderConfig:
        """Return all settings of the recorder, for an environment of so many steps a second [Hz]."""
        given = self.config or RecorderConfig(output_dir=self.folder)
        if os.path.abspath(given.output_dir) != self.folder:
            raise _conflict("output_dir", given.output_dir, f"the same folder as video_folder, {self.folder!r}")
        own = {"video_length": self.video_length, "name_prefix": self.name_prefix, "fps": self.fps}
        interval = () if self.episode_trigger or self.step_trigger else _INTERVAL
        for field in fields(RecorderConfig):
            value = getattr(given, field.name)
            if field.name in (*own, *_TRIGGERS, *interval) and value not in (field.default, own.get(field.name)):
                advice = f"what {field.name} of the wrapper is" if field.name in own else "its default"
                besides = ", or a trigger of the wrapper beside it" if field.name in interval else ""
                raise _conflict(field.name, value, f"{advice}{besides}: the wrapper's own arguments decide about clips")
        return replace(
            given,
            output_dir=Path(self.folder),
            name_prefix=self.name_prefix,
            video_length=self.video_length,
            video_interval=0,
            step_offset=0,
            episode_trigger=decided_by_the_wrapper,
            fps=self.video_fps(frames_per_sec),
        )

    def video_fps(self, frames_per_sec: float) -> float:
        """Return the frames a second of video, of an environment of so many steps a second [Hz]."""
        if self.config is None:
            return float(frames_per_sec)
        return self.config.fps or float(frames_per_sec) / self.config.frame_stride


_TRIGGERS = ("episode_trigger", "step_trigger")
_INTERVAL = ("video_interval", "step_offset")
"""Unused where a trigger is given, as in `RecorderConfig`, so that flags of a command line can be passed on."""


def refuse_keep(config: RecorderConfig | None) -> None:
    """Refuse `keep`, which judges by one episode, where several environments' episodes end at different times.

    Raises:
        ConfigurationError: `config` has a `keep` rule.
    """
    if config and config.keep:
        raise _conflict("keep", config.keep, "None: the environments' episodes end at different times")


def decided_by_the_wrapper(episode_id: int) -> bool:
    """Return False: a wrapper asks its own triggers, and opens its clips by hand."""
    return False


class WrapperBase:
    """The base of all wrappers: attributes and rules of Gymnasium's `RecordVideo` on a stepreel recorder.

    Each call of `reset` or `step` that could show a picture is one step of the recorder, so that a clip which goes
    on over resets has the picture of each. The recorder is opened by the first reset: before training begins, and
    never by an environment that is only made.

    Attributes:
        recording: Whether a clip is open.
        step_id: Number of the last step, from 0.
        episode_id: Number of the episode, from 0.
    """

    metadata: dict[str, Any]

    def __init__(self, arguments: VideoArguments) -> None:
        self.episode_trigger = arguments.episode_trigger
        self.step_trigger = arguments.step_trigger
        if self.episode_trigger is None and self.step_trigger is None:
            self.episode_trigger = capped_cubic_video_schedule
        self.disable_logger = arguments.disable_logger
        self.gc_trigger = arguments.gc_trigger
        given_fps = arguments.fps
        self.frames_per_sec = (self.metadata.get("render_fps") or _DEFAULT_FPS) if given_fps is None else given_fps
        self.name_prefix = arguments.name_prefix
        self.video_length: float = arguments.video_length or float("inf")
        self.video_folder = arguments.folder
        self.recording = False
        self.step_id = -1
        self.episode_id = -1
        self._arguments = arguments
        self._video_name: str | None = None
        self._frame_count = 0
        self._recorder: Recorder | None = None
        self._forget: Callable[[], object] = _nothing
        self._config = arguments.recorder_config(self.frames_per_sec)
        self._make_folder()

    @property
    def recorder(self) -> Recorder | None:
        """The recorder, for its statistics, summary and `flush`. None before the first reset."""
        return self._recorder

    def start_recording(self, video_name: str) -> None:
        """Begin a clip with the next picture; one that is open ends.

        `name_prefix` is put before a name that does not begin with it.
        """
        if self.recording:
            self.stop_recording()
        self._open_recorder().start_clip(video_name.removeprefix(f"{self._arguments.name_prefix}-"))
        self.recording = True
        self._frame_count = 0
        self._video_name = video_name

    def stop_recording(self) -> None:
        """End the clip; its file is written meanwhile, and there when the environment was closed."""
        assert self.recording, "stop_recording was called, but no recording was started"
        self.recording = False
        self._video_name = None
        if self._frame_count == 0:
            logger.warn("Ignored saving a video as there were zero frames to save.")
        self._open_recorder().stop_clip()
        if self._fires(self.gc_trigger, self.episode_id):
            gc.collect()

    def __getstate__(self) -> dict[str, Any]:
        """Leave the recorder out: a copy of the environment records clips of its own, with a recorder of its own."""
        return {**self.__dict__, "_recorder": None, "_forget": _nothing, "recording": False, "_video_name": None}

    def _streams(self) -> Backend | Mapping[str, Backend]:
        """Return the backends of the recorder; called when it is opened."""
        raise NotImplementedError

    def _make_folder(self) -> None:
        if os.path.isdir(self.video_folder):
            logger.warn(
                f"There is a folder {self.video_folder} already. Its videos stay: where a name is taken, the new video "
                "gets a number (try specifying a different `video_folder` for the `RecordVideo` wrapper)"
            )
        os.makedirs(self.video_folder, exist_ok=True)

    def _open_recorder(self) -> Recorder:
        if self._recorder is None:
            from ..blocking import Recorder  # Loads what threads and workers need.

            config = replace(self._config, fps=self._arguments.video_fps(self.frames_per_sec))
            recorder = Recorder(
                config,
                self._streams(),
                on_clip_closed=self._arguments.on_clip_closed,
                on_segment_closed=self._arguments.on_segment_closed,
            )
            self._recorder = ExitStack().enter_context(recorder)  # It is closed by name.
            self._forget = weakref.finalize(self, _finish, recorder, os.getpid(), threading.get_ident()).detach
        return self._recorder

    def _close_recorder(self) -> None:
        """Finish all clips, so that the files are there."""
        try:
            if self.recording:
                self.stop_recording()
        finally:
            try:
                if self._recorder:
                    self._recorder.close()
            finally:
                self._forget()
                self._forget, self._recorder = _nothing, None

    def _begin_episode(self) -> None:
        """Count an episode; a clip without a fixed length ends with the episode before."""
        self.episode_id += 1
        if self.recording and self.video_length == float("inf"):
            self.stop_recording()
        if self._fires(self.episode_trigger, self.episode_id):
            self.start_recording(f"{self.name_prefix}-episode-{self.episode_id}")

    def _begin_at_step(self) -> None:
        """Begin a clip where the step asks for one."""
        if self._fires(self.step_trigger, self.step_id):
            self.start_recording(f"{self.name_prefix}-step-{self.step_id}")

    def _count_frame(self) -> None:
        """Count a frame of the clip, which ends once it has more than `video_length` of them."""
        self._frame_count += 1
        if self._frame_count > self.video_length:
            self.stop_recording()

    def _fires(self, trigger: Trigger | None, number: int) -> bool:
        """Ask a trigger. One that raises costs a clip and not the training, unless the recorder is strict."""
        try:
            return trigger is not None and bool(trigger(number))
        except Exception as exc:
            if self._arguments.config and self._arguments.config.strict:
                raise
            logger.warn(f"{getattr(trigger, '__qualname__', trigger)} raised {type(exc).__name__}: {exc}; ignored")
            return False


def _finish(recorder: Recorder, pid: int, thread: int) -> None:
    """Close a recorder whose environment was not closed: it was let go, or the program ends."""
    if os.getpid() != pid:
        return
    try:
        if recorder.is_recording:
            logger.warn("The environment was never closed, so its last video ends here. Call close().")
    finally:
        if threading.get_ident() != thread:
            # The garbage collector runs on any thread, on the recorder's own too, which can't wait for itself.
            threading.Thread(target=recorder.close).start()
        else:
            with suppress(KeyboardInterrupt):  # It has done what it should, and nobody could take it from here.
                recorder.close()


def _nothing() -> None:
    """Do nothing, where there is no recorder to release."""


def _conflict(field: str, value: object, allowed: str) -> ConfigurationError:
    return ConfigurationError(f"config.{field}: got {value!r}; allowed: {allowed}")
