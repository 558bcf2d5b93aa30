"""Rules for `RecorderConfig.keep`: which clips stay, decided when the episodes in them end."""

from __future__ import annotations

import math

from .config import Episode


def failed(episode: Episode) -> bool:
    """Keep the clips of episodes that ended of themselves and not because their time was over: a fall, mostly."""
    return episode.terminated and not episode.truncated


class BestReturn:
    """Keeps the clip of an episode whose return is above that of all before it; one without a return is not kept."""

    def __init__(self) -> None:
        self._best = -math.inf

    def __call__(self, episode: Episode) -> bool:
        """Return whether this episode is the best so far."""
        if episode.episode_return is None or not episode.episode_return > self._best:
            return False
        self._best = episode.episode_return
        return True
