"""What the service publishes in shared memory: room, grids, and the block of statistics."""

from __future__ import annotations

from collections.abc import Mapping

from ..clip import DropCause
from ..statistics import ServiceStatistics
from ..transport.journal import CAUSES, ReleaseWriter
from ..transport.shared_memory import MOST_STREAMS, ServiceWord, SharedMemory
from .work import Frame

ENCODED = 0
"""Outcome of a frame; others are the number of a cause, from 1."""


class Room:
    """Tells training which captures are settled, and how many wait no longer."""

    def __init__(self, memory: SharedMemory) -> None:
        self._words = memory.service
        self._releases = ReleaseWriter(memory)

    @property
    def released(self) -> int:
        """Releases written so far."""
        return self._releases.count

    def outcomes_since(self, count: int) -> dict[int, int]:
        """Return what became of records that were released since there were `count` releases."""
        return self._releases.since(count)

    def publish_taken(self, frames: int, nbytes: int) -> None:
        """Publish how many of the frames that were read wait no longer, and their bytes."""
        self._words[ServiceWord.FRAME_NBYTES_TAKEN] = nbytes
        self._words[ServiceWord.FRAMES_TAKEN] = frames

    def settle(self, frame: Frame, cause: DropCause | None) -> None:
        """Note what became of a frame, and let go of it."""
        frame.outcome = ENCODED if cause is None else 1 + CAUSES.index(cause)
        self.let_go(frame)

    def let_go(self, frame: Frame) -> None:
        """Release a frame's memory, once nobody needs its bytes."""
        frame.holds -= 1
        if frame.holds == 0:
            self._releases.write(frame.number, frame.outcome)

    def publish_grids(self, grids: Mapping[int, int], streams: Mapping[int, int]) -> None:
        """Publish what the clips that are captured now were thinned to.

        Args:
            grids: By clip.
            streams: Index of the stream, by clip.
        """
        for clip, stream in streams.items():
            if stream < MOST_STREAMS:
                word = clip << 8 | (grids.get(clip, 1).bit_length() - 1)
                if self._words[ServiceWord.GRIDS + stream] != word:
                    self._words[ServiceWord.GRIDS + stream] = word


class StatisticsWriter:
    """Writes the block of statistics, as `ServiceStatistics` reads it."""

    def __init__(self, memory: SharedMemory) -> None:
        self._words = memory.service
        self._place = int(ServiceWord.STATISTICS)
        self._last: list[int] = []

    def write(self, statistics: ServiceStatistics) -> None:
        """Publish all of it at once."""
        values = statistics.to_words()
        if values == self._last:
            return
        self._last = values
        words, place = self._words, self._place
        sequence = words[place] | 1
        words[place] = sequence  # Odd: being written.
        for following, value in enumerate(values, place + 1):
            words[following] = value
        words[place] = sequence + 1
