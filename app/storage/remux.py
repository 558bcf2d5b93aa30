"""What a killed worker left behind -> a closed segment."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import av

from ..clip import Segment
from ..errors import EncodeError
from .files import DRAFT_SUFFIX, sync_folder
from .segment_container import Packet, PartFile, encode_error, open_container, publish
from .segment_reader import SegmentReader, open_segment


def remux(folder: Path, part_name: str, final_name: str) -> Segment | None:
    """Repair a segment that was never closed: keep every frame up to its last complete fragment, encoded as it was.

    The part is removed once the repaired file is whole on the disk under `final_name`. A part without a single
    frame is removed, too. Doing it again, also after having been interrupted, gives the same answer.

    Args:
        folder: Output folder.
        part_name: File name of the segment, ending in `.part`.
        final_name: File name that it gets; not that of another file.

    Returns:
        What the segment holds; None where there is no part, or nothing in it that can be played.

    Raises:
        EncodeError: the part can't be read or the repaired file not written; the part is still there.
    """
    part, final = folder / part_name, folder / final_name
    try:
        if os.path.lexists(final):
            return _finish_interrupted(part, final)
        if not os.path.lexists(part):
            return None
        segment = _copy_frames(part, final)
        part.unlink()
        sync_folder(folder)
    except (av.FFmpegError, OSError, ValueError) as exc:
        raise encode_error(part, "repaired", exc) from exc
    return segment


class Tally:
    """Counts the packets of a segment."""

    def __init__(self, reader: SegmentReader) -> None:
        stream = reader.stream
        self._reader = reader
        self._time_base = reader.time_base
        self._end = 0
        self.label = reader.label
        self.size = (stream.width, stream.height)
        """Width and height [pixels]."""
        self.codec = stream.codec_context.name
        self.steps: list[int] = []
        """The step of each frame counted, in order."""

    def add(self, packet: Packet) -> None:
        """Count the next packet."""
        self.steps.append(self.label.step(self._reader.pts(packet.pts)))
        # The first frame may be decoded before it is shown; its duration counts from there.
        self._end = (packet.dts or 0) + (packet.duration or 0)

    def to_segment(self, file: str, nbytes: int) -> Segment | None:
        """Return the segment that was counted, or None where it had no frame."""
        if not self.steps:
            return None
        return Segment(
            file=file,
            first_step=self.steps[0],
            last_step=self.steps[-1],
            frames=len(self.steps),
            nbytes=nbytes,
            duration_s=float(self._end * self._time_base),
        )


def measure(path: Path) -> Tally | None:
    """Count what a segment holds up to its last complete fragment; None where it ends before its first frame.

    Raises:
        OSError, ValueError, av.FFmpegError: it can't be read, or is not a segment.
    """
    with open_segment(path) as reader:
        if reader is None:
            return None
        tally = Tally(reader)
        for packet in reader.packets():
            tally.add(packet)
        return tally


def _finish_interrupted(part: Path, final: Path) -> Segment:
    """Return what the repaired file holds, which is there already, and remove the part if that is still there."""
    tally = measure(final)
    segment = tally.to_segment(final.name, final.stat().st_size) if tally else None
    if tally is None or segment is None:
        raise EncodeError(f"{part} can't be repaired: {final.name} is there and can't be played; move it away")
    rest = measure(part) if os.path.lexists(part) else None
    if rest and (rest.label != tally.label or not set(rest.steps) <= set(tally.steps)):
        raise EncodeError(f"{part} can't be repaired: {final.name} is there and shows something else; move it away")
    part.unlink(missing_ok=True)
    return segment


def _copy_frames(part: Path, final: Path) -> Segment | None:
    draft = part.with_name(part.name + DRAFT_SUFFIX)
    draft.unlink(missing_ok=True)
    with open_segment(part) as reader:
        segment = _copy(reader, draft, final.name) if reader else None
    if segment:
        publish(draft, final)
    draft.unlink(missing_ok=True)
    return segment


def _copy(reader: SegmentReader, draft: Path, final_name: str) -> Segment | None:
    tally = Tally(reader)
    file = PartFile(draft)
    try:
        container = open_container(file, reader.label)
        stream = container.add_stream_from_template(reader.stream)
        stream.time_base = reader.stream.time_base
        for packet, is_last in _with_end(reader.packets()):
            if is_last and not reader.is_finished:
                # It may last until a frame that is lost: the steps in between would have no room to be drawn.
                packet.duration = min(packet.duration or 1, round(1 / (reader.label.fps * reader.time_base)))
            tally.add(packet)
            packet.stream = stream
            container.mux_one(packet)
        container.close()  # Not after an error: it would take the place of the one that tells why.
        return tally.to_segment(final_name, file.close())
    except BaseException:
        file.abandon()
        draft.unlink(missing_ok=True)
        raise


def _with_end(packets: Iterator[Packet]) -> Iterator[tuple[Packet, bool]]:
    """Yield each packet, and whether it is the last."""
    before = next(packets, None)
    for packet in packets:
        assert before is not None
        yield before, False
        before = packet
    if before is not None:
        yield before, True
