"""The recording service: one anyio object that records what a journal tells, until it is told to end or training does.

JournalFeed    reads the journal            -> Recording: clips, frames that wait, counts
Dispatcher     what each worker hears next  <- Recording
Workers        runs the worker programs     -> Reports: what they say -> Recording
Records        manifests, log, hooks        <- Recording: clips that have changed
SnapshotSpool  snapshots on disk            <- Recording: snapshots captured
Channel        the socket to training
Checkpointer   the state, for a service that takes over
"""

from __future__ import annotations

import os
import socket
import time
from contextlib import AsyncExitStack, suppress
from typing import Any

import anyio
from anyio.abc import TaskGroup

from ..config import DropPolicy
from ..errors import describe
from ..storage.files import replace_whole
from ..storage.folder_lock import FolderLock
from ..storage.session_files import status_path
from ..transport.messages import (
    Close,
    Ended,
    Flush,
    Heard,
    Noted,
    Opened,
    Refused,
    ServiceDescription,
    decode,
)
from ..transport.shared_memory import ServiceWord, SharedMemory, TrainingWord
from .channel import Channel
from .lifecycle import Phase
from .parts import join_parts
from .session_log import now_iso, write_session
from .step_log import StepLog
from .takeover import unlisted_parts, wait_for_workers
from .training_end import describe_end, signal_of, wait_for_end
from .waits import Waits
from .waking import Notifier

LOOK_S = 0.01
"""Time from one look at the journal to the next, in a process of its own [s]. Training wakes nobody: it would be a
system call in each captured step."""
EMBEDDED_LOOK_S = 0.03
"""The same in the caller's event loop, where each look takes the interpreter from training."""
_BLOCKED_LOOK_S = 0.002
"""The same where training waits for room, and so for each look."""
_IDLE_LOOK_S = 0.1
"""The same while no clip is open."""
_SPOOL_S = 0.25
"""Time from one write of snapshots to the next: a kill of everything takes what came since."""
_PERCENTILES_S = 0.5
_STATUS_S = 1.0


