"""`RecorderConfig`: every setting of a recorder, in one flat frozen dataclass, validated once."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from enum import StrEnum
from fractions import Fraction
from math import floor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import ConfigurationError

if TYPE_CHECKING:
    from argparse import Namespace

MAX_SIDE = 16384
"""Longest side of a picture [pixels], the limit of H.264 level 6.2 encoders."""
FLAGS = (
    *("video_length", "video_interval", "step_offset", "frame_stride"),
    *("queue_depth", "queue_bytes", "drop_policy", "block_timeout_s"),
)
"""The settings that `stepreel.add_video_arguments` makes flags of, and `RecorderConfig.from_arguments` takes."""


class DropPolicy(StrEnum):
    """What happens to frames when the frame queue is full."""

    BLOCK = "block"
    """Wait at most `block_timeout_s` for room, then drop the new frame."""
    DROP_NEWEST = "drop_newest"
    """Drop the new frame."""
    DROP_OLDEST = "drop_oldest"
    """Drop the frame that has waited longest."""
    THIN = "thin"
    """Drop every second waiting frame of the clip that has most waiting, so that its rate halves evenly."""


class RenderTime(StrEnum):
    """When snapshots are drawn."""

    NOW = "now"
    """While training goes on, by workers."""
    LATER = "later"
    """By `stepreel render`, from a file beside the manifest; there are no workers."""


class Finish(StrEnum):
    """What closing a recorder waits for."""

    WAIT = "wait"
    """Until the files are there."""
    BACKGROUND = "background"
    """Nothing: the recording service finishes the clips by itself; `stepreel wait` waits for it."""


class WorkerPriority(StrEnum):
    """How a worker program competes with training for the processor."""

    AUTO = "auto"
    """`IDLE` where the system has it, else `LOW`."""
    IDLE = "idle"
    """Runs only while a core has nothing else to do (`SCHED_IDLE`)."""
    LOW = "low"
    """A smaller share than training (`nice 10`)."""
    NORMAL = "normal"


@dataclass(frozen=True, slots=True, kw_only=True)
class Episode:
    """How an episode went, as the training script told the recorder."""

    number: int
    """Counts the episodes that ended, from 0."""
    step_count: int
    """Steps since the end of the episode before."""
    episode_return: float | None
    """The sum of its rewards; None: not told."""
    terminated: bool
    truncated: bool
    info: Mapping[str, Any]
    """What the environment said with the last step."""


KeepRule = Callable[[Episode], bool]


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodeSettings:
    """How a clip is encoded: what `RecorderConfig` says, with the frame rate known; see `encode_settings` there.

    Raises:
        ConfigurationError: a value that can't work, named with its field and with what is allowed.
    """

    codec: str
    """An encoder's name in FFmpeg, or "auto"."""
    preset: str
    """Of libx264 and libx265; other encoders use their own defaults."""
    crf: int
    """0 (best) to 51; other encoders get the nearest setting that they have."""
    pix_fmt: str
    gop_s: float
    """Most video seconds that a crash may take of an open segment."""
    segment_s: float | None
    """Video seconds after which a clip goes on in a new segment."""
    segment_bytes: int | None
    """Encoded bytes after which a clip goes on in a new segment."""
    fps: Fraction
    """Frames a second of video [Hz], see `as_fraction`."""
    threads: int = 1
    """Of the encoder; a matter of the machine that encodes."""

    def __post_init__(self) -> None:
        _check_fields(self, STORED_ENCODE_SETTINGS)
        if self.fps <= 0:
            raise _refusal("fps", self.fps, "a fraction above 0")
        if self.threads < 1:
            raise _refusal("threads", self.threads, "a whole number, at least 1")

    @property
    def time_base(self) -> Fraction:
        """Seconds of one `pts`."""
        return 1 / self.fps

    @property
    def gop_frames(self) -> int:
        """Distance of keyframes in `pts`: one less than `gop_s`, because a fragment is written one frame late."""
        return max(1, floor(self.gop_s * self.fps) - 1)

    def to_json(self) -> dict[str, Any]:
        """Return what a snapshot file stores: `STORED_ENCODE_SETTINGS`, in JSON types; it has the frame rate apart."""
        return {name: _to_json(getattr(self, name)) for name in STORED_ENCODE_SETTINGS}


