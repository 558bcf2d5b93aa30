"""Frames of one clip -> segments: MP4 files that can be played while they grow and are whole once closed."""

from __future__ import annotations

from contextlib import suppress
from math import ceil
from pathlib import Path

import av
import numpy as np
from av.video.codeccontext import VideoCodecContext
from av.video.frame import PictureType
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream
from numpy.typing import NDArray

from ..clip import DropCause, Segment
from ..config import EncodeSettings
from ..errors import CodecUnavailableError, EncodeError
from ..storage.files import PART_SUFFIX, free_nbytes
from ..storage.segment_container import Packet, Part, PartFile, SegmentLabel, encode_error, open_container, publish
from ..storage.video_colors import TO_VIDEO_COLORS
from .codecs import choose_codec, configure, encoder_pix_fmt, padded_size


class ClipWriter:
    """Writes the frames of one clip, in order, into one segment after another. For one thread.

    A segment is called `<name>.<index>.mp4.part` while it is open. Closed, it is `<name>.mp4` where the clip has
    only this one, else `<name>.<index>.mp4`. No file is ever overwritten.

    After an `EncodeError` the writer is of no more use but for `segments` and `abandon`.

    Args:
        folder: Output folder, which is there.
        name: The clip's name.
        settings: How to encode; a `codec` of "auto" is chosen at each segment's size.
        start_step: The step shown at `pts` 0 of the clip.
        frame_stride: Steps from one `pts` to the next.
        first_index: Number of the first segment, where earlier ones were written by another writer.
        min_free_bytes: Room on the disk below which nothing is recorded; 0: whatever there is. Looked at when a
            segment is opened, and once in each `gop_s` of video.
    """

    def __init__(
        self,
        folder: Path,
        name: str,
        settings: EncodeSettings,
        *,
        start_step: int,
        frame_stride: int,
        first_index: int = 0,
        min_free_bytes: int = 0,
    ) -> None:
        self._folder = folder
        self._name = name
        self._settings = settings
        self._start_step = start_step
        self._frame_stride = frame_stride
        self._index = first_index
        self._min_free_bytes = min_free_bytes
        self._next_look = 0
        self._file: SegmentFile | None = None
        self._base_pts = 0
        self._last_pts = -1
        self._segments: list[Segment] = []
        self.codec: str | None = None
        """Name of the encoder in use; None before the first frame."""
        self.size: tuple[int, int] | None = None
        """Width and height of the video [pixels]; None before the first frame."""
        self.padded = False
        """Whether the video is larger than the frames, because sides had to be even."""

    @property
    def segments(self) -> tuple[Segment, ...]:
        """All segments closed so far; also those that a failed call did not get to return."""
        return tuple(self._segments)

    @property
    def open_segment(self) -> str | None:
        """File name of the open segment, ending in `.part`."""
        return None if self._file is None else self._file.path.name

    def write(self, pixels: NDArray[np.uint8], *, step: int, pts: int) -> tuple[Segment, ...]:
        """Encode one frame.

        Args:
            pixels: Shape `[height, width, 3]`, uint8, sRGB, any strides; may be overwritten after the call.
            step: The step shown.
            pts: Place on the clip's timeline, in frames; greater than that of the frame before.

        Returns:
            The segments that were closed to make way for this frame, at most one.

        Raises:
            EncodeError: the frame, and what else is in the open segment, may be lost; not a picture; or no
                encoder opens at its size. With less than `min_free_bytes` only the frame is lost: the open segment
                was closed first.
            ValueError: `step` and `pts` contradict the clip or one another.
        """
        self._check(pixels, step, pts)
        if self._min_free_bytes and (self._file is None or pts >= self._next_look):
            self._look_for_room(pts)
        closed: tuple[Segment, ...] = ()
        if self._file is not None and self._is_full(self._file, pixels, pts):
            closed = (self._close_file(pts, f"{self._name}.{self._index:03d}.mp4"),)
        if self._file is None:
            self._open_file(pixels, pts)
        assert self._file is not None
        self._file.write(pixels, pts - self._base_pts)
        self._last_pts = pts
        return closed

    def close(self, end_pts: int | None = None) -> tuple[Segment, ...]:
        """Close the open segment, if there is one, and return it.

        Args:
            end_pts: End of the clip's span, exclusive: the last frame lasts until there. None: it lasts one frame.

        Raises:
            EncodeError: the segment stays a `.part` file.
        """
        if self._file is None:
            return ()
        end_pts = max(end_pts or 0, self._last_pts + 1)
        alone = self._index == 0
        return (self._close_file(end_pts, f"{self._name}.mp4" if alone else f"{self._name}.{self._index:03d}.mp4"),)

    def abandon(self) -> None:
        """Let go of the open segment and leave its file as it is."""
        file, self._file = self._file, None
        if file is not None:
            file.abandon()

    def _check(self, pixels: NDArray[np.uint8], step: int, pts: int) -> None:
        if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or 0 in pixels.shape:
            raise EncodeError(f"pixels: got {pixels.dtype} {list(pixels.shape)}; allowed: uint8 [height, width, 3]")
        if pts <= self._last_pts:
            raise ValueError(f"pts: got {pts} after {self._last_pts}; allowed: greater")
        if step != self._start_step + pts * self._frame_stride:
            raise ValueError(f"step: got {step} at pts {pts}; allowed: {self._start_step} + pts * {self._frame_stride}")

    def _look_for_room(self, pts: int) -> None:
        self._next_look = pts + self._settings.gop_frames
        try:
            free = free_nbytes(self._folder)
        except OSError as exc:
            raise encode_error(self._folder, "written", exc) from exc
        if free is not None and free < self._min_free_bytes:
            self.close(pts)
            raise EncodeError(
                f"{self._folder} has {free} bytes left, fewer than min_free_bytes={self._min_free_bytes}; "
                "make room on the disk",
                cause=DropCause.DISK_FULL,
            )

    def _is_full(self, file: SegmentFile, pixels: NDArray[np.uint8], pts: int) -> bool:
        height, width, _ = pixels.shape
        settings = self._settings
        return (
            (width, height) != file.picture_size
            or (settings.segment_s is not None and pts - self._base_pts >= ceil(settings.segment_s * settings.fps))
            or (settings.segment_bytes is not None and file.encoded_nbytes >= settings.segment_bytes)
        )

    def _open_file(self, pixels: NDArray[np.uint8], pts: int) -> None:
        height, width, _ = pixels.shape
        try:
            codec = choose_codec(self._settings, width, height)
        except CodecUnavailableError as exc:
            raise EncodeError(str(exc)) from exc
        # The first segment keeps the clip's own time, so that a late first frame is seen late.
        self._base_pts = 0 if self._index == 0 else pts
        label = SegmentLabel(
            clip=self._name,
            start_step=self._start_step + self._base_pts * self._frame_stride,
            frame_stride=self._frame_stride,
            fps=self._settings.fps,
        )
        path = self._folder / f"{self._name}.{self._index:03d}.mp4{PART_SUFFIX}"
        self._file = SegmentFile(path, label, self._settings, codec, width, height)
        self.codec = codec
        self.size = self._file.size
        self.padded = self.size != (width, height)

    def _close_file(self, end_pts: int, final_name: str) -> Segment:
        assert self._file is not None
        segment = self._file.close(end_pts - self._base_pts, self._folder / final_name)
        self._file = None
        self._index += 1
        self._segments.append(segment)
        return segment


