"""Attaching to the memory of another process."""

from __future__ import annotations

import os
import struct

import pytest

from stepreel.errors import WorkerError
from stepreel.transport.control_bytes import SOMEBODY_WAITS, TRAINING_IS_IDLE, WORKERS_ARE_RAISED
from stepreel.transport.shared_memory import (
    MOST_STREAMS,
    MOST_WORKERS,
    PAGE,
    VERSION,
    Layout,
    ServiceWord,
    SharedMemory,
    TrainingWord,
    aligned,
)

from ..interruptions import interrupt_everywhere
from ..memory import make_memory

HEADER = 64


def test_another_mapping_sees_the_same_memory() -> None:
    with make_memory(description=b"what there is to know", pool_nbytes=3 * PAGE) as memory:
        other = SharedMemory.attach(os.dup(memory.fd))
        assert other.layout == memory.layout
        assert bytes(other.description) == b"what there is to know"
        memory.training[TrainingWord.STEPS] = 7
        other.service[ServiceWord.CHECKPOINTS] = 8
        assert (other.training[TrainingWord.STEPS], memory.service[ServiceWord.CHECKPOINTS]) == (7, 8)
        memory.close()
        assert other.training[TrainingWord.STEPS] == 7
        other.close()
        other.close()


@pytest.mark.parametrize(
    ("offset", "value"),
    [
        (HEADER, b"stepreeL"),
        (HEADER + 8, struct.pack("<Q", VERSION + 1)),
        (HEADER + 16, struct.pack("<Q", 4096)),
        (HEADER + 24, struct.pack("<Q", 1000)),
        (HEADER + 48, struct.pack("<Q", 2**40)),
    ],
    ids=["magic", "version", "size", "records", "pool"],
)
def test_other_memory_is_refused(offset: int, value: bytes) -> None:
    with make_memory() as memory:
        memory.view[offset : offset + len(value)] = value
        with pytest.raises(WorkerError, match=f"descriptor {memory.fd} "):
            SharedMemory.attach(memory.fd)


def test_memory_that_was_cut_is_refused() -> None:
    with make_memory(pool_nbytes=4 * PAGE) as memory:
        os.ftruncate(memory.fd, memory.layout.nbytes - PAGE)
        with pytest.raises(WorkerError, match="wanted"):
            SharedMemory.attach(memory.fd)


def test_what_is_no_memory_is_refused() -> None:
    read_end, write_end = os.pipe()
    with pytest.raises(WorkerError):
        SharedMemory.attach(read_end)
    os.close(read_end)
    os.close(write_end)
    with pytest.raises(WorkerError):
        SharedMemory.attach(write_end)


def test_no_two_parts_share_a_page_and_no_two_words_a_place() -> None:
    with make_memory(description=bytes(5000), records=256, pool_nbytes=100) as memory:
        layout = memory.layout
        starts = [layout.description, layout.journal, layout.releases, layout.checkpoints, layout.pool, layout.nbytes]
        assert starts == sorted(set(starts))
        assert all(start % PAGE == 0 for start in starts)
        assert layout.nbytes == layout.pool + aligned(100)
    assert len({TRAINING_IS_IDLE, WORKERS_ARE_RAISED, SOMEBODY_WAITS}) == 3
    assert ServiceWord.GRIDS + MOST_STREAMS <= ServiceWord.STATISTICS
    assert (ServiceWord.WORKERS + MOST_WORKERS) * 8 <= PAGE


def test_closing_that_is_interrupted_anywhere_lets_go_of_all_the_second_time() -> None:
    layout = Layout(
        record_count=1024, description_nbytes=0, checkpoint_nbytes=PAGE, pool_nbytes=PAGE, queue_nbytes=PAGE
    )
    before = descriptors()
    for memory in interrupt_everywhere(lambda: SharedMemory.create(layout, b""), SharedMemory.close):
        memory.close()
        assert (descriptors(), memory.fd, memory.map, memory.is_open) == (before, -1, None, False)


def descriptors() -> set[str]:
    """Return the descriptors of this process's shared memory."""
    links = (f"/proc/self/fd/{name}" for name in os.listdir("/proc/self/fd"))
    return {link for link in links if os.path.islink(link) and "memfd:stepreel" in os.readlink(link)}
