"""A small Gymnasium environment that tells what was done to it."""

from __future__ import annotations

from typing import Any, ClassVar

import gymnasium
import numpy as np
from numpy.typing import NDArray


class ProbeEnv(gymnasium.Env[NDArray[np.float64], NDArray[np.float64]]):
    """Draws a bar as long as the episode is old, and keeps what it was given."""

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 20}  # noqa: RUF012
    made: ClassVar[list[ProbeEnv]] = []

    def __init__(self, render_mode: str | None = None, interrupt_at: int | None = None, **arguments: Any) -> None:
        self.render_mode = render_mode
        self.arguments = arguments
        self.actions: list[NDArray[np.float64]] = []
        self.reset_count = 0
        self.closed = False
        self.observation_space = gymnasium.spaces.Box(0.0, 1.0, (1,), np.float64)
        self.action_space = gymnasium.spaces.Box(np.array([-1.0, 0.5]), np.array([1.0, 2.0]), dtype=np.float64)
        self._interrupt_at = interrupt_at
        self._age = 0
        ProbeEnv.made.append(self)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float64], dict[str, Any]]:
        super().reset(seed=seed)
        self.reset_count += 1
        self._age = 0
        return np.zeros(1), {}

    def step(self, action: NDArray[np.float64]) -> tuple[NDArray[np.float64], float, bool, bool, dict[str, Any]]:
        self.actions.append(np.array(action))
        self._age += 1
        if len(self.actions) == self._interrupt_at:
            raise KeyboardInterrupt
        return np.zeros(1), 0.0, self._age == 15, False, {}

    def render(self) -> NDArray[np.uint8]:
        picture = np.full((48, 64, 3), 40, np.uint8)
        picture[:, : 4 * self._age] = (250, 180, 20)
        return picture

    def close(self) -> None:
        self.closed = True
