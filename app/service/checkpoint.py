"""Checkpoints: the service's state in shared memory, for a service that takes over when this one dies."""

from __future__ import annotations

import time
from collections.abc import Iterable

import msgspec

from ..clip import DropCause
from ..errors import WorkerError
from ..transport.journal import CAUSES, Checkpoints
from ..transport.shared_memory import ServiceWord, SharedMemory
from .dispatcher import Dispatcher
from .journal_feed import JournalFeed
from .published import ENCODED, Room
from .recording import Recording
from .records import Records
from .reports import Reports
from .session_log import SessionLog
from .work import Frame, State

_COST = 20
"""A checkpoint is written no more often than this many times as long as it takes."""


class Checkpointer:
    """Writes the state when it has changed, and takes over from a service before this one.

    Belongs to the service's event loop.
    """

    def __init__(
        self,
        memory: SharedMemory,
        recording: Recording,
        dispatcher: Dispatcher,
        feed: JournalFeed,
        reports: Reports,
        records: Records,
        room: Room,
        log: SessionLog,
    ) -> None:
        self._words = memory.service
        self._checkpoints = Checkpoints(memory)
        self._most_unread = memory.layout.record_count // 4
        self._recording = recording
        self._dispatcher = dispatcher
        self._feed = feed
        self._reports = reports
        self._records = records
        self._room = room
        self._log = log
        self._released = 0
        self._next_s = 0.0

    def write_if_due(self) -> None:
        """Write a checkpoint where it is worth it."""
        behind = self._feed.reader.position - self._words[ServiceWord.RETAINED]
        is_full = max(behind, self._room.released - self._released) > self._most_unread
        if is_full or (self._recording.is_changed and time.monotonic() >= self._next_s):
            start = time.monotonic()
            self.write()
            end = time.monotonic()
            self._next_s = end + _COST * (end - start)

    def write(self) -> None:
        """Write a checkpoint, and let training overwrite what it says."""
        recording = self._recording
        frames = {frame.number: frame for frame in self._unsettled()}
        state = State(
            position=self._feed.reader.position,
            released=self._room.released,
            read=recording.read,
            restarts=self._reports.restarts,
            is_closed=self._feed.is_closed,
            codec=self._reports.codec,
            renewals=self._feed.renewals,
            drawn_by=recording.drawn_by,
            totals=recording.totals,
            works=list(recording.works.values()),
            frames=[frames[number] for number in sorted(frames)],
            spooled=[frame for frame in self._spooled() if frame.number not in frames],
            unheard=self._records.unheard,
        )
        data = msgspec.msgpack.encode(state)
        if not self._checkpoints.write(data):  # Training's journal fills up, and its frames are dropped.
            self._log.trouble("checkpoint.too_large", kind="nbytes", nbytes=len(data), clips=len(state.works))
            return
        recording.is_changed = False
        self._released = state.released
        self._words[ServiceWord.RETAINED] = state.position

    def take_over(self) -> bool:
        """Go on from what a service before this one has left; False where there was none.

        Raises:
            WorkerError: its state can't be read.
        """
        data = self._checkpoints.read()
        if data is None:
            return False
        try:
            state = msgspec.msgpack.decode(data, type=State)
        except msgspec.MsgspecError as exc:
            raise WorkerError(f"the state of the service before can't be read: {exc}") from exc
        self._released = state.released
        self._feed.reader.position = state.position
        self._feed.is_closed = state.is_closed
        self._feed.read_before = self._words[ServiceWord.READ]
        self._feed.outcomes = self._room.outcomes_since(state.released)
        for offset, nbytes in state.renewals:
            self._feed.load_renewal(offset, nbytes)
        self._reports.codec, self._reports.restarts = state.codec, state.restarts
        self._records.unheard = state.unheard
        self._restore(state)
        return True

    def _restore(self, state: State) -> None:
        recording = self._recording
        recording.read, recording.drawn_by, recording.totals = state.read, state.drawn_by, state.totals
        for work in state.works:
            work.worker_lost()
            recording.works[work.index] = work
            if work.life.is_in_work:
                self._dispatcher.assign(work)
            if work.awaits_name:
                self._feed.namer.want_name(work)
        for frame in state.frames:
            self._restore_frame(frame)
        for frame in state.spooled:
            if frame.number not in self._feed.outcomes:
                self._restore_spooled(frame)

    def _restore_frame(self, frame: Frame) -> None:
        """Give a frame to the next worker that the one before had not settled."""
        outcome = self._feed.outcomes.get(frame.number)
        work = self._recording.works.get(frame.clip)
        if outcome is not None:
            if work:
                cause = None if outcome == ENCODED else CAUSES[outcome - 1]
                self._recording.count_settled(work, frame, cause)
        elif work is None or frame.step not in work.progress.pending_steps:
            frame.holds = 1
            self._room.settle(frame, DropCause.CLOSED)  # It was counted; only its memory is still held.
        else:
            frame.holds = 1
            self._dispatcher.return_frame(frame)
            if self._recording.spool:
                self._recording.spool.captured(work, frame)

    def _restore_spooled(self, frame: Frame) -> None:
        """Have a snapshot written that the service before has perhaps not written."""
        work = self._recording.works.get(frame.clip)
        frame.holds = 1
        if work and self._recording.spool:
            self._recording.spool.take_again(work, frame)
        self._room.let_go(frame)

    def _spooled(self) -> Iterable[Frame]:
        return self._recording.spool.held if self._recording.spool else ()

    def _unsettled(self) -> list[Frame]:
        frames = list(self._recording.queue)
        for slot in self._dispatcher.slots:
            frames += (*slot.in_flight, *slot.returned)
        return frames
