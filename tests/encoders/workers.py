"""Worker programs without a recorder: started by the test, which plays the recording service."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from pathlib import Path
from threading import get_native_id

import anyio
import psutil

from stepreel import RecorderConfig, WorkerPriority
from stepreel.encoders import protocol
from stepreel.service.threads import Threads
from stepreel.service.worker_process import WorkerProcess, WorkerSetup
from stepreel.transport.shared_memory import SharedMemory

from ..memory import make_memory


class Worker:
    """A worker that runs, and the shared memory that it reads."""

    def __init__(self, process: WorkerProcess, memory: SharedMemory) -> None:
        self.process = process
        self.memory = memory

    @property
    def threads(self) -> list[int]:
        """Native identifiers of its threads."""
        return [thread.id for thread in psutil.Process(self.process.pid).threads()]

    @property
    def affinities(self) -> list[set[int]]:
        """CPUs that each thread may use."""
        return [os.sched_getaffinity(thread) for thread in self.threads]

    @property
    def policies(self) -> list[int]:
        """Scheduling policy of each thread, ascending."""
        return sorted(os.sched_getscheduler(thread) for thread in self.threads)

    @property
    def nice_values(self) -> list[int]:
        """Nice value of each thread, ascending."""
        return sorted(os.getpriority(os.PRIO_PROCESS, thread) for thread in self.threads)

    def set_control_byte(self, offset: int, value: int) -> None:
        """Write one of the bytes that can't wait for a message."""
        self.memory.view[offset] = value

    def set_up(self, folder: Path, priority: WorkerPriority) -> None:
        """Have it lower its priority, and open a stream of pixels."""
        settings = RecorderConfig(output_dir=folder, codec="libx264").encode_settings(fps=20.0)
        self.process.send_nowait(protocol.Configure(folder=folder, priority=priority, min_free_bytes=0, stream_count=1))
        self.process.send_nowait(
            protocol.OpenStream(stream="default", version=0, width=64, height=48, settings=settings, render_duty=1.0)
        )


@asynccontextmanager
async def started(
    *, training_process: int | None = None, training_thread: int | None = None, cpus: Collection[int] = ()
) -> AsyncIterator[Worker]:
    """Start a worker that keeps out of the way of a thread, by default this one; end it at the end."""
    with make_memory() as memory:
        setup = WorkerSetup(
            memory_fd=memory.fd,
            memory_nbytes=memory.layout.nbytes,
            training_process=training_process or os.getpid(),
            training_thread=training_thread or get_native_id(),
            cpus=cpus,
        )
        process = await WorkerProcess.start(setup, Threads())
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(process.send_waiting)
                tasks.start_soon(process.collect_diagnostics)
                yield Worker(process, memory)
                tasks.cancel_scope.cancel()
        finally:
            await process.aclose(5.0)
