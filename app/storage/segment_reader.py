"""Reading segments, closed or open, also those that were cut anywhere."""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
from av.container import InputContainer
from av.video.stream import VideoStream

from .files import open_ordinary
from .segment_container import Packet, SegmentLabel

_BOX_HEAD_NBYTES = 8
_HEAD_KINDS = (b"ftyp", b"free", b"moov", b"mdat")
"""What a segment holds up to the end of its first fragment."""
_SCAN_NBYTES = 2**20
_MOST_BLANK_NBYTES = 2**26
_FRAME_COUNT = re.compile(rb"(?=trun.{4}(.{4})|st(?:sz|z2).{8}(.{4})|cmov)", re.DOTALL)
"""Where a description says how many frames follow (wherever it hides), or is packed so that nobody sees."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentReader:
    """An MP4 that says which steps it shows, open for reading."""

    container: InputContainer
    stream: VideoStream
    time_base: Fraction
    """Seconds of one unit of a packet's time."""
    label: SegmentLabel
    is_finished: bool
    """Whether its description comes last, as in a file that was closed: how long its last frame lasts was meant so."""

    def packets(self) -> Iterator[Packet]:
        """Yield the packets, in order, up to the first that is not whole."""
        try:
            for packet in self.container.demux(self.stream):
                if packet.is_corrupt:
                    return
                if packet.pts is not None and packet.size:  # The end has neither.
                    yield packet
        except (av.InvalidDataError, av.EOFError):
            return

    def pts(self, time: int | None) -> int:
        """Return a packet's or a frame's time as `pts` of the file, in frames."""
        return self.label.pts((time or 0) * self.time_base)


@contextmanager
def open_segment(path: Path) -> Iterator[SegmentReader | None]:
    """Open a segment for reading; None where the file ends before its first frame.

    Raises:
        OSError: the file can't be read (also from FFmpeg), or is a link.
        ValueError: it says that it has more frames than bytes, or its video is of an unknown kind.
        UnlabelledError: it can be played, and stepreel did not write it.
    """
    with closing(_HeadOfFile(path)) as head:
        if not head.has_index:
            yield None
            return
        with av.open(head, "r", format="mp4") as container:
            label = SegmentLabel.from_comment(container.metadata.get("comment"))
            if label is None or not container.streams.video:
                raise UnlabelledError("it does not say which steps it shows; stepreel did not write it")
            stream = container.streams.video[0]
            if getattr(stream, "codec_context", None) is None:  # PyAV's types don't tell.
                raise ValueError("its video is of no kind that can be decoded")
            time_base = stream.time_base or Fraction(1)
            yield SegmentReader(
                container=container, stream=stream, time_base=time_base, label=label, is_finished=head.is_finished
            )


def ends_before_first_frame(path: Path) -> bool:
    """Return whether a file is the beginning of a segment in which no frame is whole: there is nothing to lose in it.

    Only of use where `open_segment` finds no frame. A damaged file is none.

    Raises:
        OSError: the file can't be read.
    """
    with closing(_HeadOfFile(path)) as head:
        return head.is_beginning


class UnlabelledError(ValueError):
    """A video that stepreel did not write."""


class _HeadOfFile:
    """The head of a file that FFmpeg can read: it refuses one that ends inside of a box that describes a fragment.

    Args:
        path: An MP4 that may have been cut anywhere.
    """

    def __init__(self, path: Path) -> None:
        self._file = open_ordinary(path)
        self.has_index = False
        """Whether the description of the streams is whole, without which there are no frames."""
        self.is_finished = False
        """Whether the description comes behind the frames."""
        self.is_beginning = False
        """Whether the file ends before its first fragment does."""
        try:
            self._nbytes = self._find_end()
            self._file.seek(0)
        except BaseException:
            self.close()
            raise

    def read(self, nbytes: int = -1) -> bytes:
        """Read at most `nbytes` bytes."""
        rest = max(0, self._nbytes - self._file.tell())
        return self._file.read(rest if nbytes < 0 else min(nbytes, rest))

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move to an offset [bytes], and return it."""
        if whence == os.SEEK_END:
            return self._file.seek(self._nbytes + offset)
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        """Return the offset [bytes] of the next read."""
        return self._file.tell()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _find_end(self) -> int:
        """Return the end of the last box that is whole; of a box of frames, its beginning is of use, too."""
        file_nbytes = self._file.seek(0, os.SEEK_END)
        offset = frame_count = 0
        is_head = True
        has_frames = False
        while (box := self._box_at(offset)) and box.end <= file_nbytes and not self._is_blank_description(box):
            self.has_index |= box.kind == b"moov"
            self.is_finished |= box.kind == b"moov" and has_frames
            has_frames |= box.kind == b"mdat"
            frame_count += self._announced_frames(offset, box)
            if frame_count > file_nbytes:  # FFmpeg would take memory for each of them.
                raise ValueError("it says that it has more frames than bytes")
            is_head &= box.kind == b"ftyp" if offset == 0 else box.kind in (b"free", b"moov")
            offset = box.end
        is_cut = box is not None or file_nbytes - offset < _BOX_HEAD_NBYTES or self._is_blank_from(offset)
        self.is_beginning = is_head and is_cut and (box is None or box.kind in _HEAD_KINDS)
        return file_nbytes if box and box.kind == b"mdat" else offset

    def _is_blank_description(self, box: _Box) -> bool:
        # The label comes last in it.
        return box.kind == b"moov" and self._is_blank_from(box.end - _BOX_HEAD_NBYTES)

    def _is_blank_from(self, offset: int) -> bool:
        """Return whether nothing but zeros follows: a power cut took what was written, and left the file's length."""
        if os.fstat(self._file.fileno()).st_size - offset > _MOST_BLANK_NBYTES:
            return False  # No fragment is that large; a file that somebody made may be, at no cost.
        self._file.seek(offset)
        while block := self._file.read(_SCAN_NBYTES):
            if block.strip(b"\0"):
                return False
        return True

    def _announced_frames(self, offset: int, box: _Box) -> int:
        """Return how many frames a box says that there are, at most."""
        count = 0
        while box.kind not in (b"mdat", b"free") and offset < box.end:
            self._file.seek(offset)
            data = self._file.read(min(_SCAN_NBYTES + 16, box.end - offset))
            for match in _FRAME_COUNT.finditer(data):
                if match.start() < _SCAN_NBYTES:
                    count += int.from_bytes(match[1] or match[2] or b"\xff\xff\xff\xff\xff\xff\xff\xff")
            offset += _SCAN_NBYTES
        return count

    def _box_at(self, offset: int) -> _Box | None:
        self._file.seek(offset)
        head = self._file.read(16)
        if len(head) < _BOX_HEAD_NBYTES:
            return None
        nbytes, kind = struct.unpack(">I4s", head[:8])
        if nbytes == 1 and len(head) == 16:
            (nbytes,) = struct.unpack(">Q", head[8:])
        return _Box(kind=kind, end=offset + nbytes) if nbytes >= 8 else None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Box:
    """A box of an MP4 (ISO/IEC 14496-12, 4.2)."""

    kind: bytes
    end: int
