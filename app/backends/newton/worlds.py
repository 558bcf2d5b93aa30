"""`Worlds`: which worlds of a Newton model are in the picture, and how they are shown."""

from __future__ import annotations

import math
import operator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import BackendError, ConfigurationError
from ..camera import Vector

DEFAULT_WORLD_COUNT = 16
"""Worlds drawn where the caller names none; more are too small to see and too slow to draw."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChosenWorlds:
    """The worlds of a model that are in the picture."""

    worlds: tuple[int, ...]
    """Ascending; with tiles in the order of those."""
    grid: tuple[int, int] | None
    """Rows and columns of tiles; None: side by side in one scene."""
    origins: NDArray[np.float64]
    """The origin of each world of the model [m], shape `[world_count, 3]`."""


class Worlds:
    """The caller's choice of worlds, before the model is known.

    Attributes:
        tiles: As asked for.
        spacing: Distances of neighbouring worlds along each axis [m]; None: what they need.

    Raises:
        ConfigurationError: a value that can't work with any model.
    """

    def __init__(self, *, visible: Any, spacing: Any, tiles: Any, origins: Any) -> None:
        self._visible = visible if visible is None or _is_all(visible) else _checked_worlds(visible)
        self.spacing = None if spacing is None else _checked_spacing(spacing)
        self.tiles: int | tuple[int, int] | None = None if tiles is None else _checked_tiles(tiles)
        self._origins = None if origins is None else _checked_origins(origins)
        if tiles is None and origins is not None:
            raise ConfigurationError("world_origins: got some without tiles; allowed: only beside tiles")
        if tiles is not None and spacing is not None:
            raise ConfigurationError(f"world_spacing: got {spacing!r} beside tiles; allowed: only without tiles")

    def choose(self, world_count: int) -> ChosenWorlds:
        """Return the worlds to show of a model that has `world_count` of them.

        Raises:
            BackendError: it has no such worlds.
            ConfigurationError: it has too few of them.
        """
        worlds = self._named(world_count)
        if self.tiles is not None:
            return self._tiled(worlds, world_count)
        shown = worlds if self._visible is not None else worlds[:DEFAULT_WORLD_COUNT]
        return ChosenWorlds(worlds=tuple(sorted(shown)), grid=None, origins=self._origins_of(world_count))

    def _named(self, world_count: int) -> tuple[int, ...]:
        if self._visible is None or _is_all(self._visible):
            return tuple(range(world_count))
        outside = sorted(world for world in self._visible if not 0 <= world < world_count)
        if outside:
            raise BackendError(
                f"visible_worlds names {outside}, the model has {world_count} worlds; name worlds from 0 to "
                f"{world_count - 1}"
            )
        return tuple(self._visible)

    def _tiled(self, worlds: tuple[int, ...], world_count: int) -> ChosenWorlds:
        assert self.tiles is not None
        grid = grid_of(self.tiles) if isinstance(self.tiles, int) else self.tiles
        count = self.tiles if isinstance(self.tiles, int) else math.prod(self.tiles)
        if count > len(worlds):
            raise ConfigurationError(f"tiles: got {self.tiles}; allowed: at most as many as worlds, {len(worlds)}")
        if count < len(worlds) and self._visible is not None:
            raise ConfigurationError(
                f"visible_worlds: got {len(worlds)} of them; allowed: as many as tiles={self.tiles} shows, {count}"
            )
        return ChosenWorlds(worlds=worlds[:count], grid=grid, origins=self._origins_of(world_count))

    def _origins_of(self, world_count: int) -> NDArray[np.float64]:
        if self._origins is None:
            return np.zeros((world_count, 3))
        if len(self._origins) != world_count:
            raise ConfigurationError(
                f"world_origins: got {len(self._origins)} of them; allowed: one for each of the {world_count} worlds"
            )
        return self._origins


def grid_of(count: int) -> tuple[int, int]:
    """Return rows and columns that have room for `count` tiles: about as many of the one as of the other."""
    columns = math.ceil(math.sqrt(count))
    return math.ceil(count / columns), columns


def _is_all(visible: Any) -> bool:
    return isinstance(visible, str) and visible == "all"


def _checked_worlds(worlds: Any) -> tuple[int, ...]:
    try:
        numbers = tuple(dict.fromkeys(operator.index(world) for world in worlds))
    except TypeError:
        numbers = ()
    if numbers:
        return numbers
    raise ConfigurationError(f'visible_worlds: got {worlds!r}; allowed: at least one world\'s index, "all", or None')


def _checked_tiles(tiles: Any) -> int | tuple[int, int]:
    if isinstance(tiles, int) and not isinstance(tiles, bool) and tiles > 0:
        return tiles
    try:
        rows, columns = (operator.index(side) for side in tiles)
    except (TypeError, ValueError):
        pass
    else:
        if rows > 0 and columns > 0:
            return rows, columns
    raise ConfigurationError(f"tiles: got {tiles!r}; allowed: a number of tiles, or rows and columns, from 1; or None")


def _checked_origins(origins: Any) -> NDArray[np.float64]:
    try:
        points = np.array(origins, dtype=np.float64)
    except (TypeError, ValueError):
        points = np.zeros(0)
    if points.ndim == 2 and points.shape[1] == 3 and np.isfinite(points).all():
        return points
    raise ConfigurationError(f"world_origins: got {origins!r}; allowed: three finite numbers [m] for each world")


def _checked_spacing(spacing: Any) -> Vector:
    try:
        x, y, z = (float(part) for part in spacing)
    except (TypeError, ValueError):
        pass
    else:
        if all(math.isfinite(part) and part >= 0 for part in (x, y, z)):
            return x, y, z
    raise ConfigurationError(f"world_spacing: got {spacing!r}; allowed: three finite numbers from 0 [m], or None")
