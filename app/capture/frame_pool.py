"""The frame pool: the part of the shared memory from which every capture leases a slot."""

from __future__ import annotations

from bisect import insort

import numpy as np
from numpy.typing import NDArray

from ..errors import CaptureError
from ..transport.journal import ReleaseReader
from ..transport.shared_memory import PAGE, ServiceWord, SharedMemory, aligned

_FAULT_AROUND_NBYTES = 65536
"""The kernel's `fault_around_bytes`, by default."""


class FramePool:
    """Memory that training writes and workers read. Belongs to the training thread.

    Ranges of any size, not slots of one: an environment tells the size of its pictures with the first one, and may
    change it. Leases are first fit, so that the same warm pages are used again and again. What is handed over under
    the number of a record comes back once the service has released that record.
    """

    def __init__(self, memory: SharedMemory) -> None:
        self.nbytes = aligned(memory.layout.pool_nbytes)
        self._bytes: NDArray[np.uint8] = np.frombuffer(memory.view, np.uint8)
        self._free: list[tuple[int, int]] = [(memory.layout.pool, self.nbytes)]
        self._sharers: dict[int, int] = {}
        """By offset, how many slots besides one hold the memory there."""
        self._start, self._end = memory.layout.pool, memory.layout.nbytes
        self._service = memory.service
        self._touched = memory.layout.pool
        """Up to where this process has mapped the pages."""
        self._handed_over: dict[int, PoolSlot] = {}
        self._releases = ReleaseReader(memory)

    def lease(self) -> PoolSlot:
        """Return an empty slot; its memory is taken when its array is asked for."""
        return PoolSlot(self)

    def hand_over(self, number: int, slot: PoolSlot) -> None:
        """Keep a slot's memory until the record of this number is released."""
        self._handed_over[number] = slot

    def forget(self, number: int) -> None:
        """Keep a slot no longer that was handed over under a number: its record was not written."""
        self._handed_over.pop(number, None)

    def take_back(self) -> None:
        """Free what the service has released."""
        if self._releases.has_more():
            for number in self._releases.read():
                slot = self._handed_over.pop(number, None)
                if slot:
                    slot.release()

    def map_populated(self) -> None:
        """Map all pages that the service has faulted in by now, before training pays for it capture by capture."""
        end = min(self._service[ServiceWord.POPULATED], self._end)
        if end > self._touched:
            self._touch(self._touched, end)

    @property
    def outstanding(self) -> int:
        """Slots handed over and not released yet."""
        return len(self._handed_over)

    def has_room(self, nbytes: int) -> bool:
        """Whether a capture of that size finds room now."""
        self.take_back()
        free = self._free
        # The last extent is all that was never used, as a rule.
        if free and free[-1][1] >= nbytes + PAGE and not self._service[ServiceWord.POOL_LIMIT]:
            return True
        return self._place_for(aligned(nbytes)) is not None

    def close(self) -> None:
        """Let go of the memory."""
        self._bytes = np.empty(0, np.uint8)
        self._handed_over.clear()

    def _place_for(self, room: int) -> int | None:
        limit = self._service[ServiceWord.POOL_LIMIT] or self._end
        for place, (offset, free) in enumerate(self._free):
            if free >= room:
                return place if offset + room <= limit else None
        return None

    def _take(self, nbytes: int) -> int | None:
        self.take_back()
        place = self._place_for(nbytes)
        if place is None:
            return None
        offset, room = self._free[place]
        if room == nbytes:
            del self._free[place]
        else:
            self._free[place] = (offset + nbytes, room - nbytes)
        # The service may have given pages back since they were mapped.
        self._touched = min(self._touched, max(self._service[ServiceWord.POPULATED], self._start))
        if offset + nbytes > self._touched:
            self._touch(offset, offset + nbytes)
        return offset

    def _touch(self, start: int, end: int) -> None:
        """Map pages that the service has faulted in: a read maps sixteen of them at a time, a write only one.

        Measured with a frame of 2.8 MB: 0.35 ms instead of 1.3, where a copy into mapped memory takes 0.2.
        """
        start = max(start, self._touched) // _FAULT_AROUND_NBYTES * _FAULT_AROUND_NBYTES
        self._bytes[start:end:_FAULT_AROUND_NBYTES].max()
        self._touched = end

    def _share(self, offset: int) -> None:
        self._sharers[offset] = self._sharers.get(offset, 0) + 1

    def _give_back(self, offset: int, nbytes: int) -> None:
        sharers = self._sharers.pop(offset, 0)
        if sharers > 1:
            self._sharers[offset] = sharers - 1
        if sharers:
            return
        insort(self._free, (offset, nbytes))
        place = self._free.index((offset, nbytes))
        for left in (place, place - 1):
            if 0 <= left < len(self._free) - 1:
                start, room = self._free[left]
                if start + room == self._free[left + 1][0]:
                    self._free[left : left + 2] = [(start, room + self._free[left + 1][1])]


class PoolSlot:
    """Room for one capture; the memory is the pool's, and goes back to it with `release`."""

    __slots__ = ("_pool", "_room", "offset", "refused_nbytes")

    def __init__(self, pool: FramePool) -> None:
        self._pool = pool
        self._room = 0
        self.offset = 0
        self.refused_nbytes = 0
        """Bytes that were asked for and found no room."""

    def array(self, nbytes: int) -> NDArray[np.uint8]:
        """See `stepreel.interfaces.Slot.array`."""
        nbytes = int(nbytes)
        if nbytes > self._room:
            self.release()
            room = aligned(nbytes)
            offset = self._pool._take(room)
            if offset is None:
                self.refused_nbytes = nbytes
                raise CaptureError(
                    f"a capture of {nbytes} bytes finds no room in the frame pool of {self._pool.nbytes} bytes; "
                    "raise queue_bytes"
                )
            self.offset = offset
            self._room = room
        return self._pool._bytes[self.offset : self.offset + nbytes]

    @property
    def room(self) -> int:
        """Bytes that were taken for it."""
        return self._room

    def share(self) -> PoolSlot:
        """Return another slot with the same memory, which goes back to the pool once both were released."""
        twin = PoolSlot(self._pool)
        twin.offset, twin._room = self.offset, self._room
        self._pool._share(self.offset)
        return twin

    def release(self) -> None:
        """Give the memory back; a second call does nothing."""
        room, self._room = self._room, 0
        if room:
            self._pool._give_back(self.offset, room)
