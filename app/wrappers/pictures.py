"""The backends of the wrappers: they draw on the training thread, and only the pictures that are captured."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np

from ..backends.gymnasium import GymnasiumBackend, choose_backend
from ..clip import CaptureRequest, Frame
from ..errors import BackendError, CaptureError, ConfigurationError, RenderModeError
from ..interfaces import Backend, CaptureFormat, Slot


class PictureBackend:
    """Captures the pictures that a function draws into a slot.

    Their size is known from the first one on. Where the recorder asks for a size, other pictures are refused.
    """

    name = "gymnasium"

    def __init__(self, draw: Callable[[Slot], Frame], *, steps_per_second: float, details: Mapping[str, Any]) -> None:
        self._draw = draw
        self._steps_per_second = steps_per_second
        self._details = details
        self._size: tuple[int | None, int | None] = (None, None)

    def open(self, *, width: int | None, height: int | None, worker_device: str) -> CaptureFormat:
        """See `stepreel.interfaces.Backend.open`."""
        self._size = (width, height)
        return CaptureFormat(
            width=width,
            height=height,
            nbytes=width * height * 3 if width and height else None,
            steps_per_second=self._steps_per_second,
            details=self._details,
        )

    def capture(self, request: CaptureRequest, slot: Slot) -> Frame:
        """See `stepreel.interfaces.Backend.capture`."""
        frame = self._draw(slot)
        width, height = self._size
        if frame.width != (width or frame.width) or frame.height != (height or frame.height):
            raise CaptureError(
                f"the environment draws {frame.width}x{frame.height} pixels where width={width}, height={height} was"
                " asked for; make the environment with that size, or leave width and height out"
            )
        return frame

    def close(self) -> None:
        """See `stepreel.interfaces.Backend.close`."""


def check_render_mode(render_mode: object) -> None:
    """Raise Gymnasium's own error where an environment makes no pictures."""
    if render_mode in (None, "human", "ansi"):
        raise RenderModeError(
            f"Render mode is {render_mode}, which is incompatible with RecordVideo. "
            "Initialize your environment with a render_mode that returns an image, such as rgb_array."
        )


def choose_snapshots(env: gymnasium.Env[Any, Any], backend: str) -> Backend | None:
    """Return what records an environment by snapshots; None: `env.render()` does.

    Raises:
        BackendError: the environment is not of the kind that `backend` asks for.
        ConfigurationError: there is no such backend.
    """
    try:
        chosen = choose_backend(env, backend=backend)
    except BackendError:
        if backend not in ("auto", "render"):
            raise
        return None  # Its render mode is no picture's, or one that only the wrappers take.
    return None if isinstance(chosen, GymnasiumBackend) else chosen


def choose_snapshots_of(envs: Sequence[Any], indices: Iterable[int], backend: str) -> dict[int, Backend]:
    """Return what records some of several environments by snapshots, if it can; raises as `choose_snapshots` does."""
    chosen = {index: choose_snapshots(envs[index], backend) for index in indices}
    return {index: found for index, found in chosen.items() if found is not None}


def refuse_snapshots(backend: str, why: str) -> None:
    """Raise `ConfigurationError` where snapshots were asked for and can't be had, or something that does not exist."""
    if backend not in ("auto", "render"):
        raise ConfigurationError(f"backend: got {backend!r}; allowed: 'auto' or 'render', since {why}")


def checked_indices(indices: Sequence[Any] | None, count: int) -> tuple[int, ...] | None:
    """Return the numbers of some of `count` environments, None as None. Raises `ConfigurationError`."""
    if indices is None:
        return None
    found = tuple(indices)
    allowed = all(isinstance(index, int | np.integer) and 0 <= index < count for index in found)
    if not (found and allowed) or len(set(found)) != len(found):
        raise ConfigurationError(
            f"env_indices: got {indices!r}; allowed: different whole numbers from 0 to {count - 1}"
        )
    return tuple(int(index) for index in found)


def describe(env: Any) -> dict[str, Any]:
    """Return what `session.json` says of an environment."""
    spec = getattr(env, "spec", None)
    env_id = spec.id if spec is not None else type(env.unwrapped).__name__
    return {"env_id": env_id, "render_mode": env.render_mode}
