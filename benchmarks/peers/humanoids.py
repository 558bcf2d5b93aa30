"""MuJoCo simulations on the CPU: Gymnasium's humanoids, moved to and fro."""

from __future__ import annotations

import math
from typing import Any

import gymnasium
import numpy as np

_COUNT = 16
"""Environments that are stepped in turn, as by `gymnasium.vector.SyncVectorEnv`; the first one is recorded."""
_ROUND_STEPS = 20
"""Steps until all stand as they did at first, and move as they did: one that fell has more contacts and takes twice as
long, and a clip would be held against steps of another kind. Divides the length of every phase."""


class Humanoids:
    """Several environments, whose steps together take about as long as those of the other simulations."""

    def __init__(self) -> None:
        self._envs: list[gymnasium.Env[Any, Any]] = [gymnasium.make("Humanoid-v5") for _ in range(_COUNT)]
        for number, env in enumerate(self._envs):
            env.reset(seed=number)
        self._simulations: list[Any] = [env.unwrapped for env in self._envs]
        self._starts = [(one.data.qpos.copy(), one.data.qvel.copy()) for one in self._simulations]
        self._action: Any = np.zeros(self.recorded.action_space.shape or (), np.float32)
        self._step_count = 0

    @property
    def recorded(self) -> gymnasium.Env[Any, Any]:
        return self._envs[0]

    def step(self) -> None:
        if self._step_count % _ROUND_STEPS == 0:
            for simulation, (qpos, qvel) in zip(self._simulations, self._starts, strict=True):
                simulation.set_state(qpos, qvel)
        self._action[:] = 0.2 * math.sin(math.tau * (self._step_count % _ROUND_STEPS) / _ROUND_STEPS)
        self._step_count += 1
        for env in self._envs:
            env.step(self._action)
