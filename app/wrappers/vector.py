"""`RecordVideo` for vector environments: sub-environments side by side, or some of them in files of their own."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import gymnasium
import numpy as np
from gymnasium import logger
from gymnasium.core import ActType, ObsType, RenderFrame
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv, VectorWrapper

from ..backends.pixels import copy_pixels, tile_pixels
from ..clip import Frame
from ..config import RecorderConfig
from ..errors import CaptureError, ConfigurationError
from ..interfaces import Backend, ClipHook, SegmentHook, Slot
from .base import VideoArguments, WrapperBase, refuse_keep
from .pictures import (
    PictureBackend,
    check_render_mode,
    checked_indices,
    choose_snapshots_of,
    describe,
    refuse_snapshots,
)

__all__ = ["LastPicture", "RecordVideo"]

_LAST_PICTURE = "last_picture"


if TYPE_CHECKING:
    _VectorWrapper = VectorWrapper[Any, Any, Any, Any, Any]
else:
    _VectorWrapper = VectorWrapper  # Not generic before Gymnasium 1.3.


class RecordVideo(WrapperBase, _VectorWrapper, gymnasium.utils.RecordConstructorArgs):
    """Records videos of a vector environment: `gymnasium.wrappers.vector.RecordVideo` without its waits.

    ```python
    envs = gymnasium.make_vec("CartPole-v1", num_envs=8, render_mode="rgb_array")
    envs = RecordVideo(envs, "videos", env_indices=[0, 5])
    ```

    Which frames are in which file is decided as by Gymnasium, by the episodes of one sub-environment: the first of
    those recorded. Under same-step autoreset the last picture of an episode is recorded too, where it can be had:
    in a `SyncVectorEnv`, and wherever the sub-environments are wrapped in `LastPicture`.

    Args:
        env: The vector environment, made with a `render_mode` that gives pictures.
        video_folder: Folder of the clips; made if it is not there.
        video_aspect_ratio: Width and height that pictures side by side should have, as near as they can.
        record_first_only: Show the first sub-environment only.
        episode_trigger: Called with each episode's number at its reset; True begins a clip. Without any trigger
            those of `gymnasium.utils.save_video.capped_cubic_video_schedule` do: 0, 1, 8, 27, ..., 1000, 2000, ...
        step_trigger: Called with each step's number; True begins a clip.
        video_length: Steps of a clip, which goes on over resets; 0: until the episode ends.
        name_prefix: Clips are called `<prefix>-episode-<N>` and `<prefix>-step-<N>`.
        fps: Frames a second of video; None: `render_fps` of the environment's metadata, else 30.
        disable_logger: Taken for the sake of Gymnasium's signature: there is no progress bar, since nothing waits.
        gc_trigger: Called with the episode's number when a clip has ended; True collects garbage, on the training
            thread. None, unlike Gymnasium's default, never does: no frames are kept.
        env_indices: Record these sub-environments, each in clips of its own, `<prefix>-env-<i>-episode-<N>`, instead
            of all of them side by side.
        backend: "auto": sub-environments with files of their own are recorded by snapshots, where they are MuJoCo
            simulations in a `SyncVectorEnv` that is not reset within a step; all others by `env.render()`, as by
            "render". "mujoco": by snapshots, or not at all.
        config: All other settings. What the arguments above decide must be left at its default there, or be the same.
        on_clip_closed: Called with each clip whose files are on disk, on the thread that listens to the service.
        on_segment_closed: Called likewise with a clip and each file of it that is whole.

    Raises:
        RenderModeError: a `ValueError`: the render mode gives no pictures.
        ConfigurationError: an argument can't work.
        TypeError: `env` is no `gymnasium.vector.VectorEnv`.
    """

    def __init__(
        self,
        env: VectorEnv[Any, Any, Any],
        video_folder: str | os.PathLike[str],
        video_aspect_ratio: tuple[int, int] = (1, 1),
        record_first_only: bool = False,
        episode_trigger: Callable[[int], bool] | None = None,
        step_trigger: Callable[[int], bool] | None = None,
        video_length: int = 0,
        name_prefix: str = "rl-video",
        fps: float | None = None,
        disable_logger: bool = True,
        gc_trigger: Callable[[int], bool] | None = None,
        *,
        env_indices: Sequence[int] | None = None,
        backend: Literal["auto", "mujoco", "render"] = "auto",
        config: RecorderConfig | None = None,
        on_clip_closed: ClipHook | None = None,
        on_segment_closed: SegmentHook | None = None,
    ) -> None:
        arguments = VideoArguments(
            video_folder=os.fspath(video_folder),
            episode_trigger=episode_trigger,
            step_trigger=step_trigger,
            video_length=video_length,
            name_prefix=name_prefix,
            fps=fps,
            disable_logger=disable_logger,
            gc_trigger=gc_trigger,
            config=config,
            on_clip_closed=on_clip_closed,
            on_segment_closed=on_segment_closed,
        )
        gymnasium.utils.RecordConstructorArgs.__init__(
            self,
            **arguments.given(),
            video_aspect_ratio=video_aspect_ratio,
            record_first_only=record_first_only,
            env_indices=env_indices,
            backend=backend,
        )
        VectorWrapper.__init__(self, env)
        _check_ratio(video_aspect_ratio)
        self.video_aspect_ratio = video_aspect_ratio
        self.record_first_only = record_first_only
        self.env_indices = checked_indices(env_indices, env.num_envs)
        if self.env_indices and record_first_only:
            raise ConfigurationError("env_indices: got it and record_first_only; allowed: one of them")
        self.autoreset_mode = _autoreset_mode(env)
        self.has_autoreset = False
        shown = self.env_indices or ((0,) if record_first_only else tuple(range(env.num_envs)))
        self._leader = shown[0]
        self._snapshots = _snapshots(env, self.env_indices or (), backend, self.autoreset_mode)
        if len(self._snapshots) < len(shown):
            check_render_mode(env.render_mode)
        refuse_keep(config)
        WrapperBase.__init__(self, arguments)
        self.render_history: list[RenderFrame] = []
        """Empty, as Gymnasium's always is."""
        self._pictures = _Pictures(env, shown, keeps_last=self.autoreset_mode is AutoresetMode.SAME_STEP)
        self._grid = _Grid(self._pictures, video_aspect_ratio)

    @property
    def frame_cols(self) -> int:
        """Pictures in a row; -1 before the first frame."""
        return self._grid.columns

    @property
    def frame_rows(self) -> int:
        """Rows of pictures; -1 before the first frame."""
        return self._grid.rows

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Reset the environment, and begin a clip where a trigger says so; its first frame is the reset's."""
        self._open_recorder()
        if options is None or "reset_mask" not in options or options["reset_mask"][self._leader]:
            self._begin_episode()
        result = self.env.reset(seed=seed, options=options)
        self._pictures.forget()
        self._pass_step()
        self.has_autoreset = False
        return result

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Step through the environments, and record them while a clip is open."""
        self._pictures.is_wanted = self.recording
        result = self.env.step(actions)
        self._pictures.forget()
        self._pictures.keep_last(result[4])
        self.step_id += 1
        is_over = bool(result[2][self._leader] or result[3][self._leader])
        if self.autoreset_mode is AutoresetMode.NEXT_STEP:
            if self.has_autoreset:
                self._begin_episode()
            self.has_autoreset = is_over
        elif self.autoreset_mode is AutoresetMode.SAME_STEP and is_over:
            self._begin_episode()
        self._begin_at_step()
        self._pass_step()
        return result

    def stop_recording(self) -> None:
        """End the clip, with the episode's last picture where the autoreset of this step has taken it away."""
        if self.recording and self._leader in self._pictures.last:
            self._open_recorder().step()
            self._frame_count += 1
            self._pictures.last.clear()
        super().stop_recording()

    def render(self) -> tuple[RenderFrame, ...] | None:
        """Return what the environment renders."""
        return self.env.render()

    def close(self, **kwargs: Any) -> None:
        """Finish the clips, so that their files are there, and close the environments."""
        try:
            self._close_recorder()
        finally:
            self._pictures.let_go()
            self.env.close(**kwargs)

    def _streams(self) -> Backend | Mapping[str, Backend]:
        if not self.env_indices:
            return self._backend_of(self._grid.draw)
        return {
            f"env-{index}": self._snapshots.get(index) or self._backend_of(partial(self._pictures.draw, index))
            for index in self.env_indices
        }

    def _backend_of(self, draw: Callable[[Slot], Frame]) -> Backend:
        return PictureBackend(draw, steps_per_second=self.frames_per_sec, details=describe(self.env))

    def _pass_step(self) -> None:
        """Have this step captured if a clip is open; outside of clips the recorder counts it."""
        if self._recorder is None:
            return
        self._recorder.step()
        self._pictures.last.clear()  # They were shown, if anybody wanted them.
        if self.recording:
            self._count_frame()


