"""Episodes as training tells of them, and what the user's rule decides about the clips in them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..config import Episode, KeepRule
from ..scheduling.retention import Decision, Retention


class Episodes:
    """Counts episodes, and asks the rule. Belongs to the training thread."""

    def __init__(self, rule: KeepRule | None) -> None:
        self.count = 0
        self._retention = Retention(rule) if rule else None
        self._start = 0

    @property
    def decides_later(self) -> bool:
        """Whether there is a rule, so that clips wait for it."""
        return self._retention is not None

    def begin(self, clip: int) -> None:
        """A clip begins."""
        if self._retention:
            self._retention.begin(clip)

    def end(self, clip: int, end_step: int) -> Decision:
        """A clip's span ends."""
        return self._retention.end(clip, end_step) if self._retention else Decision()

    def judge(
        self,
        next_step: int,
        episode_return: float | None,
        terminated: bool,
        truncated: bool,
        info: Mapping[str, Any] | None,
    ) -> Decision:
        """An episode ended with the step before `next_step`; raises what the rule raises."""
        episode = Episode(
            number=self.count,
            step_count=next_step - self._start,
            episode_return=None if episode_return is None else float(episode_return),
            terminated=bool(terminated),
            truncated=bool(truncated),
            info=info or {},
        )
        self.count += 1
        self._start = next_step
        return self._retention.judge(episode, next_step) if self._retention else Decision()

    def finish(self) -> Decision:
        """No episode ends any more: all that was not decided about stays."""
        return self._retention.finish() if self._retention else Decision()