class RecordingService:
    """Records for one recorder. `run` does it all.

    Args:
        memory: What it shares with training.
        connection: Its end of the socket to training.
        is_embedded: It runs in training's own process and event loop.
    """

    def __init__(self, memory: SharedMemory, connection: socket.socket, *, is_embedded: bool = False) -> None:
        description = decode(memory.description, ServiceDescription)
        look_s = EMBEDDED_LOOK_S if is_embedded else LOOK_S
        if description.drop_policy is DropPolicy.BLOCK:
            look_s = _BLOCKED_LOOK_S  # Training may wait for each of them.
        # Where training waits for room, every moment that the loop lets pass is training's.
        interval_s = EMBEDDED_LOOK_S if is_embedded and description.drop_policy is not DropPolicy.BLOCK else 0.0
        self._is_embedded = is_embedded
        self._memory = memory
        self._look_s = look_s
        self._look = Notifier()
        self._parts = join_parts(description, memory, Channel(connection), look_s=look_s, interval_s=interval_s)
        self._waits = Waits(self._parts, self._look)
        self._lock: FolderLock | None = None
        self._ending = anyio.Event()
        """Nothing is captured any more: training has closed the recorder, or ended."""
        self._ended: str | None = None
        """How training ended, where it did not close the recorder."""
        self._somebody_waits = False
        self._is_cut_short = False
        self._fresh_s = 0.0

    async def run(self) -> None:
        """Record until all is done that training has told of. Cancelled, it leaves the rest to a service after it."""
        parts = self._parts
        async with AsyncExitStack() as stack:
            stack.callback(parts.channel.close)
            await self._open(stack)
            async with anyio.create_task_group() as background:
                self._start(background)
                async with anyio.create_task_group() as workers:
                    workers.start_soon(parts.workers.run)
                    await self._ending.wait()
                    await self._finish()
                    workers.cancel_scope.cancel()
                await self._close()
                background.cancel_scope.cancel()
            parts.channel.send(Ended(), now=True)

    def _start(self, tasks: TaskGroup) -> None:
        parts = self._parts
        description = parts.description
        tasks.start_soon(parts.records.run)
        tasks.start_soon(parts.channel.run)
        tasks.start_soon(self._hear, tasks)
        tasks.start_soon(self._look_again_and_again)
        tasks.start_soon(self._name_and_spool)
        tasks.start_soon(self._announce_ready)
        tasks.start_soon(parts.pool_memory.run)
        step_log = StepLog(
            description.path, lambda: self._memory.training[TrainingWord.STEPS], parts.log, parts.threads
        )
        tasks.start_soon(step_log.run)
        if not self._is_embedded:
            tasks.start_soon(self._watch_training)
            tasks.start_soon(self._tell_status)

    async def _open(self, stack: AsyncExitStack) -> None:
        """Lock the folder, and go on where a service before this one has left off."""
        parts, description = self._parts, self._parts.description
        self._lock = await parts.threads.run(FolderLock.share, description.path)
        stack.push_async_callback(parts.threads.run, self._lock.release)
        if parts.checkpointer.take_over():
            await parts.threads.run(wait_for_workers, self._memory)
            await self._take_over_clips()
            parts.log.warning("service.restarted", clips=len(parts.recording.works))
        else:
            parts.log.info("session.opened", streams=self._describe_streams(), queue_bytes=description.queue_bytes)
            if description.folder_is_shared:
                parts.log.warning("session.folder_shared", folder=str(description.path))
            await self._write_session()
        parts.checkpointer.write()

    async def _take_over_clips(self) -> None:
        parts = self._parts
        try:
            entries = await parts.threads.run(os.listdir, parts.description.path)
        except OSError:
            entries = []
        for work in list(parts.recording.works.values()):
            if not (work.is_ring or work.life.is_over or work.life.phase is Phase.WAITING):
                await parts.threads.run(parts.spool.resume, work)
            if work.life.is_in_work and not work.is_ring and work.progress.is_named:
                work.unrepaired = unlisted_parts(work.progress, entries)
                work.progress.segments_opened = max(
                    work.progress.segments_opened, len(work.progress.segments) + len(work.unrepaired)
                )
            elif work.life.phase is not Phase.WAITING:
                parts.records.note(work)

    async def _look_again_and_again(self) -> None:
        parts = self._parts
        while True:
            if self._look_once():
                parts.workers.dispatch_all()
                parts.progress.notify()
            parts.recording.publish()
            self._publish_statistics()
            parts.checkpointer.write_if_due()
            if parts.feed.is_closed and parts.feed.is_read:
                self._ending.set()
            is_busy = parts.recording.captured or self._somebody_waits
            await self._look.wait(self._look_s if is_busy else _IDLE_LOOK_S)

    def _look_once(self) -> bool:
        self._memory.service[ServiceWord.HEARTBEAT] += 1
        has_read = self._parts.feed.read()
        self._memory.service[ServiceWord.READ] = self._parts.feed.reader.position
        return has_read

    def _publish_statistics(self) -> None:
        now = time.monotonic()
        is_fresh = now >= self._fresh_s
        if is_fresh:
            self._fresh_s = now + _PERCENTILES_S
        self._parts.publish_statistics(fresh=is_fresh)

    async def _name_and_spool(self) -> None:
        """Name clips as they come, and write snapshots every now and then."""
        parts = self._parts
        spooled_s = 0.0
        while True:
            if not parts.feed.namer.is_done:
                await parts.feed.namer.name_clips()
                parts.workers.dispatch_all()
                parts.progress.notify()
            now = time.monotonic()
            if parts.spool.has_waiting and (now - spooled_s >= _SPOOL_S or parts.batching.is_hurried):
                parts.log.appended.notify()
                spooled_s = now
            await parts.progress.wait(_SPOOL_S / 2 if parts.spool.has_waiting else _SPOOL_S)

    async def _announce_ready(self) -> None:
        """Tell training when a worker is ready, or why none is."""
        parts = self._parts
        with anyio.move_on_after(parts.description.deadlines.start_s):
            while not (parts.workers.is_any_ready or parts.workers.problem):
                await parts.progress.wait()
        if parts.workers.is_any_ready:
            parts.channel.send(Opened(codec=parts.reports.codec), now=True)
            return
        problem = parts.workers.problem
        message = (
            problem.message if problem else (f"no worker was ready within {parts.description.deadlines.start_s:g} s")
        )
        parts.channel.send(Refused(message=message, is_codec=bool(problem and problem.is_codec)), now=True)

    async def _hear(self, tasks: TaskGroup) -> None:
        """Do what training asks for, until it closes its side."""
        parts = self._parts
        async for message in parts.channel.messages():
            match message:
                case Flush():
                    tasks.start_soon(self._waits.flush, message)
                case Close():
                    self._somebody_waits |= message.somebody_waits
                    if message.drop_waiting and not self._is_cut_short:
                        self._is_cut_short = True
                        tasks.start_soon(self._cut_short)
                case Noted():
                    parts.log.append("warning", message.event, message.facts)
                case Heard():
                    await parts.records.heard(message.clip)
            self._look.notify()
        parts.records.forget_hooks()

    async def _watch_training(self) -> None:
        """End the recording where training ends without closing it."""
        description = self._parts.description
        await wait_for_end(description.training_process)
        parts = self._parts
        self._look_once()
        parts.records.forget_hooks()
        if not parts.feed.is_closed:
            last_step = max(self._memory.training[TrainingWord.STEPS] - 1, 0)
            self._ended = describe_end(description.training_process, last_step)
            signal_name = signal_of(description.training_process)
            parts.log.warning(
                "training.ended", ended=self._ended, signal=signal_name, frames=parts.recording.frames_left
            )
        self._ending.set()

    async def _finish(self) -> None:
        """End what is open, and wait until everything is done."""
        parts = self._parts
        while self._look_once():
            parts.progress.notify()
        last_step = max(self._memory.training[TrainingWord.STEPS] - 1, -1)
        parts.feed.end_all(last_step, self._ended)
        parts.workers.dispatch_all()
        # Training has ended, or waits: nobody is disturbed.
        in_a_hurry = self._somebody_waits or self._ended is not None
        await self._waits.drain(in_a_hurry=in_a_hurry)
        with self._waits.hurry():
            await parts.workers.end()

    async def _cut_short(self) -> None:
        """Drop what no worker has begun; what they have begun is waited for, but not for long."""
        parts = self._parts
        await self._ending.wait()
        end = time.monotonic() + parts.description.deadlines.end_s
        while not parts.is_drained:
            parts.dispatcher.drop_waiting()
            parts.workers.dispatch_all()
            if time.monotonic() > end:
                parts.workers.give_up()
            parts.progress.notify()
            await parts.progress.wait(0.1)

    async def _close(self) -> None:
        parts = self._parts
        parts.log.flush_trouble()
        parts.log.info("session.closed", steps=self._memory.training[TrainingWord.STEPS])
        await self._write_session(ended_at=now_iso())
        while not parts.records.is_done:
            parts.log.appended.notify()
            await parts.progress.wait(0.1)
        parts.publish_statistics(fresh=True)
        parts.recording.publish()

    async def _tell_status(self) -> None:
        """Keep a file beside the clips, while there is something to finish, from which `stepreel ps` tells how far."""
        await self._ending.wait()
        parts = self._parts
        path = status_path(parts.description.path, os.getpid())
        try:
            while True:
                left = parts.recording.frames_left
                text = f'{{"frames_left": {left}, "clips_left": {len(parts.recording.works)}}}\n'
                with suppress(OSError):
                    await parts.threads.run(replace_whole, path, text.encode())
                await anyio.sleep(_STATUS_S)
        finally:
            with suppress(OSError):
                path.unlink(missing_ok=True)

    async def _write_session(self, **facts: Any) -> None:
        parts, description = self._parts, self._parts.description
        session = {
            "schema": 1,
            "started_at": description.started_at,
            "ended_at": None,
            **({"ended": self._ended} if self._ended else {}),
            "streams": self._describe_streams(),
            "codec": parts.reports.codec,
            "configuration": description.configuration,
            **facts,
        }
        path = description.path / f"{description.stem}.json"
        try:
            await parts.threads.run(self._write_session_file, path, session)
        except OSError as exc:
            parts.log.warning("session.not_written", error=describe(exc))

    def _write_session_file(self, path: Any, session: dict[str, Any]) -> None:
        description = self._parts.description
        write_session(path, session, training_process=description.training_process, program=description.program)

    def _describe_streams(self) -> dict[str, Any]:
        return {
            source.stream: {"backend": source.backend, "source": source.details, "fps": source.fps}
            for source in self._parts.description.sources
        }