STORED_ENCODE_SETTINGS = tuple(one.name for one in fields(EncodeSettings) if one.name not in ("fps", "threads"))
"""Fields of `EncodeSettings` that are settings of `RecorderConfig` by the same names."""


def as_fraction(fps: float) -> Fraction:
    """Return a frame rate [Hz] as a fraction of small numbers, which a container can hold: 29.97 is 2997/100."""
    if fps >= 1:
        return Fraction(fps).limit_denominator(1001)
    return 1 / (1 / Fraction(fps)).limit_denominator(1001)


@dataclass(frozen=True, slots=True, kw_only=True)
class RecorderConfig:
    """Settings of a recorder.

    Raises:
        ConfigurationError: a value that can't work, named with its field and with what is allowed.
    """

    output_dir: str | Path
    """Folder of the clips; made if it is not there."""
    name_prefix: str = "rl-video"
    """Clips are called `<prefix>-step-<N>` and `<prefix>-episode-<N>`."""

    video_length: int = 200
    """Steps of a clip; 0: until the episode ends."""
    video_interval: int = 2000
    """Steps from the start of one clip to the start of the next; 0: one clip. Unused where a trigger is given."""
    step_offset: int = 0
    """Step of the first clip."""
    frame_stride: int = 1
    """Capture every n-th step of a clip."""
    episode_trigger: Callable[[int], bool] | None = None
    """Called with each episode's number, from 0, at its reset; True opens a clip."""
    step_trigger: Callable[[int], bool] | None = None
    """Called with each step's number, from 0; True opens a clip."""

    keep: KeepRule | None = None
    """Called with each episode that ended; a clip for none of whose episodes it returns True is deleted."""

    width: int | None = None
    """Width of the pictures [pixels]; None: from the backend."""
    height: int | None = None
    """Height of the pictures [pixels]; None: from the backend."""
    fps: float | None = None
    """Frames a second of video; None: the backend's steps a second divided by `frame_stride`, so that
    video time is simulation time."""

    codec: str = "auto"
    """An encoder's name in FFmpeg, or "auto": the best that opens on this machine."""
    preset: str = "superfast"
    """Speed preset of libx264 and libx265; other encoders use their own defaults."""
    crf: int = 23
    """Constant rate factor, 0 (best) to 51."""
    pix_fmt: str = "yuv420p"
    """Pixel format of the video, by its name in FFmpeg; yuv420p plays everywhere."""
    gop_s: float = 1.0
    """Video seconds from keyframe to keyframe, which is also the most that a crash takes of an open segment."""
    segment_s: float | None = None
    """Video seconds after which a clip goes on in a new segment; None: never."""
    segment_bytes: int | None = None
    """Bytes after which a clip goes on in a new segment; None: never."""
    keep_last_n_clips: int | None = None
    """Delete older clips of this prefix once there are more; None: keep all."""

    ring_s: float | None = None
    """Seconds of video that are held for `save_last`: every step is captured and encoded; None: nothing is held."""
    ring_bytes: int = 64 * 2**20
    """Encoded bytes that are held for `save_last` at most, of each stream."""
    min_free_bytes: int = 200 * 2**20
    """Room on the disk of `output_dir` below which nothing is recorded; 0: whatever there is."""

    queue_depth: int = 1024
    """Captures that may wait for a worker."""
    queue_bytes: int | None = None
    """Bytes of captures that may wait for a worker; whichever of the two is reached first. None: a quarter of the
    memory that is available when the recorder is made, at most 4 GiB; ranks on one machine share it."""
    drop_policy: DropPolicy = DropPolicy.THIN
    block_timeout_s: float = 1.0
    """Longest wait of one `step` under `DropPolicy.BLOCK` [s]."""

    finish: Finish = Finish.WAIT

    render: RenderTime = RenderTime.NOW
    """When snapshots are drawn; "later" needs a backend whose snapshots can be kept in a file."""
    durable_snapshots: bool = True
    """Write snapshots to disk within a second while their clip is not whole, so that even a kill of everything at once
    leaves a clip that `stepreel recover` finishes."""
    worker_count: int = 1
    """Worker programs; each clip is drawn and encoded by one of them."""
    worker_priority: WorkerPriority = WorkerPriority.AUTO
    worker_device: str = "auto"
    """Where workers draw: "auto" (where training does not compute), "cpu", "cuda" or "cuda:<n>"."""
    render_duty: float | None = None
    """Share of wall-clock time that a worker may spend rendering; 1.0: without pause. None: 1.0, and
    0.05 on the GPU that training computes on."""
    strict: bool = False
    """Raise `RecordingError` from the call after the one in which frames were lost, instead of counting on."""

    def __post_init__(self) -> None:
        _check_fields(self, _CHECKS)
        object.__setattr__(self, "output_dir", Path(self.output_dir))
        object.__setattr__(self, "drop_policy", DropPolicy(self.drop_policy))
        object.__setattr__(self, "finish", Finish(self.finish))
        object.__setattr__(self, "render", RenderTime(self.render))
        object.__setattr__(self, "worker_priority", WorkerPriority(self.worker_priority))
        if self.ring_s and self.render is RenderTime.LATER:
            raise _refusal("ring_s", self.ring_s, 'None with render="later", which encodes nothing')
        if 0 < self.video_interval < self.video_length:
            raise _refusal(
                "video_interval", self.video_interval, f"0 (one clip) or at least video_length ({self.video_length})"
            )
        if 0 < self.video_length < self.frame_stride:
            raise _refusal("frame_stride", self.frame_stride, f"at most video_length ({self.video_length})")

    @classmethod
    def from_arguments(cls, args: Namespace, *, log_dir: str | Path) -> RecorderConfig:
        """Return the settings that a command line gave, with clips in `<log_dir>/videos/train`, as in Isaac Lab.

        Args:
            args: Parsed by a parser that `stepreel.add_video_arguments` was given. Of these settings, those that
                `args` lacks have their defaults; whatever else it has is passed over.
            log_dir: Folder of the training run.

        Raises:
            ConfigurationError: the values don't go together, such as clips longer than their interval.
        """
        given = {name: getattr(args, name) for name in FLAGS if hasattr(args, name)}
        return cls(output_dir=Path(log_dir, "videos", "train"), **given)

    @property
    def output_path(self) -> Path:
        """`output_dir` as a `Path`."""
        return Path(self.output_dir)

    def encode_settings(self, *, fps: float) -> EncodeSettings:
        """Return how clips with `fps` frames a second of video [Hz] are encoded."""
        given = {name: getattr(self, name) for name in STORED_ENCODE_SETTINGS}
        return EncodeSettings(**given, fps=as_fraction(fps))

    def to_json(self) -> dict[str, Any]:
        """Return the settings in JSON types; a trigger is given by its qualified name."""
        return {field.name: _to_json(getattr(self, field.name)) for field in fields(self)}


