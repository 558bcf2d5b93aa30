"""What the service has in work: clips, frames that wait, and what of them a service that takes over has to know."""

from __future__ import annotations

import msgspec

from ..clip import DropCause
from ..transport.journal import Record
from .accounting import ClipProgress, RingProgress, Totals
from .lifecycle import Life


class Frame(msgspec.Struct, kw_only=True):
    """A capture in the pool, from its record to its release."""

    number: int
    """Of its record."""
    clip: int
    step: int
    pts: int
    offset: int
    nbytes: int
    height: int
    """0: a snapshot."""
    width: int
    crash_count: int = 0
    """Workers that were lost while they worked on it."""
    holds: int = 1
    """How many still need its bytes."""
    outcome: int = 0
    """What became of it, once it is settled."""

    @property
    def is_snapshot(self) -> bool:
        """Whether it has to be drawn."""
        return not self.height

    @classmethod
    def of(cls, record: Record) -> Frame:
        """Return the frame that a record tells of."""
        return cls(
            number=record.number,
            clip=record.clip,
            step=record.step,
            pts=record.pts,
            offset=record.offset,
            nbytes=record.nbytes,
            height=record.height,
            width=record.width,
        )


class ClipWork(msgspec.Struct, kw_only=True):
    """A clip that is not over."""

    progress: ClipProgress | RingProgress
    life: Life
    version: int
    """Of its stream's source."""
    losses: int = 0
    """Workers lost over this clip since it last had a frame encoded."""
    given_up: DropCause | None = None
    """Why frames of this clip go to no worker any more."""
    unrepaired: list[str] = []
    """Segments that lost workers left open, in order."""
    awaits_name: bool = False
    """A file name is being reserved for it, without which nothing of it can be written."""
    is_begun: bool = False
    """The present worker has heard of it."""
    is_end_sent: bool = False
    is_repair_sent: bool = False
    is_concluded: bool = False
    """It was announced, or deleted."""

    @property
    def index(self) -> int:
        """Identifies the clip."""
        return self.progress.index

    @property
    def source(self) -> tuple[str, int]:
        """Key of what its captures are."""
        return self.progress.stream, self.version

    @property
    def is_ring(self) -> bool:
        """Whether it holds last seconds."""
        return isinstance(self.progress, RingProgress)

    @property
    def can_begin(self) -> bool:
        """Whether a worker may hear of it."""
        return self.progress.is_named or self.is_ring

    def worker_lost(self) -> None:
        """Forget what the lost worker knew."""
        self.is_begun = self.is_end_sent = self.is_repair_sent = False


class Read(msgspec.Struct, kw_only=True):
    """How much the journal has told of."""

    frames: int = 0
    """Captures, all of them."""
    nbytes: int = 0
    """Their bytes."""
    requested: int = 0
    """Frames that were asked for, the last seconds that are held not counted."""
    clips: int = 0
    """Clips begun, likewise."""


class State(msgspec.Struct, kw_only=True):
    """The service's state, as a checkpoint keeps it."""

    position: int
    """Records read from the journal."""
    released: int
    """Releases written."""
    read: Read
    restarts: int
    """Workers that were replaced."""
    is_closed: bool
    codec: str | None
    renewals: list[tuple[int, int]]
    """Offset and size of the descriptions of sources that were renewed."""
    drawn_by: dict[str, str]
    totals: Totals
    works: list[ClipWork]
    frames: list[Frame]
    """Those that are not settled, in order of their records."""
    spooled: list[Frame]
    """Those that are settled, and whose snapshots are perhaps not on disk yet."""
    unheard: dict[int, str]
    """Clips that were announced, and whose hooks were not called yet as far as is known."""
