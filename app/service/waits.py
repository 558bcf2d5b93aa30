"""Those who wait for the service: in `flush`, and in `close`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import anyio

from ..transport.control_bytes import SOMEBODY_WAITS
from ..transport.messages import Flush, Flushed
from .lifecycle import Phase
from .parts import Parts
from .waking import Notifier

_LOG_S = 5.0


class Waits:
    """Has everything hurry while somebody waits. Belongs to the service's event loop.

    Args:
        parts: The service.
        looked: Notified, the journal is looked at.
    """

    def __init__(self, parts: Parts, looked: Notifier) -> None:
        self._parts = parts
        self._look = looked
        self._count = 0

    @contextmanager
    def hurry(self) -> Iterator[None]:
        """Have everybody hurry meanwhile: workers take the whole machine, what is sent goes at once."""
        parts = self._parts
        self._count += 1
        self._apply()
        parts.channel.hurry()
        try:
            with parts.batching.hurry():
                parts.log.appended.notify()
                self._look.notify()
                yield
        finally:
            self._count -= 1
            self._apply()

    async def flush(self, message: Flush) -> None:
        """Answer once all is done that was in the journal up to a place, and what goes on has been encoded so far."""
        parts = self._parts
        with self.hurry():
            while parts.feed.reader.position < message.head or not parts.feed.namer.is_done:
                self._look.notify()
                await parts.progress.wait(0.05)
            works = parts.recording.works
            pending = {index: set(work.progress.pending_steps) for index, work in works.items()}
            ended = {index for index, work in works.items() if not work.life.is_captured}
            while self._is_left(pending, ended) or not parts.records.are_written:
                await parts.progress.wait()
            parts.publish_statistics(fresh=True)
            parts.channel.send(Flushed(token=message.token), now=True)

    async def drain(self, *, in_a_hurry: bool) -> None:
        """Return once everything is done."""
        if not in_a_hurry:
            await self._drain()
            return
        with self.hurry():
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._log_progress)
                await self._drain()
                tasks.cancel_scope.cancel()

    async def _drain(self) -> None:
        while not self._parts.is_drained:
            self._look.notify()
            await self._parts.progress.wait(1.0)

    async def _log_progress(self) -> None:
        while True:
            await anyio.sleep(_LOG_S)
            self._parts.log.info("recorder.finishing", frames_left=self._parts.recording.frames_left)

    def _is_left(self, pending: dict[int, set[int]], ended: set[int]) -> bool:
        works = self._parts.recording.works
        return any(
            work.progress.pending_steps & pending[index] or (index in ended and work.life.phase is not Phase.WAITING)
            for index in pending
            if (work := works.get(index))
        )

    def _apply(self) -> None:
        memory = self._parts.memory
        if memory.is_open:
            memory.view[SOMEBODY_WAITS] = min(self._count, 255)
        self._parts.channel.is_urgent = self._count > 0
