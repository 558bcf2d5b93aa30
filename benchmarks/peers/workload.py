"""The environment that is recorded: a step and a picture that cost a fixed amount of work."""

from __future__ import annotations

import math
import time
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from .plan import Plan

_BITS = 32
_STRIP_ROWS = 16
"""Rows along the top edge whose black and white blocks tell the step."""
_PIXELS_PER_STEP = 3

Picture = NDArray[np.uint8]


class Work:
    """Arithmetic that takes the same amount of processor time at every run, like a simulator's.

    A loop until some time is over would hide that something else had the processor meanwhile. Like a simulator's
    bindings it gives the GIL up for the arithmetic and takes it again, here hundreds of times a step.
    """

    def __init__(self, units: int) -> None:
        self._units = units
        self._values = np.linspace(0.0, 1.0, 2048)
        self._results = np.empty_like(self._values)

    def run(self) -> None:
        values, results = self._values, self._results
        for _ in range(self._units):
            np.sin(values, out=results)
            np.multiply(results, 0.5, out=results)


def units_of(duration_s: float) -> int:
    """Return the units of work that take `duration_s` here while nothing else runs."""
    work = Work(100)
    shortest_s = math.inf
    for _ in range(50):
        start = time.perf_counter()
        work.run()
        shortest_s = min(shortest_s, time.perf_counter() - start)
    return max(1, round(100 * duration_s / shortest_s))


class Scene:
    """A moving picture, prepared so that drawing it is little more than copying it; it tells its step."""

    def __init__(self, width: int, height: int) -> None:
        self.width = width
        self.height = height
        self._scenery = _scenery(width, height)
        self._ball = _ball(height // 4)

    def draw(self, step: int, picture: Picture) -> None:
        """Draw `step` into `picture`, shape `[height, width, 3]`, uint8."""
        offset = step * _PIXELS_PER_STEP % self.width
        np.copyto(picture, self._scenery[:, offset : offset + self.width])
        side = self._ball.shape[0]
        top = _STRIP_ROWS + round((0.5 + 0.5 * math.sin(step / 20)) * (self.height - side - _STRIP_ROWS))
        left = round((0.5 + 0.5 * math.sin(step / 33)) * (self.width - side))
        place = picture[top : top + side, left : left + side]
        np.maximum(place, self._ball, out=place)
        blocks = np.repeat((step >> np.arange(_BITS) & 1).astype(np.uint8) * np.uint8(255), self.width // _BITS)
        picture[:_STRIP_ROWS] = 0
        picture[:_STRIP_ROWS, : blocks.size] = blocks[:, None]


def read_step(luma: NDArray[np.uint8]) -> int:
    """Return the step that a decoded picture shows; `luma` has the shape `[height, width]`."""
    block = luma.shape[1] // _BITS
    strip = luma[_STRIP_ROWS // 4 : _STRIP_ROWS * 3 // 4, : block * _BITS].reshape(-1, _BITS, block)
    bits = strip[:, :, block // 4 : block - block // 4].mean(axis=(0, 2)) > 127
    return int((bits.astype(np.int64) << np.arange(_BITS)).sum())


class PictureEnv(gymnasium.Env[NDArray[np.float32], Any]):
    """A simulator: every step takes the same work, every picture takes the same work and new memory.

    Attributes:
        shown_step: The step that a picture drawn now shows; -1 before the first.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 30}  # noqa: RUF012 - as Gymnasium has it.
    render_mode = "rgb_array"
    observation_space = gymnasium.spaces.Box(-1.0, 1.0, (4,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def __init__(self, plan: Plan) -> None:
        self.shown_step = -1
        self._scene = Scene(plan.width, plan.height)
        self._step_work = Work(plan.step_units)
        self._draw_work = Work(plan.draw_units)
        self._observation = np.zeros(4, np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        return self._observation, {}

    def step(self, action: Any) -> Any:
        self._step_work.run()
        self.shown_step += 1
        return self._observation, 0.0, False, False, {}

    def render(self) -> Any:
        self._draw_work.run()
        picture = np.empty((self._scene.height, self._scene.width, 3), np.uint8)
        self._scene.draw(self.shown_step, picture)
        return picture


def _scenery(width: int, height: int) -> Picture:
    """Return soft colours under a coarse texture, twice side by side: shape `[height, 2 * width, 3]`."""
    phase = np.arange(width, dtype=np.float32)[:, None] / width + np.arange(3, dtype=np.float32) / 3
    colors = (0.5 + 0.5 * np.cos(math.tau * phase)) * np.linspace(200, 60, height, dtype=np.float32)[:, None, None]
    grains = np.random.default_rng(0).integers(0, 40, (-(-height // 4), -(-width // 4), 1), np.uint8)
    texture = np.kron(grains, np.ones((4, 4, 1), np.uint8))[:height, :width]
    scenery = (colors + texture).astype(np.uint8)
    return np.concatenate([scenery, scenery], axis=1)


def _ball(side: int) -> Picture:
    """Return a shaded ball on black, shape `[side, side, 3]`."""
    across = np.linspace(-1.0, 1.0, side)
    height = np.clip(1.0 - across[:, None] ** 2 - across**2, 0.0, None) ** 0.5
    return np.asarray(height[..., None] * np.array((255, 200, 90)), dtype=np.uint8)