def check_setting(name: str, value: object) -> str | None:
    """Return what is allowed where a setting can't have `value`, whatever the others are; else None."""
    return _CHECKS[name](value)


def check_name(name: object) -> str | None:
    """Return what is allowed where `name` can't be part of a file name inside the output folder, else None."""
    allowed = "1 to 100 characters, none of them / \\ or a control character, not starting with - or ."
    if not isinstance(name, str) or not 1 <= len(name) <= 100 or len(name.encode("utf-8", "replace")) > 180:
        return allowed
    if name[0] in "-." or any(char in "/\\" or not char.isprintable() for char in name):
        return allowed
    return None


def _check_fields(settings: object, names: Iterable[str]) -> None:
    for name in names:
        value = getattr(settings, name)
        problem = _CHECKS[name](value)
        if problem:
            raise _refusal(name, value, problem)


def _refusal(name: str, value: object, allowed: str) -> ConfigurationError:
    return ConfigurationError(f"{name}: got {value!r}; allowed: {allowed}")


def _to_json(value: object) -> Any:
    if value is None or isinstance(value, bool | int | float):
        return value
    if callable(value):
        return getattr(value, "__qualname__", type(value).__qualname__)
    return str(value)


Check = Callable[[Any], str | None]


def _whole(low: int, high: int | None = None, *, optional: bool = False) -> Check:
    allowed = f"a whole number, at least {low}" if high is None else f"a whole number from {low} to {high}"
    allowed += " or None" if optional else ""

    def check(value: object) -> str | None:
        if value is None and optional:
            return None
        if not isinstance(value, int) or isinstance(value, bool):
            return allowed
        return None if low <= value and (high is None or value <= high) else allowed

    return check


