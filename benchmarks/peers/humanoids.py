"""MuJoCo simulations on the CPU: Gymnasium's humanoids, moved to and fro."""

from __future__ import annotations

import math
from typing import Any

import gymnasium
import numpy as np

_COUNT = 8
"""Environments that are stepped in turn, as by `gymnasium.vector.SyncVectorEnv`; the first one is recorded."""


class Humanoids:
    """Several environments, whose steps together take about as long as those of the other simulations."""

    def __init__(self) -> None:
        self._envs = [gymnasium.make("Humanoid-v5") for _ in range(_COUNT)]
        for number, env in enumerate(self._envs):
            env.reset(seed=number)
        self._action: Any = np.zeros(self.recorded.action_space.shape or (), np.float32)
        self._step_count = 0

    @property
    def recorded(self) -> gymnasium.Env[Any, Any]:
        return self._envs[0]

    def step(self) -> None:
        self._step_count += 1
        self._action[:] = 0.2 * math.sin(self._step_count / 10)
        for env in self._envs:
            _, _, terminated, truncated, _ = env.step(self._action)
            if terminated or truncated:
                env.reset()
