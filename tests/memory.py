"""Shared memory as a recorder makes it, as small as a test wants it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from stepreel.capture.frame_pool import FramePool
from stepreel.transport.shared_memory import Layout, SharedMemory


@contextmanager
def make_memory(
    *,
    pool_nbytes: int = 4096,
    queue_nbytes: int | None = None,
    records: int = 1024,
    checkpoint_nbytes: int = 2**20,
    description: bytes = b"",
) -> Iterator[SharedMemory]:
    """Yield shared memory; `records` of its journal are a power of two."""
    layout = Layout(
        record_count=records,
        description_nbytes=len(description),
        checkpoint_nbytes=checkpoint_nbytes,
        pool_nbytes=pool_nbytes,
        queue_nbytes=pool_nbytes if queue_nbytes is None else queue_nbytes,
    )
    memory = SharedMemory.create(layout, description)
    try:
        yield memory
    finally:
        memory.close()


@contextmanager
def make_pool(nbytes: int) -> Iterator[FramePool]:
    """Yield a frame pool in shared memory of its own."""
    with make_memory(pool_nbytes=nbytes) as memory:
        pool = FramePool(memory)
        try:
            yield pool
        finally:
            pool.close()
