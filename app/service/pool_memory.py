"""The pool's memory: faulted in ahead of use, within what the machine has left, and given back after a clip.

Giving it back must never take a page that training writes to. So the service first publishes a limit, above which
training leases nothing, then waits until a word that training has just written is certainly seen, then looks whether
training captures anything. If it does not, whatever training leases from now on lies below the limit, because training
says that it captures before it reads the limit.
"""

from __future__ import annotations

import math

import anyio

from ..available_memory import available_memory
from ..transport.messages import ServiceDescription
from ..transport.shared_memory import ServiceWord, SharedMemory, TrainingWord, aligned
from .journal_feed import JournalFeed
from .recording import Recording
from .session_log import SessionLog
from .threads import Threads
from .waking import Notifier

_PIECE_NBYTES = 8 << 20
"""Memory that is faulted in, or given back, at a time."""
_AHEAD_NBYTES = 64 << 20
_AHEAD_FRAMES = 16
"""How far memory is faulted in ahead of use: captures that find it done take a third of the time."""
_LOOK_S = 1.0
_KEPT_S = 5.0
"""How long nothing may be recorded before memory is given back: the next clip would have it faulted in again."""
_LEASE_S = 0.1
"""Longer than any processor takes to show another one what it has written, by far."""
_RESERVE_SHARE = 8
"""Of the queue's bytes one part in so many has to be available beside it, or the queue grows no more."""


class PoolMemory:
    """Keeps the pages of the pool some way ahead of what captures use of it; `run` does it all.

    Args:
        description: What the service has to know.
        memory: What it shares with training.
        recording: Says what is used.
        feed: Says what is read, and what must stay.
        progress: Notifies when anything was captured or done.
        threads: What blocks runs here.
        log: Hears where the machine runs out of memory.
    """

    def __init__(
        self,
        description: ServiceDescription,
        memory: SharedMemory,
        recording: Recording,
        feed: JournalFeed,
        progress: Notifier,
        threads: Threads,
        log: SessionLog,
    ) -> None:
        self._memory = memory
        self._words = memory.service
        self._recording = recording
        self._feed = feed
        self._progress = progress
        self._threads = threads
        self._log = log
        self._queue_nbytes = description.queue_bytes
        takes_pixels = any(not source.renderer for source in description.sources)
        self._ahead_nbytes = _AHEAD_NBYTES if takes_pixels else 0
        self._is_ring_held = description.ring_s is not None
        self._idle_since_s = math.inf
        self._is_short = False
        self._used_end = 0
        """Up to where pages may be there."""

    async def run(self) -> None:
        """Run until cancelled."""
        self._lift_limit()  # A service before this one may have been giving memory back.
        while True:
            await self.populate()
            if self._is_idle:
                await self._give_back_if_due()
            else:
                self._idle_since_s = math.inf
            await self._progress.wait(_LOOK_S)

    @property
    def _start(self) -> int:
        return self._memory.layout.pool

    @property
    def _ahead(self) -> int:
        """Bytes to fault in beyond what is used."""
        return max(self._ahead_nbytes, _AHEAD_FRAMES * aligned(self._recording.capture_nbytes))

    @property
    def _is_idle(self) -> bool:
        """Whether no memory of the pool is in use, as far as the journal tells and has been read."""
        return (
            self._memory.training[TrainingWord.CLIPS_OPEN] == 0
            and not self._is_ring_held
            and self._feed.is_read
            and self._recording.holds_nothing
        )

    async def populate(self) -> None:
        """Fault in what captures will use next, as long as the machine has memory left."""
        words = self._words
        end = min(max(self._recording.used_nbytes, self._start) + self._ahead, self._memory.layout.nbytes)
        start = max(words[ServiceWord.POPULATED], self._start)
        if start >= end or not await self._may_grow():
            return
        for place in range(start, end, _PIECE_NBYTES):
            following = min(place + _PIECE_NBYTES, end)
            await self._threads.run(self._memory.populate, place, following)
            words[ServiceWord.POPULATED] = following

    async def _may_grow(self) -> bool:
        """Look whether the machine has memory left beside the queue; where not, hold training to what is there."""
        available = await self._threads.run(available_memory)
        is_short = available.nbytes < self._queue_nbytes // _RESERVE_SHARE
        if is_short and not self._is_short:
            limit = max(self._words[ServiceWord.POPULATED], self._start + self._ahead)
            queue_nbytes = min((limit - self._start) * 3 // 4, self._queue_nbytes)
            self._words[ServiceWord.POOL_LIMIT], self._recording.queue.nbytes_limit = limit, queue_nbytes
            self._log.warning(
                "memory.short", available=available.nbytes, bound_by=available.bound_by, queue_nbytes=queue_nbytes
            )
        elif self._is_short and not is_short:
            self._lift_limit()
        self._is_short = is_short
        return not is_short

    async def _give_back_if_due(self) -> None:
        now = anyio.current_time()
        self._idle_since_s = min(self._idle_since_s, now)
        self._used_end = max(self._used_end, self._words[ServiceWord.POPULATED], self._recording.used_nbytes)
        kept = aligned(max(self._start + self._ahead, *(sum(place) for place in self._feed.renewals), 0))
        if self._used_end <= kept or now - self._idle_since_s < _KEPT_S:
            return
        self._words[ServiceWord.POOL_LIMIT] = kept
        await anyio.sleep(_LEASE_S)
        if self._is_idle:
            self._words[ServiceWord.POPULATED] = kept
            self._recording.used_nbytes = 0
            # From the end: what is left, where a clip begins meanwhile, is given back after that one.
            while self._used_end > kept and self._is_idle:
                start = max(self._used_end - _PIECE_NBYTES, kept)
                await self._threads.run(self._memory.give_back, start, self._used_end)
                self._used_end = start
        self._lift_limit()
        self._is_short = False

    def _lift_limit(self) -> None:
        self._words[ServiceWord.POOL_LIMIT] = 0
        self._recording.queue.nbytes_limit = self._queue_nbytes
