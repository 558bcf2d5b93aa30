"""Episodes as training tells of them, and what the user's rule decides about the clips in them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..config import Episode, KeepRule
from ..errors import describe
from ..scheduling.retention import Decision, Retention
from .warnings import Warnings


class Episodes:
    """Counts episodes, and asks the rule. Belongs to the training thread."""

    def __init__(self, rule: KeepRule | None, warnings: Warnings) -> None:
        self.count = 0
        self._retention = Retention(rule) if rule else None
        self._start = 0
        self._warnings = warnings

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
        """An episode ended with the step before `next_step`. A rule that fails is warned of; all clips stay then."""
        number, start = self.count, self._start
        self.count += 1
        self._start = next_step
        try:
            episode = Episode(
                number=number,
                step_count=next_step - start,
                episode_return=None if episode_return is None else float(episode_return),
                terminated=bool(terminated),
                truncated=bool(truncated),
                info=info or {},
            )
            return self._retention.judge(episode, next_step) if self._retention else Decision()
        except KeyboardInterrupt:
            raise
        except BaseException as exc:  # noqa: BLE001 - a rule that fails costs no clip, and not the training.
            self._warnings.warn("keep.failed", type(exc).__name__, error=describe(exc), number=number)
            return self.finish()

    def finish(self) -> Decision:
        """No episode ends any more: all that was not decided about stays."""
        return self._retention.finish() if self._retention else Decision()