class SegmentFile:
    """One MP4 that is being written: encoder, container, and the packet whose duration is not known yet.

    Times are `pts` of this file, in frames. The container is written through `PartFile`.

    Raises:
        EncodeError: the file can't be made, or the encoder not opened.
    """

    def __init__(
        self,
        path: Path,
        label: SegmentLabel,
        settings: EncodeSettings,
        codec: str,
        width: int,
        height: int,
        *,
        part: Part | None = None,
    ) -> None:
        self.path = path
        self.label = label
        self.picture_size = (width, height)
        self.encoded_nbytes = 0
        """Bytes that came out of the encoder so far."""
        self._settings = settings
        pix_fmt = encoder_pix_fmt(codec, settings.pix_fmt)
        self.size = padded_size(pix_fmt, width, height)
        try:
            self._canvas = Canvas(self.size, pix_fmt)
            self._part = part or PartFile(path)
            self._container = open_container(self._part, label)
            self._stream, self._context = self._add_stream(codec)
        except (av.FFmpegError, OSError, ValueError) as exc:
            raise encode_error(path, "opened", exc) from exc
        self._held: Packet | None = None
        self._muxed = 0
        self._first_pts = -1
        self._last_pts = -1
        self._next_keyframe = 0
        self._frame_count = 0

    def write(self, pixels: NDArray[np.uint8], pts: int) -> None:
        """Encode one frame; it is in the file when the next one is."""
        try:
            frame = self._canvas.draw(pixels)
            frame.pts = pts
            frame.time_base = self._settings.time_base
            if pts >= self._next_keyframe:
                frame.pict_type = PictureType.I
                self._next_keyframe = pts + self._settings.gop_frames
            self._take(self._context.encode(frame))
        except (av.FFmpegError, OSError, ValueError) as exc:
            raise encode_error(self.path, "written", exc) from exc
        if self._frame_count == 0:
            self._first_pts = pts
        self._last_pts = pts
        self._frame_count += 1

    def close(self, end_pts: int, final_path: Path) -> Segment:
        """Finish the file, bring it to the disk, give it its final name, and return what it holds.

        Raises:
            EncodeError: the file stays where it is, playable up to its last fragment.
        """
        try:
            nbytes = self._finish(end_pts)
            publish(self.path, final_path)
        except (av.FFmpegError, OSError, ValueError) as exc:
            raise encode_error(self.path, "closed", exc) from exc
        return Segment(
            file=final_path.name,
            first_step=self.label.step(self._first_pts),
            last_step=self.label.step(self._last_pts),
            frames=self._frame_count,
            nbytes=nbytes,
            duration_s=float(end_pts / self.label.fps),
        )

    def finish(self, end_pts: int) -> int:
        """Finish the file where it is, and return its size [bytes].

        Raises:
            EncodeError: the file stays as it is, playable up to its last fragment.
        """
        try:
            return self._finish(end_pts)
        except (av.FFmpegError, OSError, ValueError) as exc:
            raise encode_error(self.path, "closed", exc) from exc

    def _finish(self, end_pts: int) -> int:
        self._take(self._context.encode(None))
        self._mux(end_pts)
        self._container.close()
        return self._part.close()

    def abandon(self) -> None:
        """Write no more, and free the encoder."""
        self._part.abandon()
        if self._muxed:  # FFmpeg 8 crashes where it ends a file without a packet.
            with suppress(av.FFmpegError, OSError, ValueError):  # The error that led here, told once more.
                self._container.close()

    def _add_stream(self, codec: str) -> tuple[VideoStream, VideoCodecContext]:
        stream = self._container.add_stream(codec)
        if not isinstance(stream, VideoStream):
            raise ValueError(f"{codec} is not a video encoder")
        configure(stream.codec_context, self._settings, *self.size)
        stream.time_base = self._settings.time_base
        self._container.start_encoding()
        return stream, stream.codec_context

    def _take(self, packets: list[Packet]) -> None:
        for packet in packets:
            assert packet.pts is not None
            self._mux(packet.pts)
            packet.stream = self._stream
            self._held = packet
            self.encoded_nbytes += packet.size

    def _mux(self, end_pts: int) -> None:
        """Write the packet held back, which lasts until `end_pts`."""
        packet, self._held = self._held, None
        if packet is None or packet.pts is None:
            return
        # A first frame that comes late is decoded at 0 and shown late: this needs no edit list.
        packet.dts = packet.pts if self._muxed else 0
        packet.duration = end_pts - packet.dts
        self._container.mux_one(packet)
        self._muxed += 1


class Canvas:
    """Memory of FFmpeg's own from which frames are converted.

    Its converter reads a few bytes past the end of a picture, so it may not be given memory that ends there.

    Args:
        size: Width and height of the video [pixels].
        pix_fmt: What the encoder takes.
    """

    def __init__(self, size: tuple[int, int], pix_fmt: str) -> None:
        self._size = size
        self._pix_fmt = pix_fmt
        self._rgb = av.VideoFrame(*size, "rgb24")
        self._reformatter = VideoReformatter()
        plane = self._rgb.planes[0]
        width, height = size
        rows = np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)
        self._pixels = rows[:height, : width * 3].reshape(height, width, 3)

    def draw(self, pixels: NDArray[np.uint8]) -> av.VideoFrame:
        """Return `pixels` in limited-range BT.709, edges repeated where the video is larger."""
        height, width, _ = pixels.shape
        self._pixels[:height, :width] = pixels
        self._pixels[:height, width:] = pixels[:, -1:]
        self._pixels[height:] = self._pixels[height - 1]
        return self._reformatter.reformat(self._rgb, format=self._pix_fmt, **TO_VIDEO_COLORS)
