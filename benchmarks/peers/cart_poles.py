"""A Newton simulation on the CPU: the cart-poles of `stepreel demo`, pushed to and fro."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import warp as wp

from stepreel.demo.task import CartPoleTask

_WORLD_COUNT = 16


class CartPoles:
    """As many worlds as a picture shows by default, so that drawing is the work of a usual clip."""

    def __init__(self) -> None:
        wp.config.quiet = True
        self._task = CartPoleTask(_WORLD_COUNT, device="cpu")
        self._step_count = 0

    @property
    def model(self) -> Any:
        return self._task.model

    @property
    def state(self) -> Any:
        return self._task.state

    def step(self) -> None:
        self._step_count += 1
        self._task.step(np.full(_WORLD_COUNT, math.sin(self._step_count / 10), np.float32))
