"""Any Gymnasium environment, through its `render()`."""

from __future__ import annotations

from typing import Any

import gymnasium

from ..clip import CaptureRequest, Frame
from ..errors import BackendError, CaptureError, ConfigurationError, RenderModeError
from ..interfaces import Backend, CaptureFormat, Slot
from .pixels import copy_pixels

_BACKENDS = ("auto", "render", "mujoco")
_LEAVE_PICTURES_ALONE = ("OrderEnforcing", "PassiveEnvChecker", "RenderCollection", "HumanRendering", "RecordVideo")
"""Gymnasium's wrappers whose `render()` shows what the environment's does."""


def choose_backend(env: gymnasium.Env[Any, Any], *, backend: str = "auto", camera: Any = None) -> Backend:
    """Return the backend that records an environment.

    Args:
        env: To be recorded, in whatever wrappers.
        backend: "mujoco" takes snapshots of a MuJoCo simulation, whatever `render_mode` it has; "render" calls
            `env.render()`; "auto" takes snapshots where they show the same as `env.render()`: of a MuJoCo environment
            on which neither itself nor a wrapper draws anything of its own. Without a `render_mode` that gives
            pictures, or with a `camera`, it takes snapshots of every MuJoCo environment.
        camera: Where snapshots are taken from, see `stepreel.backends.mujoco.MujocoBackend`; None: as `env.render()`.

    Raises:
        BackendError: the environment can't be recorded; a `RenderModeError` where that is because of its render mode.
        ConfigurationError: another `backend`; a `camera` where pictures come from `env.render()`, or that can't be.
    """
    if backend not in _BACKENDS:
        raise ConfigurationError(f"backend: got {backend!r}; allowed: one of {', '.join(_BACKENDS)}")
    from .mujoco import MujocoBackend, is_mujoco

    if backend == "mujoco" or (
        backend == "auto" and is_mujoco(env) and (camera is not None or _is_shown_by_snapshots(env))
    ):
        return MujocoBackend(env, camera=camera)
    if camera is not None:
        raise ConfigurationError(
            f"camera: got {camera!r}; allowed: None, since the pictures come from env.render() of {_env_id(env)}"
        )
    return GymnasiumBackend(env)


def _is_shown_by_snapshots(env: gymnasium.Env[Any, Any]) -> bool:
    return not _makes_pictures(env) or not _draws_its_own(env)


def _draws_its_own(env: gymnasium.Env[Any, Any]) -> bool:
    """Return whether `render()` may show more than the MuJoCo scene: goals, texts, another picture altogether."""
    from gymnasium.envs.mujoco import MujocoEnv

    layer = env
    while isinstance(layer, gymnasium.Wrapper):
        is_known = type(layer).__module__.startswith("gymnasium.") and type(layer).__name__ in _LEAVE_PICTURES_ALONE
        if type(layer).render is not gymnasium.Wrapper.render and not is_known:
            return True
        layer = layer.env
    return not isinstance(layer, MujocoEnv) or type(layer).render is not MujocoEnv.render


class GymnasiumBackend:
    """Captures what `env.render()` returns, on the training thread: an environment can be drawn on no other.

    The size is known from the first picture on, the steps a second from `env.metadata["render_fps"]`.
    """

    name = "gymnasium"

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        """Take an environment to record; it is neither reset nor closed.

        Args:
            env: Made with `render_mode="rgb_array"`. Of a list of pictures (`gymnasium.wrappers.RenderCollection`)
                the newest is taken.

        Raises:
            RenderModeError: `env` makes no pictures.
            BackendError: it is a vector of environments.
        """
        _check(env)
        self._env = env
        self._size: tuple[int | None, int | None] = (None, None)

    def open(self, *, width: int | None, height: int | None, worker_device: str) -> CaptureFormat:
        """See `stepreel.interfaces.Backend.open`.

        The size of its pictures is the environment's own affair: where one is given, other pictures are refused.
        """
        _check(self._env)
        self._size = (width, height)
        return CaptureFormat(
            width=width,
            height=height,
            nbytes=width * height * 3 if width and height else None,
            steps_per_second=_steps_per_second(self._env),
            details={"env_id": _env_id(self._env), "render_mode": self._env.render_mode},
        )

    def capture(self, request: CaptureRequest, slot: Slot) -> Frame:
        """See `stepreel.interfaces.Backend.capture`."""
        frame = copy_pixels(self._picture(), slot)
        width, height = self._size
        if frame.width != (width or frame.width) or frame.height != (height or frame.height):
            raise CaptureError(
                f"the environment draws {frame.width}x{frame.height} pixels where width={width}, height={height} was"
                " asked for; make the environment with that size, or leave width and height out"
            )
        return frame

    def close(self) -> None:
        """See `stepreel.interfaces.Backend.close`."""

    def _picture(self) -> object:
        try:
            rendered: object = self._env.render()
        except Exception as exc:
            raise CaptureError(f"env.render() of {_env_id(self._env)} failed: {type(exc).__name__}: {exc}") from exc
        if not isinstance(rendered, list) or not str(self._env.render_mode).endswith("_list"):
            return rendered
        if not rendered:
            raise CaptureError("env.render() returned an empty list: nothing was drawn since it was last asked")
        return rendered[-1]


def _check(env: object) -> None:
    if isinstance(env, gymnasium.vector.VectorEnv):
        raise BackendError(
            f"{type(env).__name__} holds {env.num_envs} environments and this backend records one: give it one of them"
        )
    if not _makes_pictures(env):
        mode = getattr(env, "render_mode", None)
        raise RenderModeError(
            f"Render mode is {mode}, which is incompatible with recording. Initialize your environment with a"
            f" render_mode that returns an image, such as rgb_array; {_env_id(env)} has {_render_modes(env)}."
        )


def _makes_pictures(env: object) -> bool:
    mode = getattr(env, "render_mode", None)
    return isinstance(mode, str) and mode.startswith("rgb_array")


def _render_modes(env: object) -> str:
    modes = (getattr(env, "metadata", None) or {}).get("render_modes") or ["none at all"]
    return ", ".join(map(str, modes))


def _env_id(env: object) -> str:
    spec = getattr(env, "spec", None)
    return spec.id if spec is not None else type(getattr(env, "unwrapped", env)).__name__


def _steps_per_second(env: gymnasium.Env[Any, Any]) -> float | None:
    fps = (env.metadata or {}).get("render_fps")
    return float(fps) if isinstance(fps, int | float) and fps > 0 else None
