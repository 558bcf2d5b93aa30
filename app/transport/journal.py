"""The journal: all that training tells its recording service, in one order, in a ring of fixed records.

Training writes, the service reads; neither waits. A record is whole once the head counter is past it. It carries its
number and a checksum, so that a torn one is seen. Text follows a record in as many places of the ring as it needs.

    number     uint64  counts the places of the ring that were written, from 0
    kind       uint16  `Kind`
    extra      uint16  places of text that follow; each has its number and 56 bytes
    clip       int32   index of a clip in its recorder
    step       int64
    pts        int64
    offset     int64   of a capture, in the shared memory
    nbytes     int64   of the capture
    height     uint32  of a picture; 0: a snapshot
    width      uint32
    count      uint32  bytes of text
    checksum   uint32  CRC-32 of all before, and of the text

The reader moves `RETAINED` forward once a checkpoint holds all that older records say, so that a service that takes
over reads the checkpoint and then the rest.
"""

from __future__ import annotations

import struct
import zlib
from collections import deque
from enum import IntEnum
from typing import NamedTuple

from ..clip import DropCause
from ..errors import WorkerError
from .shared_memory import (
    RECORD_NBYTES,
    RELEASE_NBYTES,
    ServiceWord,
    SharedMemory,
    TrainingWord,
    aligned,
    store_barrier,
)

CAUSES = tuple(DropCause)
"""A cause's number, in the journal and in shared memory, is its place here."""
_RECORD = struct.Struct("<QHHiqqqqIII")
_CHECKSUM = struct.Struct("<I")
_NUMBER = struct.Struct("<Q")
_TEXT_NBYTES = RECORD_NBYTES - _NUMBER.size
MOST_TEXT_NBYTES = 64 * _TEXT_NBYTES
_MOST_BACKLOG = 4096
_CHECKPOINT = struct.Struct("<QQI")
_OUTCOME_BITS = 8
_MOST_TORN_LOOKS = 500
"""Looks at a record that the head counter says is there, and is not whole, before it is passed over."""
_HEAD = TrainingWord.HEAD
_RETAINED = ServiceWord.RETAINED
_FRAME = 2
"""`Kind.FRAME`, without the enumeration."""


class Kind(IntEnum):
    """What a record tells."""

    CLIP_BEGAN = 1
    """Text: a `ClipBegan`."""
    FRAME = _FRAME
    """A capture lies in the pool."""
    FRAMES_DROPPED = 3
    """Frames from `step` to `pts`, `width` apart, were asked for and come to nothing. `height`: number of the cause."""
    CLIP_ENDED = 4
    """No frame follows; `step` is the last one. Text: a `ClipEnded`."""
    CLIP_DECIDED = 5
    """Whether the clip stays: `pts` is 1, or 0."""
    STREAM_RENEWED = 6
    """A source's description lies in the pool."""
    TROUBLE = 7
    """Text: a `Trouble`."""
    CLOSED = 8
    """The recorder was closed; nothing follows."""


class Record(NamedTuple):
    """One message of the journal."""

    number: int
    kind: int
    clip: int = 0
    step: int = 0
    pts: int = 0
    offset: int = 0
    nbytes: int = 0
    height: int = 0
    width: int = 0
    text: bytes = b""

    @property
    def places(self) -> int:
        """How many places of the ring it takes."""
        return 1 + _places_of(self.text)


