"""Which clips stay: decided when the episodes in them end, by a rule of the user's."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ..config import Episode, KeepRule


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """Clips that were decided about, by their numbers in the schedule."""

    kept: tuple[int, ...] = ()
    discarded: tuple[int, ...] = ()


class Retention:
    """Clips that wait for the end of an episode: a state machine, events in, decisions out.

    A clip stays if the rule says so of any episode in it. It is discarded once it has ended, and so have all the
    episodes in it, and the rule did not.
    """

    def __init__(self, rule: KeepRule) -> None:
        self._rule = rule
        self._waiting: dict[int, int | None] = {}
        self._unjudged: set[int] = set()
        """Clips that began after the end of the last episode."""
        self._judged_until = 0

    def begin(self, clip: int) -> None:
        """A clip begins."""
        self._waiting[clip] = None
        self._unjudged.add(clip)

    def end(self, clip: int, end_step: int) -> Decision:
        """A clip's span ends with `end_step`."""
        if clip not in self._waiting:
            return Decision()
        self._waiting[clip] = end_step
        return self._discard_complete()

    def judge(self, episode: Episode, next_step: int) -> Decision:
        """An episode ended with the step before `next_step`. Raises whatever the rule does: nothing is decided then."""
        keep = self._rule(episode)
        self._judged_until = next_step
        self._unjudged.clear()
        if not keep:
            return self._discard_complete()
        return Decision(kept=self._take(list(self._waiting)))

    def finish(self) -> Decision:
        """No episode ends any more: what nobody has decided about stays."""
        return Decision(kept=self._take(list(self._waiting)))

    def _discard_complete(self) -> Decision:
        ended = [
            clip
            for clip, end in self._waiting.items()
            if end is not None and end < self._judged_until and clip not in self._unjudged
        ]
        return Decision(discarded=self._take(ended))

    def _take(self, clips: Iterable[int]) -> tuple[int, ...]:
        taken = tuple(clips)
        for clip in taken:
            del self._waiting[clip]
        return taken
