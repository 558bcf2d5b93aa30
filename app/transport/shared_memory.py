"""The memory that training and its recording service share: what lies where, and who writes it.

    control bytes    see `control_bytes`                      header          training, once
    training's words counters, see `TrainingWord`             training
    service's words  counters, see `ServiceWord`, statistics  service
    description      what the service has to know             training, before the service starts
    journal          fixed records, see `journal`             training
    releases         which records are settled, and how       service
    checkpoints      the service's state, two in turn         service
    pool             captures                                 training

Every word has one writer. Words are 64 bits, aligned, and written by one machine instruction. What a counter announces
is written before the counter, with a barrier in between where the processor needs one.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import platform
import struct
import tempfile
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import astuple, dataclass
from typing import Literal

from ..errors import WorkerError

MAGIC = b"stepreel"
VERSION = 2
"""Of this layout and of the records in the journal: two processes of different versions refuse one another."""
PAGE = 4096
RECORD_NBYTES = 64
RELEASE_NBYTES = 8
MOST_STREAMS = 64
MOST_WORKERS = 64
_HEADER = struct.Struct("<8sQQQQQQQ")
_HEADER_OFFSET = 64
_MADV_POPULATE_WRITE = 23
"""From `<linux/mman.h>`, Linux 5.14: faults pages in without changing what they hold."""
_MADV_REMOVE = 9
"""Likewise, for shared memory: takes pages away from every process that maps them."""
_libc = ctypes.CDLL(None)


class TrainingWord:
    """Places of the numbers that training publishes; plain numbers, since each captured step looks up a dozen."""

    HEAD = 0
    """Records written to the journal."""
    STEPS = 1
    """Calls of `step`."""
    REQUESTED = 2
    """Frames asked for, the last seconds that are held not counted."""
    FRAMES = 3
    """Frames published, of all clips."""
    FRAME_NBYTES = 4
    """Their bytes."""
    CLIPS = 5
    """Clips begun, the last seconds that are held not counted."""
    CLIPS_OPEN = 6
    """Clips that training captures, or is about to: at 0 it leases nothing of the pool."""


class ServiceWord:
    """Places of the numbers that the service publishes; plain numbers likewise."""

    READ = 0
    """Records read from the journal."""
    RETAINED = 1
    """The oldest record that a restarted service would read again; older ones may be overwritten."""
    RELEASED = 2
    """Entries written to the releases."""
    FRAMES_TAKEN = 3
    """Published frames that wait no longer: a worker has them, or they were dropped."""
    FRAME_NBYTES_TAKEN = 4
    HEARTBEAT = 5
    """Grows with every look at the journal."""
    CHECKPOINTS = 6
    """Checkpoints written; the last one lies at this number's parity."""
    POPULATED = 7
    """Offset up to which the pool's pages are there."""
    POOL_LIMIT = 8
    """Offset up to which training may lease; 0: all of the pool."""
    GRIDS = 16
    """One word for each stream: index of a clip, shifted left by 8, and the power of two of the grid that it was
    thinned to."""
    STATISTICS = 128
    """Where the block of statistics begins."""
    WORKERS = 256
    """Process identifiers of its workers, a word for each; 0: none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Sizes of the parts."""

    record_count: int
    """Records of the journal; a power of two."""
    description_nbytes: int
    checkpoint_nbytes: int
    """Bytes of one of the two checkpoints."""
    pool_nbytes: int
    queue_nbytes: int
    """Bytes of captures that may wait for a worker: less than the pool has, since workers have some in hand."""

    @property
    def release_count(self) -> int:
        """Entries of the releases: a restarted service may tell of each record once more."""
        return 2 * self.record_count

    @property
    def description(self) -> int:
        """Offset of the description."""
        return 3 * PAGE

    @property
    def journal(self) -> int:
        """Offset of the journal."""
        return self.description + aligned(self.description_nbytes)

    @property
    def releases(self) -> int:
        """Offset of the releases."""
        return self.journal + aligned(self.record_count * RECORD_NBYTES)

    @property
    def checkpoints(self) -> int:
        """Offset of the checkpoints."""
        return self.releases + aligned(self.release_count * RELEASE_NBYTES)

    @property
    def pool(self) -> int:
        """Offset of the pool."""
        return self.checkpoints + 2 * aligned(self.checkpoint_nbytes)

    @property
    def nbytes(self) -> int:
        """Bytes of it all."""
        return self.pool + aligned(self.pool_nbytes)


