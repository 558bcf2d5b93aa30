"""The life of a clip: a table of phases and events. Pure; what is to be done in a phase is decided elsewhere.

    BEGUN      training captures it; it has no name yet
    RECORDING  training captures it
    ENDED      no capture follows; frames wait for workers, or are with them
    SETTLING   every frame is accounted for; its last manifest is to be written
    WAITING    whole on disk; whether it stays is not decided yet
    CLOSED     whole on disk, and announced
    DISCARDED  gone: it was not to be kept, or held last seconds that nobody asked for

    ENDS       training says that no capture follows
    NAMED      a file name was reserved
    DRAINED    a worker has closed its segments, or nobody works on it any more
    WRITTEN    its last manifest is on disk
    KEEP       it is decided that it stays
    DISCARD    it is decided that it goes

An event that comes late, twice or out of order has its place in the table, and changes nothing there.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec


class Phase(StrEnum):
    """How far a clip is."""

    BEGUN = "begun"
    RECORDING = "recording"
    ENDED = "ended"
    SETTLING = "settling"
    WAITING = "waiting"
    CLOSED = "closed"
    DISCARDED = "discarded"


class Event(StrEnum):
    """What happens to a clip."""

    NAMED = "named"
    ENDS = "ends"
    DRAINED = "drained"
    WRITTEN = "written"
    KEEP = "keep"
    DISCARD = "discard"


class Wanted(StrEnum):
    """Whether a clip stays."""

    YES = "yes"
    UNDECIDED = "undecided"
    NO = "no"


_B, _R, _E, _S, _W, _C, _D = Phase
_UNTIL_DECIDED = "until decided"
"""Where it goes from here depends on whether it is wanted."""

TRANSITIONS: dict[Phase, dict[Event, Phase | str]] = {
    #    NAMED     ENDS     DRAINED  WRITTEN         KEEP     DISCARD
    _B: dict(zip(Event, (_R, _E, _B, _B, _B, _B), strict=True)),
    _R: dict(zip(Event, (_R, _E, _R, _R, _R, _R), strict=True)),
    _E: dict(zip(Event, (_E, _E, _S, _E, _E, _E), strict=True)),
    _S: dict(zip(Event, (_S, _S, _S, _UNTIL_DECIDED, _S, _S), strict=True)),
    _W: dict(zip(Event, (_W, _W, _W, _W, _C, _D), strict=True)),
    _C: dict(zip(Event, (_C, _C, _C, _C, _C, _C), strict=True)),
    _D: dict(zip(Event, (_D, _D, _D, _D, _D, _D), strict=True)),
}
_AFTER_WRITTEN = {Wanted.YES: Phase.CLOSED, Wanted.UNDECIDED: Phase.WAITING, Wanted.NO: Phase.DISCARDED}


class Life(msgspec.Struct):
    """Where one clip is; `on` is the only place where that changes."""

    phase: Phase = Phase.BEGUN
    wanted: Wanted = Wanted.YES

    def on(self, event: Event) -> bool:
        """Take an event; return whether the phase is another one now."""
        before = self.phase
        if self.wanted is Wanted.UNDECIDED and event in (Event.KEEP, Event.DISCARD):
            self.wanted = Wanted.YES if event is Event.KEEP else Wanted.NO
        after = TRANSITIONS[before][event]
        self.phase = _AFTER_WRITTEN[self.wanted] if after is _UNTIL_DECIDED else Phase(after)
        return self.phase is not before

    @property
    def is_captured(self) -> bool:
        """Whether captures may follow."""
        return self.phase in (Phase.BEGUN, Phase.RECORDING)

    @property
    def is_in_work(self) -> bool:
        """Whether a worker has, or may get, anything to do for it."""
        return self.phase in (Phase.BEGUN, Phase.RECORDING, Phase.ENDED)

    @property
    def is_over(self) -> bool:
        """Whether nothing more happens to it."""
        return self.phase in (Phase.CLOSED, Phase.DISCARDED)