def _real(low: float, high: float = math.inf, *, optional: bool = False) -> Check:
    """Check for a finite number above `low` and at most `high`."""
    allowed = f"a number above {low:g}" + ("" if high == math.inf else f" and at most {high:g}")
    allowed += " or None" if optional else ""

    def check(value: object) -> str | None:
        if value is None and optional:
            return None
        if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
            return allowed
        return None if low < value <= high else allowed

    return check


def _keep_rule(value: object) -> str | None:
    return None if value is None or callable(value) else "a function of one episode, or None"


def _trigger(value: object) -> str | None:
    return None if value is None or callable(value) else "a function of one number, or None"


def _flag(value: object) -> str | None:
    return None if isinstance(value, bool) else "True or False"


def _enum(kind: type[StrEnum]) -> Check:
    allowed = "one of " + ", ".join(member.value for member in kind)

    def check(value: object) -> str | None:
        return None if isinstance(value, str) and value in kind.__members__.values() else allowed

    return check


def _word(value: object) -> str | None:
    ok = isinstance(value, str) and value and value.isascii() and value.replace("_", "").replace("-", "").isalnum()
    return None if ok else "a name in letters, digits, - and _"


def _directory(value: object) -> str | None:
    ok = isinstance(value, str | Path) and str(value) and "\0" not in str(value)
    return None if ok else "a path"


def _device(value: object) -> str | None:
    ok = isinstance(value, str) and (
        value in ("auto", "cpu", "cuda") or (value.startswith("cuda:") and value[5:].isdecimal())
    )
    return None if ok else "auto, cpu, cuda or cuda:<n>"


_CHECKS: dict[str, Check] = {
    "output_dir": _directory,
    "name_prefix": check_name,
    "video_length": _whole(0),
    "video_interval": _whole(0),
    "step_offset": _whole(0),
    "frame_stride": _whole(1),
    "episode_trigger": _trigger,
    "step_trigger": _trigger,
    "keep": _keep_rule,
    "width": _whole(1, MAX_SIDE, optional=True),
    "height": _whole(1, MAX_SIDE, optional=True),
    "fps": _real(0, 1000, optional=True),
    "codec": _word,
    "preset": _word,
    "crf": _whole(0, 51),
    "pix_fmt": _word,
    "gop_s": _real(0, 60),
    "segment_s": _real(0, optional=True),
    "segment_bytes": _whole(1, optional=True),
    "ring_s": _real(0, 3600, optional=True),
    "ring_bytes": _whole(1),
    "min_free_bytes": _whole(0),
    "keep_last_n_clips": _whole(1, optional=True),
    "queue_depth": _whole(1),
    "queue_bytes": _whole(1, optional=True),
    "drop_policy": _enum(DropPolicy),
    "block_timeout_s": _real(0, 3600),
    "finish": _enum(Finish),
    "render": _enum(RenderTime),
    "durable_snapshots": _flag,
    "worker_count": _whole(1, 64),
    "worker_priority": _enum(WorkerPriority),
    "worker_device": _device,
    "render_duty": _real(0, 1, optional=True),
    "strict": _flag,
}
