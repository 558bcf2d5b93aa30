"""Environments whose pictures carry a number, and what is found of it in the files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import av
import gymnasium
import numpy as np
from numpy.typing import NDArray

_CELLS = 4
_CELL = 8
SIDE = _CELLS * _CELL
"""Side of a picture [pixels]."""


def picture_of(number: int) -> NDArray[np.uint8]:
    """Return a picture, shape [SIDE, SIDE, 3], that shows the 16 bits of a number as black and white squares."""
    bits = np.array([number >> bit & 1 for bit in range(_CELLS * _CELLS)], dtype=np.uint8).reshape(_CELLS, _CELLS)
    return np.repeat(np.kron(bits * 255, np.ones((_CELL, _CELL), dtype=np.uint8))[..., None], 3, axis=2)


def number_in(picture: NDArray[Any]) -> int:
    """Return the number that a decoded picture shows."""
    centres = picture[_CELL // 2 :: _CELL, _CELL // 2 :: _CELL, 1]
    return sum(1 << bit for bit, value in enumerate(centres.ravel()) if value > 127)


def numbers_in(path: Path, tile: tuple[int, int] = (0, 0)) -> list[int]:
    """Return the number in each picture of a file; of pictures side by side, in the one at row and column."""
    row, column = (SIDE * place for place in tile)
    with av.open(str(path)) as container:
        pictures = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    return [number_in(picture[row : row + SIDE, column : column + SIDE]) for picture in pictures]


class Film(gymnasium.Env[Any, Any]):
    """Its picture shows how often it was reset or stepped before, plus `first`; episodes end where they are told.

    Args:
        lengths: Steps of each episode; over and over again.
        first: Number of the first picture.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 32}  # noqa: RUF012 - as Gymnasium has it.
    observation_space = gymnasium.spaces.Discrete(2**16)
    action_space = gymnasium.spaces.Discrete(2)

    def __init__(self, lengths: Sequence[int] = (5,), first: int = 0, render_mode: str | None = "rgb_array") -> None:
        self.lengths = lengths
        self.render_mode = render_mode
        self.number = first - 1
        self.episode = -1
        self.step_count = 0
        self.is_closed = False

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[int, dict[str, Any]]:
        super().reset(seed=seed)
        self.episode += 1
        self.step_count = 0
        self.number += 1
        return self.number, {}

    def step(self, action: int) -> tuple[int, float, bool, bool, dict[str, Any]]:
        self.number += 1
        self.step_count += 1
        is_over = self.step_count >= self.lengths[self.episode % len(self.lengths)]
        return self.number, 0.0, is_over and self.episode % 2 == 0, is_over and self.episode % 2 == 1, {}

    def render(self) -> Any:
        assert not self.is_closed
        return picture_of(self.number)

    def close(self) -> None:
        self.is_closed = True
