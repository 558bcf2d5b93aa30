"""One clip in a worker: its frames go into segments, or into the last seconds that are held in memory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ..clip import DropCause
from ..config import EncodeSettings
from ..errors import CodecUnavailableError, EncodeError, describe
from ..storage.files import PART_SUFFIX
from .codecs import choose_codec
from .lost_segment import Failure, close_lost_segment
from .packet_ring import PacketRing, SavedRing
from .protocol import BeginClip, EncodeFrame, EndClip, Remux, Reply, RingSaved, SegmentClosed, SegmentOpened
from .segment_writer import ClipWriter

Pixels = NDArray[np.uint8]
Send = Callable[[Reply], None]


class FrameEncoder(Protocol):
    """Takes the frames of one clip, and reports what became of them."""

    failure: Failure | None
    """Why the rest of the clip is not encoded."""

    def write(self, pixels: Pixels, frame: EncodeFrame) -> Failure | None:
        """Encode one frame, `[height, width, 3]`; return why it is lost."""
        ...

    def end(self, command: EndClip) -> None:
        """Finish the clip."""
        ...

    def close(self) -> None:
        """Keep on disk what the clip has, without knowing its end."""
        ...


class ClipEncoder:
    """Encodes a clip into segments.

    Args:
        begin: The clip.
        settings: How to encode.
        folder: Output folder.
        min_free_bytes: See `ClipWriter`.
        send: Hears of segments.
    """

    def __init__(
        self, begin: BeginClip, settings: EncodeSettings, folder: Path, *, min_free_bytes: int, send: Send
    ) -> None:
        self.failure: Failure | None = None
        self._clip = begin.clip
        self._folder = folder
        self._send = send
        self._reported_part: str | None = None
        self._reported_segments = 0
        self._remove_unreported(begin)
        self._writer = ClipWriter(
            folder,
            begin.name,
            settings,
            start_step=begin.start_step,
            frame_stride=begin.frame_stride,
            first_index=begin.first_index,
            min_free_bytes=min_free_bytes,
        )

    def write(self, pixels: Pixels, frame: EncodeFrame) -> Failure | None:
        """See `FrameEncoder`; after the first frame that is lost here, all are."""
        if self.failure:
            return self.failure
        try:
            self._writer.write(pixels, step=frame.step, pts=frame.pts)
            self._report_segments()
            self._report_open_segment()
        except EncodeError as exc:
            self._fail(exc)
        return self.failure

    def end(self, command: EndClip) -> None:
        """See `FrameEncoder`."""
        self._close(command.end_pts)

    def close(self) -> None:
        """See `FrameEncoder`."""
        self._close(None)

    def _close(self, end_pts: int | None) -> None:
        if self.failure:
            return
        try:
            self._writer.close(end_pts)
            self._report_segments()
        except EncodeError as exc:
            self._fail(exc)

    def _fail(self, exc: EncodeError) -> None:
        """Give the clip up; keep what its open segment already holds on disk, where that can be done."""
        self.failure = Failure(cause=exc.cause, message=describe(exc))
        part = self._writer.open_segment
        self._report_segments()
        self._writer.abandon()
        if part:
            command = Remux(clip=self._clip, part=part, final=part.removesuffix(PART_SUFFIX))
            for reply in close_lost_segment(self._folder, command, self.failure):
                self._send(reply)

    def _report_open_segment(self) -> None:
        writer, file = self._writer, self._writer.open_segment
        if file and writer.size and writer.codec and file != self._reported_part:
            self._reported_part = file
            width, height = writer.size
            self._send(
                SegmentOpened(
                    clip=self._clip, file=file, width=width, height=height, codec=writer.codec, padded=writer.padded
                )
            )

    def _report_segments(self) -> None:
        for segment in self._writer.segments[self._reported_segments :]:
            self._reported_segments += 1
            self._send(SegmentClosed(clip=self._clip, segment=segment))

    def _remove_unreported(self, begin: BeginClip) -> None:
        """Remove what a worker left that was lost before it could report the segment: nothing in it is missed."""
        part = self._folder / f"{begin.name}.{begin.first_index:03d}.mp4{PART_SUFFIX}"
        try:
            part.unlink(missing_ok=True)
        except OSError:
            return  # Opening the segment finds it, and says so.


class RingEncoder:
    """Encodes a clip of which only the last seconds are held, in memory, until they are asked for.

    Args:
        begin: The clip.
        settings: How to encode.
        folder: Output folder.
        send: Hears what became of it.
    """

    def __init__(self, begin: BeginClip, settings: EncodeSettings, folder: Path, *, send: Send) -> None:
        self.failure: Failure | None = None
        self._clip = begin.clip
        self._settings = settings
        self._folder = folder
        self._send = send
        self._ring = PacketRing(
            settings,
            start_step=begin.start_step,
            frame_stride=begin.frame_stride,
            limit_s=begin.ring_s,
            limit_nbytes=begin.ring_nbytes,
        )

    def write(self, pixels: Pixels, frame: EncodeFrame) -> Failure | None:
        """See `FrameEncoder`; a frame that is lost takes the group of frames that it is in along, and no more."""
        height, width = pixels.shape[:2]
        try:
            codec = choose_codec(self._settings, int(width), int(height))
            self._ring.write(pixels, step=frame.step, pts=frame.pts, codec=codec)
        except EncodeError as exc:
            return Failure(cause=exc.cause, message=describe(exc))
        except CodecUnavailableError as exc:
            return Failure(cause=DropCause.ENCODE_FAILED, message=describe(exc))
        return None

    def end(self, command: EndClip) -> None:
        """Write what is wanted of it, or nothing, and forget the rest."""
        if command.saved_as:
            self._save(command)
        self.close()

    def close(self) -> None:
        """Forget what is held."""
        self._ring.abandon()

    def _save(self, command: EndClip) -> None:
        try:
            saved = self._ring.save(self._folder, command.saved_as, seconds=command.seconds)
        except EncodeError as exc:
            self._send(self._saved(None, Failure(cause=exc.cause, message=describe(exc))))
            return
        self._send(self._saved(saved, None))
        if saved:
            self._send(SegmentClosed(clip=self._clip, segment=saved.segment))

    def _saved(self, saved: SavedRing | None, failure: Failure | None) -> RingSaved:
        return RingSaved(
            clip=self._clip,
            steps=list(saved.steps) if saved else [],
            width=saved.width if saved else 0,
            height=saved.height if saved else 0,
            codec=saved.codec if saved else "",
            cause=failure.cause if failure else None,
            message=failure.message if failure else "",
        )
