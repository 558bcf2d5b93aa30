"""`RerunHook` and `log_clip`: clips as video streams in a Rerun recording, on the timeline of the training's steps."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from ..clip import Clip
from ..errors import HookError
from ..storage.encoded_frames import EncodedFrame, encoded_frames
from ..storage.manifest import read_manifest
from .background import BackgroundHook, stream_key

if TYPE_CHECKING:
    from rerun import RecordingStream

_Format: TypeAlias = tuple[str, tuple[int, int]]
"""The codec, and the size of the video [pixels]."""

_CODECS = {"h264": "H264", "hevc": "H265", "av1": "AV1", "vp9": "VP9"}
"""What Rerun calls the codecs that it can show, by their names in FFmpeg. Its older versions know fewer."""
_BATCH_NBYTES = 2**20


class RerunHook(BackgroundHook):
    """Logs the encoded frames of each clip, each at its step; nothing is decoded, nothing encoded again.

    They are one `VideoStream` called `clip`, of a recorder with several streams `clip/<stream>`. A scalar that training
    logs at `rerun.set_time("step", sequence=step)` stands beside the picture of that step.

    Rerun wants one codec and one size in an entity: a clip that has another one is refused with a `HookError`.
    """

    def __init__(
        self, recording: RecordingStream | None = None, *, entity: str = "clip", timeline: str = "step"
    ) -> None:
        """Take a recording.

        Args:
            recording: To be closed after the hook. None: the one that is active where the hook is made.
            entity: Path of the video stream, as in `rerun.log`.
            timeline: The sequence on which steps are counted.

        Raises:
            HookError: no recording is given, and none is active.
        """
        self._log = _ClipLog(recording, entity, timeline)
        super().__init__()

    def send(self, clip: Clip) -> None:
        """Log a clip's frames; nothing where it has no file."""
        self._log.add(clip)


def log_clip(
    clip: Clip | Path | str,
    recording: RecordingStream | None = None,
    *,
    entity: str = "clip",
    timeline: str = "step",
) -> None:
    """Log a clip that is there already, as `RerunHook` does; returns once Rerun has it.

    Args:
        clip: A clip of `recorder.summary()`, or the path of a manifest.
        recording: None: the one that is active.
        entity: Path of the video stream, as in `rerun.log`.
        timeline: The sequence on which steps are counted.

    Raises:
        HookError: there is no recording; or Rerun does not show the clip's codec, or its codec or size changes: the
            segments before that are logged.
        OutputError: a file can't be read, is damaged, or not of stepreel.
    """
    log = _ClipLog(recording, entity, timeline)
    log.add(clip if isinstance(clip, Clip) else read_manifest(Path(clip)))


class _ClipLog:
    """Clips on their way into a recording; knows what each entity holds."""

    def __init__(self, recording: RecordingStream | None, entity: str, timeline: str) -> None:
        # Found here and now: a recording may be active on one thread only, and the hook's is another.
        self._recording = _active_recording() if recording is None else recording
        self._entity = entity
        self._timeline = timeline
        self._formats: dict[str, _Format] = {}

    def add(self, clip: Clip) -> None:
        entity = _entity_of(clip, self._entity)
        for path in clip.paths:
            for batch in _batches(encoded_frames(path)):
                self._check(entity, clip, batch[0])  # A file has one codec and one size.
                self._send(entity, batch)

    def _check(self, entity: str, clip: Clip, frame: EncodedFrame) -> None:
        """Refuse what an entity can't take beside what it holds; tell Rerun the codec of a new one."""
        found = (frame.codec, frame.size)
        if entity not in self._formats:
            self._announce(entity, clip, frame.codec)
            self._formats[entity] = found
        if self._formats[entity] != found:
            raise HookError(
                f"{clip.name} is not logged from step {frame.step} on: it is {_describe(found)}, "
                f"and {entity} holds {_describe(self._formats[entity])}; log it under another entity"
            )

    def _announce(self, entity: str, clip: Clip, codec: str) -> None:
        from rerun import VideoCodec, VideoStream, log

        shown = {name: VideoCodec[theirs] for name, theirs in _CODECS.items() if theirs in VideoCodec.__members__}
        if codec not in shown:
            raise HookError(
                f"{clip.name} is not logged: its codec is {codec}; Rerun shows {', '.join(shown)}: "
                'record with codec="libx264"'
            )
        log(entity, VideoStream(codec=shown[codec]), static=True, recording=self._recording, strict=True)

    def _send(self, entity: str, frames: list[EncodedFrame]) -> None:
        from rerun import TimeColumn, VideoStream, send_columns

        steps = TimeColumn(self._timeline, sequence=[frame.step for frame in frames])
        samples = VideoStream.columns(sample=[frame.data for frame in frames])
        # Unlike `log`, it leaves the time alone that the caller's thread has set.
        send_columns(entity, [steps], samples, recording=self._recording, strict=True)


def _active_recording() -> RecordingStream:
    from rerun import get_data_recording

    recording = get_data_recording()
    if recording is None:
        raise HookError("recording: got None, and none is active; call rerun.init first, or pass a RecordingStream")
    return recording


def _entity_of(clip: Clip, entity: str) -> str:
    from rerun import escape_entity_path_part

    return stream_key(entity, replace(clip, stream=escape_entity_path_part(clip.stream)))


def _batches(frames: Iterable[EncodedFrame]) -> Iterator[list[EncodedFrame]]:
    """Yield frames in lists that begin with a keyframe, each ended by the first keyframe after `_BATCH_NBYTES`."""
    batch: list[EncodedFrame] = []
    nbytes = 0
    for frame in frames:
        if frame.is_keyframe and nbytes >= _BATCH_NBYTES:
            yield batch
            batch, nbytes = [], 0
        batch.append(frame)
        nbytes += len(frame.data)
    if batch:
        yield batch


def _describe(found: _Format) -> str:
    codec, (width, height) = found
    return f"{codec} of {width}x{height}"
