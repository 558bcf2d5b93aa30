"""The last seconds of a stream, encoded and held in memory: what a clip is made of once somebody asks for it."""

from __future__ import annotations

import io
from collections import deque
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from ..clip import Segment
from ..config import EncodeSettings
from ..errors import EncodeError
from ..storage.files import PART_SUFFIX
from ..storage.segment_container import PartFile, SegmentLabel, encode_error, open_container, publish
from .segment_writer import SegmentFile


class MemoryFile:
    """Stands in for a `PartFile`: what is written stays in memory."""

    def __init__(self) -> None:
        self._buffer = io.BytesIO()
        self._is_abandoned = False

    def write(self, data: bytes) -> int:
        """Write all of `data`; nothing once the file was abandoned."""
        return len(data) if self._is_abandoned else self._buffer.write(data)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move to an offset [bytes], and return it."""
        return self._buffer.seek(offset, whence)

    def tell(self) -> int:
        """Return the offset [bytes] of the next write."""
        return self._buffer.tell()

    def close(self) -> int:
        """Return the size [bytes]."""
        return len(self._buffer.getbuffer())

    def abandon(self) -> None:
        """Take nothing more."""
        self._is_abandoned = True

    @property
    def data(self) -> bytes:
        """What was written."""
        return self._buffer.getvalue()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Group:
    """Frames from one keyframe to the next, as an MP4 of their own."""

    label: SegmentLabel
    steps: tuple[int, ...]
    size: tuple[int, int]
    codec: str
    data: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedRing:
    """What was written of a ring."""

    segment: Segment
    steps: tuple[int, ...]
    """Of its frames, ascending."""
    width: int
    height: int
    codec: str


class PacketRing:
    """Encodes the frames of one stream, and forgets the oldest. For one thread.

    Args:
        settings: How to encode; `gop_s` is also the unit in which frames are forgotten.
        start_step: The step shown at `pts` 0.
        frame_stride: Steps from one `pts` to the next.
        limit_s: Seconds of video that are held at least, once there are as many; one `gop_s` more at most.
        limit_nbytes: Encoded bytes that are held at most, but for the group that is being encoded.
    """

    def __init__(
        self, settings: EncodeSettings, *, start_step: int, frame_stride: int, limit_s: float, limit_nbytes: int
    ) -> None:
        self._settings = settings
        self._start_step = start_step
        self._frame_stride = frame_stride
        self._limit_frames = limit_s * settings.fps
        self._limit_nbytes = limit_nbytes
        self._groups: deque[_Group] = deque()
        self._nbytes = 0
        self._file: SegmentFile | None = None
        self._memory = MemoryFile()
        self._codec = ""
        self._base_pts = 0
        self._steps: list[int] = []

    def write(self, pixels: NDArray[np.uint8], *, step: int, pts: int, codec: str) -> None:
        """Encode one frame, with an encoder for pictures of its size.

        Raises:
            EncodeError: the frame, and the group that it would be in, are lost.
        """
        height, width = pixels.shape[:2]
        try:
            if self._file and (
                pts - self._base_pts >= self._settings.gop_frames or self._file.picture_size != (width, height)
            ):
                self._close_group(pts)
            if self._file is None:
                self._open_group(codec, width, height, pts)
            assert self._file is not None
            self._file.write(pixels, pts - self._base_pts)
            self._steps.append(step)
        except EncodeError:
            self.abandon()
            raise

    def save(self, folder: Path, name: str, *, seconds: float) -> SavedRing | None:
        """Write the frames of the last `seconds` of video, from the keyframe before, to `<name>.mp4`.

        The ring is empty afterwards. Where the pictures have changed their size, those of the last size are written.

        Returns:
            None where nothing is held.

        Raises:
            EncodeError: the file can't be written.
        """
        if self._file:
            self._close_group(self._pts(self._steps[-1]) + 1)
        groups = self._wanted_groups(seconds)
        self._groups.clear()
        self._nbytes = 0
        return _join(groups, folder, name) if groups else None

    def abandon(self) -> None:
        """Forget the group that is being encoded, and free the encoder."""
        file, self._file = self._file, None
        self._steps = []
        if file:
            file.abandon()

    def _pts(self, step: int) -> int:
        return (step - self._start_step) // self._frame_stride

    def _open_group(self, codec: str, width: int, height: int, pts: int) -> None:
        label = SegmentLabel(
            clip="ring",
            start_step=self._start_step + pts * self._frame_stride,
            frame_stride=self._frame_stride,
            fps=self._settings.fps,
        )
        self._memory = MemoryFile()
        self._file = SegmentFile(Path("ring"), label, self._settings, codec, width, height, part=self._memory)
        self._codec = codec
        self._base_pts = pts
        self._steps = []

    def _close_group(self, end_pts: int) -> None:
        file, steps = self._file, tuple(self._steps)
        assert file is not None
        file.finish(end_pts - self._base_pts)
        self._file, self._steps = None, []
        group = _Group(label=file.label, steps=steps, size=file.size, codec=self._codec, data=self._memory.data)
        self._groups.append(group)
        self._nbytes += len(group.data)
        while len(self._groups) > 1 and (self._nbytes > self._limit_nbytes or self._is_old(self._groups[1], end_pts)):
            self._nbytes -= len(self._groups.popleft().data)

    def _is_old(self, group: _Group, end_pts: int) -> bool:
        return end_pts - self._pts(group.steps[0]) >= self._limit_frames

    def _wanted_groups(self, seconds: float) -> list[_Group]:
        if not self._groups:
            return []
        last = self._groups[-1]
        first_pts = self._pts(last.steps[-1]) + 1 - seconds * float(self._settings.fps)
        wanted: list[_Group] = []
        for group in reversed(self._groups):
            if (group.size, group.codec) != (last.size, last.codec) or (
                wanted and self._pts(wanted[0].steps[0]) <= first_pts
            ):
                break
            wanted.insert(0, group)
        return wanted


def _join(groups: list[_Group], folder: Path, name: str) -> SavedRing:
    """Write groups one after the other, as they were encoded."""
    final, part = folder / f"{name}.mp4", folder / f"{name}.000.mp4{PART_SUFFIX}"
    first = groups[0].label
    label = SegmentLabel(clip=name, start_step=groups[0].steps[0], frame_stride=first.frame_stride, fps=first.fps)
    try:
        file = PartFile(part)
        try:
            end_pts = _mux(groups, file, label)
            nbytes = file.close()
        except BaseException:
            file.abandon()
            part.unlink(missing_ok=True)
            raise
        publish(part, final)
    except (av.FFmpegError, OSError, ValueError) as exc:
        raise encode_error(part, "written", exc) from exc
    steps = tuple(step for group in groups for step in group.steps)
    segment = Segment(
        file=final.name,
        first_step=steps[0],
        last_step=steps[-1],
        frames=len(steps),
        nbytes=nbytes,
        duration_s=float(end_pts / label.fps),
    )
    width, height = groups[-1].size
    return SavedRing(segment=segment, steps=steps, width=width, height=height, codec=groups[-1].codec)


def _mux(groups: list[_Group], file: PartFile, label: SegmentLabel) -> int:
    """Copy the packets of all groups into one file; return its end, in frames."""
    container = open_container(file, label)
    stream = None
    end = Fraction(0)
    for group in groups:
        start_pts = (group.label.start_step - label.start_step) // label.frame_stride
        with av.open(io.BytesIO(group.data), "r", format="mp4") as source:
            video = source.streams.video[0]
            time_base = video.time_base or Fraction(1)
            if stream is None:
                stream = container.add_stream_from_template(video)
                stream.time_base = time_base
            shift = round(start_pts / label.fps / time_base)
            for packet in source.demux(video):
                if packet.pts is None or packet.dts is None or not packet.size:
                    continue
                packet.pts += shift
                packet.dts += shift
                end = (packet.dts + (packet.duration or 0)) * time_base
                packet.stream = stream
                container.mux_one(packet)
    container.close()
    return round(end * label.fps)