class JournalWriter:
    """Training's end. Belongs to the training thread; a call costs microseconds and waits for nothing.

    What finds no room, because the service does not read, waits in a backlog of its own, in order. Frames never do:
    `write_frame` says so instead.
    """

    def __init__(self, memory: SharedMemory) -> None:
        layout = memory.layout
        self._memory = memory
        self._ring = memory.part(layout.journal, layout.record_count * RECORD_NBYTES)
        self._mask = layout.record_count - 1
        self._training, self._service = memory.training, memory.service
        self._most_frames = layout.record_count - layout.record_count // 4
        """Places that frames may take; the rest is left to what ends a clip."""
        self._backlog: deque[Record] = deque()
        self.lost = 0
        """Messages that found no room in the backlog either."""

    def next_number(self) -> int:
        """Return the number that `write_frame` gives to its record."""
        if self._backlog:
            self.write_backlog()
        return self._training[_HEAD]

    def write_frame(
        self, number: int, clip: int, step: int, pts: int, offset: int, nbytes: int, height: int, width: int
    ) -> bool:
        """Tell of a capture; False, and nothing is written, where there is no room.

        Args:
            number: As `next_number` returned it just now.
            clip: Index of the clip.
            step: The step shown.
            pts: Place on the clip's timeline.
            offset: Of the capture in the shared memory.
            nbytes: Bytes of the capture.
            height: Pixels; 0: a snapshot.
            width: Pixels.
        """
        if self._backlog or number - self._service[_RETAINED] >= self._most_frames:
            return False
        # Each captured step does this, with a cold cache: it touches as little as can be.
        place = (number & self._mask) * RECORD_NBYTES
        head = _RECORD.pack(number, _FRAME, 0, clip, step, pts, offset, nbytes, height, width, 0)
        self._ring[place : place + RECORD_NBYTES] = head + _CHECKSUM.pack(zlib.crc32(head))
        if store_barrier:
            store_barrier()
        self._training[_HEAD] = number + 1
        return True

    def write(
        self,
        kind: Kind,
        *,
        clip: int = 0,
        step: int = 0,
        pts: int = 0,
        offset: int = 0,
        nbytes: int = 0,
        height: int = 0,
        width: int = 0,
        text: bytes = b"",
    ) -> None:
        """Tell of anything else; text of more than 3,584 bytes is cut."""
        self.write_backlog()
        record = Record(0, kind, clip, step, pts, offset, nbytes, height, width, text[:MOST_TEXT_NBYTES])
        if self._backlog or self._room() < record.places:
            self._keep(record)
        else:
            self._put(record._replace(number=self._memory.training[TrainingWord.HEAD]))

    @property
    def has_backlog(self) -> bool:
        """Whether anything waits for room."""
        return bool(self._backlog)

    def write_backlog(self) -> None:
        """Write what waits, as far as there is room for it now."""
        while self._backlog and self._room() >= self._backlog[0].places:
            self._put(self._backlog[0]._replace(number=self._memory.training[TrainingWord.HEAD]))
            self._backlog.popleft()

    def _keep(self, record: Record) -> None:
        last = self._backlog[-1] if self._backlog else None
        if last and _continues(last, record):
            self._backlog[-1] = last._replace(pts=record.pts)
        elif len(self._backlog) < _MOST_BACKLOG:
            self._backlog.append(record)
        else:
            self.lost += 1

    def _room(self) -> int:
        words = self._memory
        return self._mask + 1 - (words.training[TrainingWord.HEAD] - words.service[ServiceWord.RETAINED])

    def _put(self, record: Record) -> None:
        number, kind, clip, step, pts, offset, nbytes, height, width, text = record
        extra = _places_of(text)
        head = _RECORD.pack(number, kind, extra, clip, step, pts, offset, nbytes, height, width, len(text))
        place = (number & self._mask) * RECORD_NBYTES
        checksum = zlib.crc32(text, zlib.crc32(head)) if text else zlib.crc32(head)
        self._ring[place : place + RECORD_NBYTES] = head + _CHECKSUM.pack(checksum)
        for following in range(extra):
            place = ((number + 1 + following) & self._mask) * RECORD_NBYTES
            part = text[following * _TEXT_NBYTES : (following + 1) * _TEXT_NBYTES].ljust(_TEXT_NBYTES, b"\0")
            self._ring[place : place + RECORD_NBYTES] = _NUMBER.pack(number + 1 + following) + part
        if store_barrier:
            store_barrier()
        self._memory.training[TrainingWord.HEAD] = number + 1 + extra


class JournalReader:
    """The service's end.

    Args:
        memory: The shared memory.
        start: Number of the first record to read.
    """

    def __init__(self, memory: SharedMemory, start: int = 0) -> None:
        layout = memory.layout
        self._memory = memory
        self._ring = memory.part(layout.journal, layout.record_count * RECORD_NBYTES)
        self._mask = layout.record_count - 1
        self.position = start
        """Number of the next record to read."""
        self.skipped = 0
        """Places that never held a record that is whole."""
        self._torn_looks = 0

    @property
    def head(self) -> int:
        """How far training has written."""
        return self._memory.training[TrainingWord.HEAD]

    def read(self, most: int = 4096) -> list[Record]:
        """Return the next records that are whole, at most `most`, and move past them.

        Raises:
            WorkerError: the journal was overwritten, or written by another version.
        """
        records: list[Record] = []
        head = self.head
        if head - self.position > self._mask + 1:
            raise WorkerError(f"the journal is {head - self.position} records ahead, more than it holds")
        while self.position < head and len(records) < most:
            record = self._record(self.position)
            if record is None:
                self._torn_looks += 1
                if self._torn_looks < _MOST_TORN_LOOKS:
                    break
                self._torn_looks = 0
                self.skipped += 1
                self.position += 1  # It will never be whole, and must not keep what follows from being read.
                continue
            self._torn_looks = 0
            records.append(record)
            self.position += record.places
        return records

    def _record(self, number: int) -> Record | None:
        """Return a record; None where it is not to be seen whole yet."""
        place = (number & self._mask) * RECORD_NBYTES
        data = bytes(self._ring[place : place + RECORD_NBYTES])
        found, kind, extra, clip, step, pts, offset, nbytes, height, width, text_nbytes = _RECORD.unpack_from(data)
        text = self._text(number, extra, text_nbytes) if extra else b""
        if found != number or text is None:
            return None
        if zlib.crc32(text, zlib.crc32(data[: _RECORD.size])) != _CHECKSUM.unpack_from(data, _RECORD.size)[0]:
            return None
        return Record(number, kind, clip, step, pts, offset, nbytes, height, width, text)

    def _text(self, number: int, extra: int, nbytes: int) -> bytes | None:
        parts: list[bytes] = []
        for following in range(number + 1, min(number + 1 + extra, number + self._mask + 1)):
            place = (following & self._mask) * RECORD_NBYTES
            data = bytes(self._ring[place : place + RECORD_NBYTES])
            if _NUMBER.unpack_from(data)[0] != following:
                return None
            parts.append(data[_NUMBER.size :])
        return b"".join(parts)[:nbytes]


