"""What the event loop knows of each worker's place: its clips, the frames it was handed, and how it is getting on."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from .clip import DropCause, Segment
from .doorbell import Pulse
from .encoders.worker_process import WorkerProcess
from .interfaces import CaptureFormat
from .ledger import ClipAccount
from .scheduling.frame_queue import QueuedFrame

TURN_S = 0.03
"""Time from one turn of the event loop to the next [s], while training goes on."""
_LEAST_CREDIT = 2
"""Frames that a worker is given at a time: the one it works on, and the next; more where it is soon done with them."""
_CREDIT_NBYTES = 24_000_000
_MOST_CREDIT = 64
_AVERAGED_FRAMES = 8
_STARVED = 3.0
"""Time that a frame takes, in units of the processor time in it, from which on a worker has too little of that."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """What a stream's captures are, for the clips that were opened under one version of it."""

    stream: str
    version: int
    format: CaptureFormat
    fps: float

    @property
    def key(self) -> tuple[str, int]:
        """What identifies it."""
        return self.stream, self.version


@dataclass(slots=True, kw_only=True)
class ClipInWork:
    """A clip between its first frame and its last report."""

    account: ClipAccount
    source: Source
    is_ended: bool = False
    is_begun: bool = False
    """The present worker has heard of it."""
    is_end_sent: bool = False
    losses: int = 0
    """Workers lost over this clip since it last had a frame encoded."""
    unsalvaged: str | None = None
    """The segment that a lost worker left open."""
    is_salvage_sent: bool = False
    given_up: DropCause | None = None
    """Why frames of this clip go to no worker any more."""

    @property
    def can_begin(self) -> bool:
        """Whether a worker may hear of it."""
        return self.account.is_named or self.account.request.is_ring

    @property
    def index(self) -> int:
        """Identifies the clip inside this process."""
        return self.account.request.clip_index


@dataclass(slots=True, kw_only=True)
class HandedFrame:
    """A frame that was handed to a worker; its slot is kept until the worker has reported it."""

    frame: QueuedFrame
    suspicion: int = 0
    """Workers that were lost while they worked on this frame."""


@dataclass(slots=True, kw_only=True)
class Seat:
    """A place for one worker, and the clips that it has to do."""

    clips: dict[int, ClipInWork] = field(default_factory=dict)
    opened: set[tuple[str, int]] = field(default_factory=set)
    """Keys of the sources that the present worker has heard of."""
    in_flight: deque[HandedFrame] = field(default_factory=deque)
    returned: deque[HandedFrame] = field(default_factory=deque)
    """What a lost worker had not reported, for the next one."""
    salvaged: dict[int, Segment] = field(default_factory=dict)
    bell: Pulse = field(default_factory=Pulse)
    """Beats when there may be something to do for a seat without a worker."""
    process: WorkerProcess | None = None
    is_ready: bool = False
    problem: str | None = None
    """Why the last worker did not get ready."""
    losses: int = 0
    """Workers lost since one last reported a frame."""
    heard_at: float = 0.0
    """When the worker last said something [s], monotonic."""
    silent_looks: int = 0
    """How often it was seen with a frame in work and nothing said since the look before."""
    frame_s: float = TURN_S
    """What a frame takes the worker [s], a moving average."""
    cpu_s: float = TURN_S
    """The processor time in it."""

    @property
    def is_doubtful(self) -> bool:
        """Whether a worker was lost here, and no other one is ready yet: perhaps none ever will be."""
        return bool(self.losses) and not self.is_ready

    @property
    def credit(self) -> int:
        """Frames that the worker should have in hand, to be busy until the turn after the next."""
        return _LEAST_CREDIT - 1 + math.ceil(2 * TURN_S / max(self.frame_s, 1e-6))

    @property
    def is_starved(self) -> bool:
        """Whether the worker gets far less processor time than its frames need."""
        waits_s = time.monotonic() - self.heard_at if self.in_flight else 0.0
        return max(self.frame_s, waits_s) > _STARVED * self.cpu_s

    def heard(self) -> None:
        """Take note that the worker said something, or was idle until now."""
        self.heard_at, self.silent_looks = time.monotonic(), 0

    def took(self, frame_s: float, cpu_s: float) -> None:
        """Take note of what a frame took the worker."""
        self.frame_s += (frame_s - self.frame_s) / _AVERAGED_FRAMES
        self.cpu_s += (cpu_s - self.cpu_s) / _AVERAGED_FRAMES

    def handed(self, clip: ClipInWork) -> Iterator[HandedFrame]:
        """Yield the clip's frames that a worker has, or had, and nobody has reported."""
        return (one for one in (*self.in_flight, *self.returned) if one.frame.clip_index == clip.index)

    def take_returned(self, clip: ClipInWork) -> list[HandedFrame]:
        """Take out what a lost worker had not reported of a clip."""
        taken = [one for one in self.returned if one.frame.clip_index == clip.index]
        for one in taken:
            self.returned.remove(one)
        return taken


def most_credit(capture_nbytes: int) -> int:
    """Return the most frames of one size that a worker is given at a time."""
    return max(_LEAST_CREDIT, min(_CREDIT_NBYTES // max(capture_nbytes, 1), _MOST_CREDIT))
