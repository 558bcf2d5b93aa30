"""Workers: started, talked to, replaced when they are lost, ended when they say nothing for too long."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass

import anyio

from ..clip import DropCause
from ..config import RenderTime
from ..errors import WorkerError
from ..transport.messages import ServiceDescription
from ..transport.shared_memory import MOST_WORKERS, ServiceWord, SharedMemory
from .dispatcher import MOST_LOSSES, Dispatcher
from .reports import Reports
from .session_log import SessionLog
from .threads import Threads
from .waking import Batching, Notifier
from .worker_process import WorkerProcess, WorkerSetup
from .worker_slot import WorkerSlot

_MOST_BACKOFF_S = 5.0
_LOOKS = 10
"""Looks in the time in which a worker has to answer. On the clock, one look after all processes were suspended would
find it late."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """Why no worker is ready."""

    message: str
    is_codec: bool


class Workers:
    """Keeps a worker running in each slot. Belongs to the service's event loop.

    Attributes:
        are_ending: No worker is started any more.
    """

    def __init__(
        self,
        description: ServiceDescription,
        memory: SharedMemory,
        dispatcher: Dispatcher,
        reports: Reports,
        log: SessionLog,
        threads: Threads,
        *,
        progress: Notifier,
        batching: Batching,
        clips_begun: Callable[[], int],
    ) -> None:
        self.are_ending = False
        self.dispatched: Callable[[], None] = _nothing
        """Called after frames may have left the queue."""
        self._description = description
        self._memory = memory
        self._setup = WorkerSetup(
            memory_fd=memory.fd,
            memory_nbytes=memory.layout.nbytes,
            training_process=description.training_process,
            training_thread=description.training_thread,
            environment=description.environment,
        )
        self._dispatcher = dispatcher
        self._reports = reports
        self._log = log
        self._threads = threads
        self._progress = progress
        self._batching = batching
        self._clips_begun = clips_begun

    async def run(self) -> None:
        """Keep every slot occupied until `are_ending`, and end workers that hang."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._watch_for_hangs)
            async with anyio.create_task_group() as slots:
                for slot in self._dispatcher.slots:
                    slots.start_soon(self._serve, slot)
            tasks.cancel_scope.cancel()

    def dispatch(self, slot: WorkerSlot) -> None:
        """Send a worker what it may hear now."""
        if slot.process and slot.is_ready:
            for command in self._dispatcher.next_commands(slot):
                slot.process.send_nowait(command)
            self.dispatched()

    def dispatch_all(self) -> None:
        """Send every worker what it may hear now; slots without a worker look, too."""
        for slot in self._dispatcher.slots:
            self.dispatch(slot)
            slot.woken.notify()

    @property
    def is_any_ready(self) -> bool:
        """Whether frames can be drawn, or need not be."""
        is_later = self._description.render is RenderTime.LATER
        return is_later or any(slot.is_ready for slot in self._dispatcher.slots)

    @property
    def problem(self) -> Problem | None:
        """Why no worker got ready, once one did not."""
        for slot in self._dispatcher.slots:
            if slot.problem:
                return Problem(message=slot.problem, is_codec=slot.is_codec_problem)
        return None

    def give_up(self) -> None:
        """Wait for no worker any more: what they have in hand is dropped."""
        self.are_ending = True
        for slot in self._dispatcher.slots:
            if slot.process:
                slot.process.kill()
            else:
                for work in list(slot.clips.values()):
                    self._dispatcher.give_up(slot, work, DropCause.CLOSED)

    async def end(self) -> None:
        """End every worker: each closes its segments, or is killed where that takes too long."""
        self.are_ending = True
        for slot in self._dispatcher.slots:
            if slot.process:
                slot.process.end_commands()
            slot.woken.notify()

        with anyio.move_on_after(self._description.deadlines.end_s):
            await self._wait_for_ends()
        for slot in self._dispatcher.slots:
            if slot.process:
                slot.process.kill()
        await self._wait_for_ends()

    def _must_end(self) -> bool:
        return self.are_ending  # What is awaited may have changed it, which a type checker does not see.

    def _note_start(self, slot: WorkerSlot, status: int, output: str) -> None:
        """Note why a worker did not get ready, where it has not said so itself."""
        if status < 0 and slot.losses + 1 < MOST_LOSSES:
            return  # Somebody killed it: no fault of its own, and another one is started.
        if not (slot.is_ready or slot.problem or self.are_ending):
            slot.problem = f"the worker ended with status {status} before it was ready: {output}"

    async def _wait_for_ends(self) -> None:
        while any(slot.process for slot in self._dispatcher.slots):
            await self._progress.wait()

    async def _serve(self, slot: WorkerSlot) -> None:
        """Keep a worker running; after one that did not get ready, try again with the next clip."""
        while self._description.render is RenderTime.LATER and not self.are_ending:
            await self._wait_for_next_clip(slot, DropCause.NOT_RENDERED)
        while not self.are_ending:
            await self._employ(slot)
            if self._must_end():
                return
            if slot.problem or (slot.losses >= MOST_LOSSES and not slot.clips):
                await self._wait_for_next_clip(slot, DropCause.WORKER_LOST)
            else:
                await anyio.sleep(min(0.1 * slot.losses**2, _MOST_BACKOFF_S))

    async def _employ(self, slot: WorkerSlot) -> None:
        """Start a worker, and talk to it until it ends."""
        slot.is_ready, slot.problem = False, None
        slot.opened.clear()
        try:
            slot.process = await WorkerProcess.start(self._setup, self._threads)
        except WorkerError as exc:
            slot.problem = str(exc)
            self._log.warning("worker.lost", status=None, problem=slot.problem, output="")
        else:
            slot.heard()
            self._publish(slot, slot.process.pid)
            status, output = await self._converse(slot, slot.process)
            self._publish(slot, 0)
            self._note_start(slot, status, output)
            if not self.are_ending:
                self._log.warning("worker.lost", status=status, problem=slot.problem, output=output)
                self._reports.restarts += 1
        if self._dispatcher.worker_lost(slot):
            self._reports.lost("a worker was lost")
        slot.process, slot.is_ready = None, False
        self._progress.notify()

    def _publish(self, slot: WorkerSlot, pid: int) -> None:
        """Publish who works, for a service that takes over."""
        place = self._dispatcher.slots.index(slot)
        if place < MOST_WORKERS:
            self._memory.service[ServiceWord.WORKERS + place] = pid

    async def _converse(self, slot: WorkerSlot, process: WorkerProcess) -> tuple[int, str]:
        """Send and receive until the worker ends; return its exit status and the end of its standard error."""
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(process.collect_diagnostics)
                tasks.start_soon(process.send_waiting)
                for command in self._dispatcher.opening_commands(slot):
                    process.send_nowait(command)
                await self._receive_from(slot, process)
                tasks.cancel_scope.cancel()
        finally:
            with anyio.CancelScope(shield=True):
                status = await process.aclose(self._description.deadlines.end_s)
        return status, process.diagnostics

    async def _receive_from(self, slot: WorkerSlot, process: WorkerProcess) -> None:
        try:
            async with aclosing(process.replies()) as replies:
                async for heard in replies:
                    slot.heard()
                    for reply in heard:
                        self._reports.take(slot, process.pid, reply)
                    if slot.is_codec_problem and not slot.is_ready:
                        process.end_commands()
                    self.dispatch(slot)
                    self._progress.notify()
                    await self._batching.rest()
        except WorkerError as exc:
            self._log.warning("worker.broke_protocol", worker=process.pid, error=str(exc))
            process.kill()

    async def _wait_for_next_clip(self, slot: WorkerSlot, cause: DropCause) -> None:
        """Have clips recorded by others, if there are any, until one more was opened: then a worker is tried again."""
        seen = self._clips_begun()
        while not self.are_ending and self._clips_begun() == seen:
            for work in list(slot.clips.values()):
                self._dispatcher.give_up(slot, work, cause)
            self._progress.notify()
            await slot.woken.wait()

    async def _watch_for_hangs(self) -> None:
        """End a worker that owes an answer and says nothing for too long; it is then replaced like any other."""
        while True:
            await anyio.sleep(self._description.deadlines.answer_s / _LOOKS)
            for slot in self._dispatcher.slots:
                slot.silent_looks = slot.silent_looks + 1 if slot.owes_answer and slot.is_ready else 0
                is_late = not slot.is_ready and time.monotonic() - slot.heard_at > self._description.deadlines.start_s
                if slot.process and (is_late or slot.silent_looks > _LOOKS):
                    self._log.warning("worker.silent", worker=slot.process.pid)
                    slot.process.kill()


def _nothing() -> None:
    pass
