"""Sources of frames that are wrong in one way or another."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from stepreel.backends.synthetic import SyntheticBackend, SyntheticRenderer
from stepreel.clip import CaptureRequest, Snapshot
from stepreel.interfaces import CaptureFormat, Slot

Picture = NDArray[np.uint8]


def picture_of(step: int, width: int = 64, height: int = 48) -> Picture:
    renderer = SyntheticRenderer(width=width, height=height)
    renderer.open()
    target = np.empty((height, width, 3), np.uint8)
    renderer.draw(step, target)
    return target


def _read_only(picture: Picture) -> Picture:
    picture.flags.writeable = False
    return picture


def _channels_first(picture: Picture) -> Picture:
    # Strides turned over: the picture is the same, its memory is not contiguous.
    return np.moveaxis(np.ascontiguousarray(np.moveaxis(picture, 2, 0)), 0, 2)


def _mirrored(picture: Picture) -> Picture:
    return np.ascontiguousarray(picture[::-1, ::-1])[::-1, ::-1]


def _with_alpha(picture: Picture) -> Picture:
    return np.concatenate([picture, picture[..., :1]], axis=2)


GOOD: dict[str, Callable[[int], object]] = {
    "plain": picture_of,
    "larger": lambda step: picture_of(step, 128, 96),
    "odd sides": lambda step: picture_of(step, 65, 49),
    "read-only": lambda step: _read_only(picture_of(step)),
    "channels first in memory": lambda step: _channels_first(picture_of(step)),
    "negative strides": lambda step: _mirrored(picture_of(step)),
    "every second pixel of a larger one": lambda step: np.repeat(np.repeat(picture_of(step), 2, 0), 2, 1)[::2, ::2],
    "with alpha": lambda step: _with_alpha(picture_of(step)),
}
BAD: dict[str, Callable[[int], object]] = {
    "floats": lambda step: picture_of(step) / 255.0,
    "signed": lambda step: picture_of(step).astype(np.int64),
    "channels first": lambda step: np.moveaxis(picture_of(step), 2, 0),
    "five channels": lambda step: np.zeros((48, 64, 5), np.uint8),
    "one axis": lambda step: picture_of(step).ravel(),
    "four axes": lambda step: picture_of(step)[None],
    "zero size": lambda step: np.zeros((0, 64, 3), np.uint8),
    "no picture": lambda step: None,
    "a list": lambda step: picture_of(step).tolist(),
    "objects": lambda step: np.empty((48, 64, 3), object),
}


class OddFrames(gymnasium.Env[Any, Any]):
    """Draws each step in a way chosen by the seed, and overwrites it once it was looked at."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 30}  # noqa: RUF012 - as Gymnasium declares it.
    render_mode = "rgb_array"

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self.now = 0
        self.good: list[int] = []
        self.bad: dict[int, str] = {}
        self._drawn: object = None

    def render(self) -> Any:
        kind = self._random.choice([*GOOD, *GOOD, *BAD])
        if kind in GOOD:
            self.good.append(self.now)
            self._drawn = GOOD[kind](self.now)
        else:
            self.bad[self.now] = kind
            self._drawn = BAD[kind](self.now)
        return self._drawn

    def overwrite(self) -> None:
        """Do with the buffer what an environment does that draws into the same one again."""
        if isinstance(self._drawn, np.ndarray) and self._drawn.flags.writeable and self._drawn.dtype == np.uint8:
            self._drawn[...] = 77


class BrokenRenderer(SyntheticRenderer):
    """Does not open, or returns something that is no picture."""

    fault = ""
    has_hung = Path()
    """A file that tells the next worker that one has hung already."""
    _is_lost = False

    def open(self) -> None:
        super().open()
        if self.fault == "does_not_open":
            raise RuntimeError("no GL context can be made")
        if self.fault == "hangs_once" and not self.has_hung.exists():
            self.has_hung.touch()
            time.sleep(3600.0)

    def render(self, snapshot: NDArray[np.uint8]) -> NDArray[np.uint8]:
        picture = super().render(snapshot)
        step = int.from_bytes(snapshot.tobytes()[:4], "little")
        if self.fault == "context_lost":
            self._is_lost |= step % 20 == 5 and step < 40
            if self._is_lost:
                raise RuntimeError("the GL context is lost")
            return picture
        if step % 20 >= 5:
            return picture
        wrong: dict[str, Callable[[], Any]] = {
            "nothing": lambda: None,
            "floats": lambda: picture / 255.0,
            "no_width": lambda: picture[:, :0],
            "exits": lambda: exit(3),
        }
        return wrong[self.fault]() if self.fault in wrong else picture


class BrokenBackend(SyntheticBackend):
    """Brings a broken renderer to the worker."""

    def __init__(self, fault: str, has_hung: Path) -> None:
        super().__init__(width=64, height=48, snapshot=True)
        self._fault = fault
        self._has_hung = has_hung

    def open(self, *, width: int | None, height: int | None, worker_device: str) -> CaptureFormat:
        opened = super().open(width=width, height=height, worker_device=worker_device)
        renderer = BrokenRenderer(width=64, height=48)
        renderer.fault = self._fault
        renderer.has_hung = self._has_hung
        assert opened.nbytes is not None
        return CaptureFormat(
            width=64,
            height=48,
            nbytes=opened.nbytes,
            steps_per_second=30.0,
            renderer=renderer,
        )

    def capture(self, request: CaptureRequest, slot: Slot) -> Any:
        captured = super().capture(request, slot)
        assert isinstance(captured, Snapshot)
        return captured
