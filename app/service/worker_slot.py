"""A worker slot: room for one worker, with the clips that it has to do and the frames that it was handed."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from ..clip import Segment
from .waking import Notifier
from .work import ClipWork, Frame
from .worker_process import WorkerProcess

_LEAST_CREDIT = 2
"""Frames that a worker is given at a time: the one it works on, and the next; more where it is soon done with them."""
_CREDIT_NBYTES = 24_000_000
_MOST_CREDIT = 64
_AVERAGED_FRAMES = 8
_FIRST_GUESS_S = 0.03
_STARVED = 3.0
"""Time that a frame takes, in units of the processor time in it, from which on a worker has too little of that."""


@dataclass(slots=True, kw_only=True)
class WorkerSlot:
    """What the service knows of one worker and of what it has in hand."""

    clips: dict[int, ClipWork] = field(default_factory=dict)
    opened: set[tuple[str, int]] = field(default_factory=set)
    """Keys of the sources that the present worker has heard of."""
    in_flight: deque[Frame] = field(default_factory=deque)
    returned: deque[Frame] = field(default_factory=deque)
    """Frames that a lost worker had not reported, for the next one."""
    remuxed: dict[int, Segment] = field(default_factory=dict)
    """What was saved of a clip's open segment, until the rest of it is reported lost."""
    woken: Notifier = field(default_factory=Notifier)
    """Notifies when there may be something to do for a slot without a worker."""
    process: WorkerProcess | None = None
    is_ready: bool = False
    problem: str | None = None
    """Why the last worker did not get ready."""
    is_codec_problem: bool = False
    losses: int = 0
    """Workers lost since one last reported a frame."""
    heard_at: float = 0.0
    """When the worker last said something [s], monotonic."""
    silent_looks: int = 0
    """How often it was seen with something to do and nothing said since the look before."""
    opening: int = 0
    """Renderers that it was asked to open, and has not reported."""
    frame_s: float = _FIRST_GUESS_S
    """What a frame takes the worker [s], a moving average."""
    cpu_s: float = _FIRST_GUESS_S
    """The processor time in it."""

    @property
    def is_doubtful(self) -> bool:
        """Whether a worker was lost here, and no other one is ready yet: perhaps none ever will be."""
        return bool(self.losses) and not self.is_ready

    @property
    def owes_answer(self) -> bool:
        """Whether the worker was asked for anything that it has not reported: each such request has a deadline."""
        asked = any(clip.is_end_sent or clip.is_repair_sent for clip in self.clips.values())
        return asked or bool(self.in_flight or self.opening)

    def credit(self, look_s: float) -> int:
        """Return the frames that the worker should have in hand, to be busy until the look after the next."""
        return _LEAST_CREDIT - 1 + math.ceil(2 * look_s / max(self.frame_s, 1e-6))

    @property
    def is_starved(self) -> bool:
        """Whether the worker gets far less processor time than its frames need."""
        waits_s = time.monotonic() - self.heard_at if self.in_flight else 0.0
        return max(self.frame_s, waits_s) > _STARVED * self.cpu_s

    def heard(self) -> None:
        """Note that the worker said something, or was idle until now."""
        self.heard_at, self.silent_looks = time.monotonic(), 0

    def took(self, frame_s: float, cpu_s: float) -> None:
        """Note what a frame took the worker."""
        self.frame_s += (frame_s - self.frame_s) / _AVERAGED_FRAMES
        self.cpu_s += (cpu_s - self.cpu_s) / _AVERAGED_FRAMES

    def handed(self, clip: int) -> Iterator[Frame]:
        """Yield the clip's frames that a worker has, or had, and nobody has reported."""
        return (frame for frame in (*self.in_flight, *self.returned) if frame.clip == clip)

    def take_returned(self, clip: int) -> list[Frame]:
        """Take out what a lost worker had not reported of a clip."""
        taken = [frame for frame in self.returned if frame.clip == clip]
        self.returned = deque(frame for frame in self.returned if frame.clip != clip)
        return taken


def most_credit(capture_nbytes: int) -> int:
    """Return the most frames of one size that a worker is given at a time."""
    return max(_LEAST_CREDIT, min(_CREDIT_NBYTES // max(capture_nbytes, 1), _MOST_CREDIT))