class LastPicture(gymnasium.Wrapper[ObsType, ActType, ObsType, ActType], gymnasium.utils.RecordConstructorArgs):
    """Puts the last picture of each episode into its `info`, so that same-step autoreset does not lose it.

    For the sub-environments of an `AsyncVectorEnv`, which reset themselves in processes of their own:
    `AsyncVectorEnv([lambda: LastPicture(make()), ...], autoreset_mode=AutoresetMode.SAME_STEP)`. It renders at the
    end of every episode, whether or not a clip is open.
    """

    last_picture = True
    """For `has_wrapper_attr`: `info` has it when an episode is over."""

    def __init__(self, env: gymnasium.Env[ObsType, ActType]) -> None:
        gymnasium.utils.RecordConstructorArgs.__init__(self)
        gymnasium.Wrapper.__init__(self, env)

    def step(self, action: ActType) -> tuple[ObsType, Any, bool, bool, dict[str, Any]]:
        """Step through the environment."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        if terminated or truncated:
            info = {**info, _LAST_PICTURE: self.env.render()}
        return observation, reward, terminated, truncated, info


class _Pictures:
    """The pictures of the present step, by sub-environment; asked for when the first of them is wanted.

    Attributes:
        shown: The sub-environments that are recorded.
        last: Pictures shown instead of what is rendered now: the last ones of episodes that ended in this step.
        is_wanted: Whether last pictures are looked at while the environment steps.
    """

    def __init__(self, env: VectorEnv[Any, Any, Any], shown: tuple[int, ...], *, keeps_last: bool) -> None:
        self.shown = shown
        self.last: dict[int, object] = {}
        self.is_wanted = False
        self._env = env
        self._keeps_last = keeps_last
        self._rendered: dict[int, object] = {}
        base = env.unwrapped
        self._sub_envs = base.envs if isinstance(base, SyncVectorEnv) else None
        self._is_plain = isinstance(base, SyncVectorEnv) and _renders_plainly(env)
        self._looks: dict[int, _LastLook] = {}
        if keeps_last and self._sub_envs is not None:
            for index in shown:
                self._looks[index] = self._sub_envs[index] = _LastLook(self._sub_envs[index], self)
        elif keeps_last and not _gives_last_pictures(base):
            logger.warn(
                "Vector environment's autoreset mode is same-step (https://farama.org/Vector-Autoreset-Mode), and its"
                " sub-environments can't be reached. Recorded episodes will not contain the last frame of the episode,"
                " unless the sub-environments are wrapped in stepreel.wrappers.vector.LastPicture."
            )

    def forget(self) -> None:
        """Begin a step: nothing is rendered yet."""
        self._rendered.clear()
        self.last.clear()

    def keep_last(self, infos: dict[str, Any]) -> None:
        """Take over the last pictures of the episodes that ended in this step, where they can be had."""
        was_wanted, self.is_wanted = self.is_wanted, False
        if not (self._keeps_last and was_wanted):
            return
        for index, look in self._looks.items():
            if look.picture is not None:
                self.last[index], look.picture = look.picture, None
        final = infos.get("final_info")
        if isinstance(final, dict) and _LAST_PICTURE in final:
            given = final.get(f"_{_LAST_PICTURE}")
            for index in self.shown:
                if given is None or given[index]:
                    self.last.setdefault(index, final[_LAST_PICTURE][index])

    def of(self, index: int) -> object:
        """Return the picture to show of a sub-environment; of a list, the newest."""
        picture = self.last[index] if index in self.last else self._render(index)
        if isinstance(picture, list):
            if not picture:
                raise CaptureError(f"sub-environment {index} rendered an empty list")
            return picture[-1]
        return picture

    def draw(self, index: int, slot: Slot) -> Frame:
        """Copy the picture of a sub-environment into a slot."""
        return copy_pixels(self.of(index), slot)

    def let_go(self) -> None:
        """Give the vector environment its own sub-environments back."""
        for index, look in self._looks.items():
            if self._sub_envs and self._sub_envs[index] is look:
                self._sub_envs[index] = look.env
        self._looks.clear()

    def _render(self, index: int) -> object:
        if index not in self._rendered:
            try:
                if self._is_plain and self._sub_envs:
                    self._rendered[index] = self._sub_envs[index].render()
                else:
                    self._render_all()
            except Exception as exc:
                raise CaptureError(f"env.render() failed: {type(exc).__name__}: {exc}") from exc
        return self._rendered[index]

    def _render_all(self) -> None:
        pictures: object = self._env.render()
        if not isinstance(pictures, Sequence | np.ndarray) or len(pictures) != self._env.num_envs:
            raise CaptureError(
                f"expected {self._env.num_envs} pictures, one for each environment; got {pictures!r:.80}"
            )
        self._rendered.update(enumerate(pictures))


class _LastLook(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Looks at a sub-environment once more before a reset inside of a step takes its last picture away."""

    def __init__(self, env: gymnasium.Env[Any, Any], pictures: _Pictures) -> None:
        super().__init__(env)
        self._cached_spec = env.spec  # The environment's own: this wrapper is nothing that `make` could repeat.
        self.picture: object = None
        self._pictures = pictures

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Reset the environment, after a last look where a clip is open."""
        self.picture = None
        if self._pictures.is_wanted:
            try:
                self.picture = self.env.render()
            except Exception as exc:  # noqa: BLE001 - costs a frame, which is dropped and logged with this for a picture.
                self.picture = exc
        return self.env.reset(seed=seed, options=options)


class _Grid:
    """Pictures side by side, in as many rows and columns as come nearest to an aspect ratio.

    Attributes:
        rows: Rows of pictures; -1 before the first frame.
        columns: Pictures in a row; -1 before the first frame.
    """

    def __init__(self, pictures: _Pictures, aspect_ratio: tuple[float, float]) -> None:
        self.rows = self.columns = -1
        self._pictures = pictures
        self._ratio = aspect_ratio[0] / aspect_ratio[1]

    def draw(self, slot: Slot) -> Frame:
        """Copy the pictures into a slot."""
        pictures = [self._pictures.of(index) for index in self._pictures.shown]
        if self.columns == -1 and isinstance(pictures[0], np.ndarray):
            self._arrange(len(pictures), *pictures[0].shape[:2])
        return tile_pixels(pictures, slot, columns=self.columns)

    def _arrange(self, count: int, height: int, width: int) -> None:
        def distance(rows: int) -> float:
            return abs((count // rows * width) / (rows * height) - self._ratio)

        self.rows = min((rows for rows in range(1, math.isqrt(count) + 1) if count % rows == 0), key=distance)
        self.columns = count // self.rows


def _renders_plainly(env: VectorEnv[Any, Any, Any]) -> bool:
    """Return whether `env.render()` is nothing but what the sub-environments render."""
    while isinstance(env, VectorWrapper):
        if type(env).render is not VectorWrapper.render:
            return False
        env = env.env
    return type(env).render is SyncVectorEnv.render


def _snapshots(
    env: VectorEnv[Any, Any, Any], indices: tuple[int, ...], backend: str, mode: AutoresetMode
) -> dict[int, Backend]:
    """Return what records sub-environments by snapshots.

    Raises:
        BackendError: `backend` asks for another kind of environment.
        ConfigurationError: there is no such backend, or not for this vector environment.
    """
    base = env.unwrapped
    is_plain = mode is not AutoresetMode.SAME_STEP and _renders_plainly(env)
    if isinstance(base, SyncVectorEnv) and is_plain and indices:
        return choose_snapshots_of(base.envs, indices, backend)
    refuse_snapshots(
        backend,
        "only the env_indices of a SyncVectorEnv that is not reset within a step can be recorded by snapshots",
    )
    return {}


def _gives_last_pictures(env: VectorEnv[Any, Any, Any]) -> bool:
    return isinstance(env, AsyncVectorEnv) and all(env.call("has_wrapper_attr", _LAST_PICTURE))


def _autoreset_mode(env: VectorEnv[Any, Any, Any]) -> AutoresetMode:
    mode = env.metadata.get("autoreset_mode")
    if mode is None:
        logger.warn(
            f"{env} metadata doesn't specify its autoreset mode ({env.metadata!r}), therefore, defaulting to next step."
        )
        return AutoresetMode.NEXT_STEP
    return AutoresetMode(mode)


def _check_ratio(ratio: object) -> None:
    is_pair = isinstance(ratio, Sequence) and len(ratio) == 2
    if not is_pair or not all(isinstance(side, int | float) and side > 0 for side in ratio):  # type: ignore[attr-defined]
        raise ConfigurationError(f"video_aspect_ratio: got {ratio!r}; allowed: two numbers above 0, width and height")