class ReleaseWriter:
    """Tells training which captures are settled, and whoever takes over from this service what became of them.

    An entry is the number of a record, shifted left by 8, and what became of it.
    """

    def __init__(self, memory: SharedMemory) -> None:
        layout = memory.layout
        self._words = memory.service
        self._ring = memory.part(layout.releases, layout.release_count * RELEASE_NBYTES, "q")
        self._mask = layout.release_count - 1

    @property
    def count(self) -> int:
        """Entries written."""
        return self._words[ServiceWord.RELEASED]

    def write(self, number: int, outcome: int) -> None:
        """Tell that training may use the memory of a record's capture again."""
        count = self._words[ServiceWord.RELEASED]
        self._ring[count & self._mask] = number << _OUTCOME_BITS | outcome
        if store_barrier:
            store_barrier()
        self._words[ServiceWord.RELEASED] = count + 1

    def since(self, count: int) -> dict[int, int]:
        """Return what became of which record, of the entries from `count` on."""
        entries = (self._ring[place & self._mask] for place in range(count, self.count))
        return {entry >> _OUTCOME_BITS: entry & (1 << _OUTCOME_BITS) - 1 for entry in entries}


class ReleaseReader:
    """Training's look at what is settled."""

    def __init__(self, memory: SharedMemory) -> None:
        layout = memory.layout
        self._words = memory.service
        self._ring = memory.part(layout.releases, layout.release_count * RELEASE_NBYTES, "q")
        self._mask = layout.release_count - 1
        self._seen = 0

    def has_more(self) -> bool:
        """Whether `read` has anything to return."""
        return self._words[ServiceWord.RELEASED] != self._seen

    def read(self) -> list[int]:
        """Return the numbers of the records settled since the last call; some may come twice."""
        count = self._words[ServiceWord.RELEASED]
        if count == self._seen:
            return []
        numbers = [self._ring[place & self._mask] >> _OUTCOME_BITS for place in range(self._seen, count)]
        self._seen = count
        return numbers


class Checkpoints:
    """The service's state, for a service that takes over. Two places in turn: one is always whole."""

    def __init__(self, memory: SharedMemory) -> None:
        self._memory = memory
        self._nbytes = memory.layout.checkpoint_nbytes
        self._stride = aligned(self._nbytes)

    def write(self, state: bytes) -> bool:
        """Write a state; False where it is too large, and the one before stays."""
        if len(state) + _CHECKPOINT.size > self._nbytes:
            return False
        number = self._memory.service[ServiceWord.CHECKPOINTS] + 1
        place = self._place(number)
        self._memory.view[place : place + _CHECKPOINT.size] = _CHECKPOINT.pack(number, len(state), zlib.crc32(state))
        start = place + _CHECKPOINT.size
        self._memory.view[start : start + len(state)] = state
        if store_barrier:
            store_barrier()
        self._memory.service[ServiceWord.CHECKPOINTS] = number
        return True

    def read(self) -> bytes | None:
        """Return the last state that is whole; None where there is none."""
        last = self._memory.service[ServiceWord.CHECKPOINTS]
        return next((state for number in (last, last - 1) if number > 0 and (state := self._state(number))), None)

    def _state(self, number: int) -> bytes | None:
        place = self._place(number)
        found, nbytes, checksum = _CHECKPOINT.unpack_from(self._memory.view, place)
        if found != number or nbytes > self._nbytes:
            return None
        state = bytes(self._memory.view[place + _CHECKPOINT.size : place + _CHECKPOINT.size + nbytes])
        return state if zlib.crc32(state) == checksum else None

    def _place(self, number: int) -> int:
        return self._memory.layout.checkpoints + (number & 1) * self._stride


def _places_of(text: bytes) -> int:
    return -(-len(text) // _TEXT_NBYTES)


def _continues(last: Record, record: Record) -> bool:
    """Whether a record of dropped frames goes on where the last one ends."""
    return (
        last.kind == record.kind == Kind.FRAMES_DROPPED
        and (last.clip, last.height, last.width) == (record.clip, record.height, record.width)
        and record.step - last.pts == record.width
    )
