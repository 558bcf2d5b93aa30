"""The frame pool: shared memory without a name, from which every capture leases a slot."""

from __future__ import annotations

import ctypes
import mmap
import os
import tempfile
from bisect import insort
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from .control_bytes import TRAINING_IS_IDLE, WORKERS_ARE_RAISED
from .errors import CaptureError

_ALIGNMENT = 4096
_libc = ctypes.CDLL(None)
_MADV_POPULATE_WRITE = 23
"""From `<linux/mman.h>`, Linux 5.14: faults pages in without changing what they hold."""


class FramePool:
    """Memory that this process writes and a worker reads, through an inherited descriptor.

    `nbytes` is address space for captures: a page costs memory once it was populated or written. Leases are first
    fit, so that the same warm pages are used again and again. The first page is no capture's: it tells workers what
    can't wait for a message. Safe to call from any thread.
    """

    def __init__(self, nbytes: int) -> None:
        self.nbytes = _aligned(nbytes)
        self.mapped_nbytes = _ALIGNMENT + self.nbytes
        self.fd = _open_unnamed(self.mapped_nbytes)
        self._map: mmap.mmap | None = mmap.mmap(self.fd, self.mapped_nbytes)
        self._bytes = np.frombuffer(self._map, dtype=np.uint8)
        self._free: list[tuple[int, int]] = [(_ALIGNMENT, self.nbytes)]
        self._sharers: dict[int, int] = {}
        """By offset, how many slots besides one hold the memory there."""
        self._lock = Lock()

    def populate(self, end: int, start: int = 0) -> None:
        """Fault in the bytes from `start`, a multiple of the page size, to `end`, so that no capture pays for it."""
        room = min(_ALIGNMENT + _aligned(end), self.mapped_nbytes) - start
        if room <= 0:
            return
        address = ctypes.c_void_p(self._bytes.ctypes.data + start)
        # Not mmap.madvise, which holds the GIL meanwhile.
        if _libc.madvise(address, ctypes.c_size_t(room), _MADV_POPULATE_WRITE):
            os.posix_fallocate(self.fd, start, room)

    @contextmanager
    def training_idle(self) -> Iterator[None]:
        """Have workers not rest between frames meanwhile."""
        self._bytes[TRAINING_IS_IDLE] += 1
        try:
            yield
        finally:
            if self._bytes.size:
                self._bytes[TRAINING_IS_IDLE] -= 1

    def raise_workers(self) -> None:
        """Have workers go on with the priority "low" after what they have in hand; so do those that start later."""
        self._bytes[WORKERS_ARE_RAISED] = True

    def lease(self) -> PoolSlot:
        """Return an empty slot; its memory is taken when its array is asked for."""
        return PoolSlot(self)

    def close(self) -> None:
        """Let go of the memory; a second call does nothing. A worker that still reads it keeps its own mapping."""
        if self.fd < 0:
            return
        self._bytes = np.empty(0, dtype=np.uint8)
        mapped, self._map = self._map, None
        if mapped:
            with suppress(BufferError):  # An array handed out is still referenced; the mapping goes with it.
                mapped.close()
        os.close(self.fd)
        self.fd = -1

    def _take(self, nbytes: int) -> int | None:
        with self._lock:
            for place, (offset, room) in enumerate(self._free):
                if room < nbytes:
                    continue
                if room == nbytes:
                    del self._free[place]
                else:
                    self._free[place] = (offset + nbytes, room - nbytes)
                return offset
        return None

    def _share(self, offset: int) -> None:
        with self._lock:
            self._sharers[offset] = self._sharers.get(offset, 0) + 1

    def _give_back(self, offset: int, nbytes: int) -> None:
        with self._lock:
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

    __slots__ = ("_pool", "_room", "offset")

    def __init__(self, pool: FramePool) -> None:
        self._pool = pool
        self._room = 0
        self.offset = 0

    def array(self, nbytes: int) -> NDArray[np.uint8]:
        """See `stepreel.interfaces.Slot.array`."""
        if nbytes > self._room:
            self.release()
            room = _aligned(nbytes)
            offset = self._pool._take(room)
            if offset is None:
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


def _aligned(nbytes: int) -> int:
    return -(-max(nbytes, 1) // _ALIGNMENT) * _ALIGNMENT


def _open_unnamed(nbytes: int) -> int:
    if hasattr(os, "memfd_create"):
        fd = os.memfd_create("stepreel-frame-pool", os.MFD_CLOEXEC)
    else:
        fd, path = tempfile.mkstemp(prefix="stepreel-frame-pool-")
        os.unlink(path)
    os.ftruncate(fd, nbytes)
    return fd