class SharedMemory:
    """One mapping of the memory, without a name: it lasts as long as a process that has its descriptor or maps it.

    It does not count against `/dev/shm`, which a container often limits to 64 MB, and a kill leaves nothing behind.
    Address space costs nothing; a page costs memory once it was written.

    Attributes:
        fd: The descriptor, for a process that is started with it; -1 once closed.
        is_open: Whether the memory may be read and written.
        layout: What lies where.
        view: All bytes.
        training: Training's words, by `TrainingWord`.
        service: The service's words, by `ServiceWord`.
    """

    def __init__(self, fd: int, layout: Layout) -> None:
        self.fd = fd
        self.is_open = True
        self.layout = layout
        self.map: mmap.mmap | None = mmap.mmap(fd, layout.nbytes)
        self.view = memoryview(self.map)
        self._parts: list[memoryview] = []
        self.training = self.part(PAGE, PAGE, "q")
        self.service = self.part(2 * PAGE, PAGE, "q")

    @classmethod
    def create(cls, layout: Layout, description: bytes) -> SharedMemory:
        """Make the memory, with a description for the service.

        Raises:
            OSError: there is no room for it.
        """
        fd = _open_unnamed(layout.nbytes)
        memory = cls(fd, layout)
        header = _HEADER.pack(MAGIC, VERSION, layout.nbytes, *astuple(layout))
        memory.view[_HEADER_OFFSET : _HEADER_OFFSET + _HEADER.size] = header
        memory.view[layout.description : layout.description + len(description)] = description
        memory.populate(0, layout.checkpoints)
        return memory

    @classmethod
    def attach(cls, fd: int) -> SharedMemory:
        """Map memory that another process made.

        Raises:
            WorkerError: it is not such memory, or of another version.
        """
        try:
            nbytes = os.fstat(fd).st_size
            found = os.pread(fd, _HEADER.size, _HEADER_OFFSET)
            magic, version, said_nbytes, *sizes = _HEADER.unpack(found)
        except (OSError, struct.error) as exc:
            raise WorkerError(f"descriptor {fd} is no shared memory of a recorder: {exc}") from exc
        if magic != MAGIC or version != VERSION:
            raise WorkerError(f"descriptor {fd} holds {magic!r} version {version}; wanted: {MAGIC!r} version {VERSION}")
        names = Layout.__dataclass_fields__
        layout = Layout(**dict(zip(names, sizes, strict=True)))
        if not nbytes == said_nbytes == layout.nbytes or layout.record_count & (layout.record_count - 1):
            raise WorkerError(f"descriptor {fd} has {nbytes} bytes; wanted: {layout.nbytes}")
        return cls(fd, layout)

    @property
    def description(self) -> memoryview:
        """What the service has to know."""
        start = self.layout.description
        return self.view[start : start + self.layout.description_nbytes]

    def part(self, start: int, nbytes: int, form: Literal["B", "q"] = "B") -> memoryview[int]:
        """Return the bytes from `start` on, in the form of `memoryview.cast`: valid until the memory is closed."""
        part: memoryview[int] = self.view[start : start + nbytes].cast(form)
        self._parts.append(part)
        return part

    def populate(self, start: int, end: int) -> None:
        """Fault in the pages from `start` to `end` [bytes], so that nobody who writes there pays for it. Blocks."""
        start, end = start // PAGE * PAGE, min(aligned(end), self.layout.nbytes)
        if self.map is None or start >= end:
            return
        if not self._advise(start, end, _MADV_POPULATE_WRITE):
            with suppress(OSError):
                os.posix_fallocate(self.fd, start, end - start)

    def give_back(self, start: int, end: int) -> None:
        """Give whole pages from `start` to `end` [bytes] back to the system; what they held is lost. Blocks."""
        self._advise(start, end, _MADV_REMOVE)

    def _advise(self, start: int, end: int, advice: int) -> bool:
        if self.map is None:
            return False
        address = ctypes.addressof(ctypes.c_char.from_buffer(self.map)) + start
        # Not mmap.madvise, which holds the GIL meanwhile.
        return not _libc.madvise(ctypes.c_void_p(address), ctypes.c_size_t(end - start), advice)

    def close(self) -> None:
        """Let go of the memory; a second call does what an interrupted one left. Others keep their own mapping."""
        self.is_open = False
        # Any view that is left would keep the whole mapping, for as long as somebody keeps the closed recorder.
        for view in (*self._parts, self.view):
            with suppress(BufferError):
                view.release()
        if self.map is not None:
            with suppress(BufferError):  # An array handed out is still referenced; the mapping goes with it.
                self.map.close()
            self.map = None
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)


def aligned(nbytes: int) -> int:
    """Return a number of bytes, rounded up to whole pages."""
    return -(-max(nbytes, 1) // PAGE) * PAGE


def _open_unnamed(nbytes: int) -> int:
    if hasattr(os, "memfd_create"):
        fd = os.memfd_create("stepreel", os.MFD_CLOEXEC)
    else:
        fd, path = tempfile.mkstemp(prefix="stepreel-")
        os.unlink(path)
    os.ftruncate(fd, nbytes)
    return fd


def _make_barrier() -> Callable[[], None] | None:
    """Return what keeps stores before it from being seen after those behind it; None where they never are."""
    if platform.machine().lower() in ("x86_64", "amd64", "i686"):
        return None
    lock = threading.Lock()

    def barrier() -> None:
        # Stores sink into a lock's region but never past its release; nothing rises above the next taking of it.
        for _ in range(2):
            lock.acquire()
            lock.release()

    return barrier


store_barrier = _make_barrier()
"""Called, where there is one, by a writer between what it announces and the counter that announces it."""
