"""A frame pool as a recorder makes it, for what captures into one without a recorder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from stepreel.capture.frame_pool import FramePool
from stepreel.transport.shared_memory import Layout, ServiceWord, SharedMemory


@contextmanager
def frame_pool(nbytes: int) -> Iterator[FramePool]:
    """Yield a frame pool whose memory is faulted in."""
    layout = Layout(
        record_count=1024, description_nbytes=0, checkpoint_nbytes=4096, pool_nbytes=nbytes, queue_nbytes=nbytes
    )
    memory = SharedMemory.create(layout, b"")
    pool = FramePool(memory)
    try:
        memory.populate(layout.pool, layout.pool + nbytes)
        memory.service[ServiceWord.POPULATED] = layout.pool + nbytes
        yield pool
    finally:
        pool.close()
        memory.close()
