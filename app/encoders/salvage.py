"""What a killed worker left behind -> a closed segment."""

from __future__ import annotations

from pathlib import Path

import av

from ..clip import Segment
from ..errors import EncodeError
from .files import sync_folder
from .segment_reader import SegmentReader, open_segment
from .segment_writer import Packet, PartFile, SegmentLabel, encode_error, open_container, publish

DRAFT_SUFFIX = ".salvage"
"""Ends the name of a file that is being mended; whatever bears it may be deleted."""


def salvage(folder: Path, part_name: str, final_name: str) -> Segment | None:
    """Mend a segment that was never closed: keep every frame up to its last complete fragment, encoded as it was.

    The part is removed once the mended file is whole on the disk under `final_name`. A part without a single
    frame is removed, too. Doing it again, also after having been interrupted, gives the same answer.

    Args:
        folder: Output folder.
        part_name: File name of the segment, ending in `.part`.
        final_name: File name that it gets; not that of another file.

    Returns:
        What the segment holds; None where there is no part, or nothing in it that can be played.

    Raises:
        EncodeError: the part can't be read or the mended file not written; the part is still there.
    """
    part, final = folder / part_name, folder / final_name
    try:
        if final.exists():
            return _finish_interrupted(part, final)
        if not part.exists():
            return None
        segment = _mend(part, final)
        part.unlink()
        sync_folder(folder)
    except (av.FFmpegError, OSError, ValueError) as exc:
        raise encode_error(part, "salvaged", exc) from exc
    return segment


class _Tally:
    """Counts the packets of a segment."""

    def __init__(self, reader: SegmentReader) -> None:
        self._reader = reader
        self._frame_count = 0
        self._first_pts = 0
        self._last_pts = 0
        self._end = 0

    def add(self, packet: Packet) -> None:
        """Count the next packet."""
        pts = self._reader.pts(packet.pts)
        if not self._frame_count:
            self._first_pts = pts
        self._last_pts = pts
        self._frame_count += 1
        # The first frame may be decoded before it is shown; its duration counts from there.
        self._end = (packet.dts or 0) + (packet.duration or 0)

    def to_segment(self, file: str, nbytes: int) -> Segment | None:
        """Return the segment that was counted, or None where it had no frame."""
        if not self._frame_count:
            return None
        return Segment(
            file=file,
            first_step=self._reader.label.step(self._first_pts),
            last_step=self._reader.label.step(self._last_pts),
            frames=self._frame_count,
            nbytes=nbytes,
            duration_s=float(self._end * self._reader.time_base),
        )


def _finish_interrupted(part: Path, final: Path) -> Segment:
    """Return what the mended file holds, which is there already, and remove the part if that is still there."""
    with open_segment(final) as reader:
        if reader is None:
            raise EncodeError(f"{part} can't be salvaged: {final.name} is there and can't be played; move it away")
        tally = _Tally(reader)
        for packet in reader.packets():
            tally.add(packet)
        segment = tally.to_segment(final.name, final.stat().st_size)
    if segment is None or _label(part) not in (None, reader.label):
        raise EncodeError(f"{part} can't be salvaged: {final.name} is there and shows something else; move it away")
    part.unlink(missing_ok=True)
    return segment


def _label(part: Path) -> SegmentLabel | None:
    if not part.exists():
        return None
    with open_segment(part) as reader:
        return reader.label if reader else None


def _mend(part: Path, final: Path) -> Segment | None:
    draft = part.with_name(part.name + DRAFT_SUFFIX)
    draft.unlink(missing_ok=True)
    with open_segment(part) as reader:
        segment = _copy(reader, draft, final.name) if reader else None
    if segment:
        publish(draft, final)
    draft.unlink(missing_ok=True)
    return segment


def _copy(reader: SegmentReader, draft: Path, final_name: str) -> Segment | None:
    tally = _Tally(reader)
    file = PartFile(draft)
    try:
        with open_container(file, reader.label) as container:
            stream = container.add_stream_from_template(reader.stream)
            stream.time_base = reader.stream.time_base
            for packet in reader.packets():
                tally.add(packet)
                packet.stream = stream
                container.mux_one(packet)
        return tally.to_segment(final_name, file.close())
    except BaseException:
        file.abandon()
        draft.unlink(missing_ok=True)
        raise
