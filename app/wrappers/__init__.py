"""Wrappers, public: `RecordVideo` as in Gymnasium. `vector` has the one for vector environments.

`sb3` has Stable-Baselines3's `VecVideoRecorder`; `base` and `pictures` are internal to them.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from enum import Enum, auto
from typing import Any, Literal, SupportsFloat

import gymnasium
import numpy as np
from gymnasium import logger
from gymnasium.core import ActType, ObsType, RenderFrame

from ..backends.pixels import copy_pixels
from ..clip import Frame
from ..config import RecorderConfig
from ..errors import CaptureError
from ..interfaces import Backend, ClipHook, SegmentHook, Slot
from .base import VideoArguments, WrapperBase
from .pictures import PictureBackend, check_render_mode, choose_snapshots, describe

__all__ = ["RecordVideo"]


class RecordVideo(
    WrapperBase, gymnasium.Wrapper[ObsType, ActType, ObsType, ActType], gymnasium.utils.RecordConstructorArgs
):
    """Records videos of an environment: `gymnasium.wrappers.RecordVideo` without its waits.

    ```python
    env = gymnasium.make("CartPole-v1", render_mode="rgb_array")
    env = RecordVideo(env, "videos", episode_trigger=lambda episode: episode % 100 == 0)
    ```

    Which frames are in which file is decided as by Gymnasium. The first `reset` starts the recorder, which takes
    about a second; from then on a frame costs what `env.render()` costs, and a copy. `close` waits until the files
    are there.

    Args:
        env: The environment, made with a `render_mode` that gives pictures where `backend` needs them.
        video_folder: Folder of the clips; made if it is not there.
        episode_trigger: Called with each episode's number at its reset; True begins a clip. Without any trigger
            those of `gymnasium.utils.save_video.capped_cubic_video_schedule` do: 0, 1, 8, 27, ..., 1000, 2000, ...
        step_trigger: Called with each step's number, over all episodes; True begins a clip.
        video_length: Steps of a clip, which goes on over resets; 0: until the episode ends.
        name_prefix: Clips are called `<prefix>-episode-<N>` and `<prefix>-step-<N>`.
        fps: Frames a second of video; None: `render_fps` of the environment's metadata, else 30.
        disable_logger: Taken for the sake of Gymnasium's signature: there is no progress bar, since nothing waits.
        gc_trigger: Called with the episode's number when a clip has ended; True collects garbage, on the training
            thread. None, unlike Gymnasium's default, never does: no frames are kept.
        config: All other settings. What the arguments above decide must be left at its default there, or be the same.
        backend: "auto": snapshots of a MuJoCo simulation where they show what `env.render()` does, else `env.render()`;
            "mujoco" or "render": that one; or a backend to capture with. Snapshots need no `render_mode`.
        on_clip_closed: Called with each clip whose files are on disk, on the thread that listens to the service.
        on_segment_closed: Called likewise with a clip and each file of it that is whole.

    Raises:
        RenderModeError: a `ValueError`: the render mode gives no pictures.
        ConfigurationError: an argument can't work.
        TypeError: `env` is no `gymnasium.Env`.
    """

    def __init__(
        self,
        env: gymnasium.Env[ObsType, ActType],
        video_folder: str | os.PathLike[str],
        episode_trigger: Callable[[int], bool] | None = None,
        step_trigger: Callable[[int], bool] | None = None,
        video_length: int = 0,
        name_prefix: str = "rl-video",
        fps: float | None = None,
        disable_logger: bool = True,
        gc_trigger: Callable[[int], bool] | None = None,
        *,
        config: RecorderConfig | None = None,
        backend: Literal["auto", "mujoco", "render"] | Backend = "auto",
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
            _disable_deepcopy=not isinstance(backend, str),  # It may hold a whole simulator.
            **arguments.given(),
            backend=backend,
        )
        gymnasium.Wrapper.__init__(self, env)
        self._renders = _Renders(env)
        self._backend = choose_snapshots(env, backend) if isinstance(backend, str) else backend
        if self._backend is None:
            check_render_mode(env.render_mode)
        WrapperBase.__init__(self, arguments)
        self.render_history: list[RenderFrame] = []
        self._episode_return = 0.0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[ObsType, dict[str, Any]]:
        """Reset the environment, and begin a clip where a trigger says so; its first frame is the reset's."""
        observation, info = self.env.reset(seed=seed, options=options)
        self._episode_return = 0.0
        self._open_recorder()
        self._begin_episode()
        self._pass_step()
        return observation, info

    def step(self, action: ActType) -> tuple[ObsType, SupportsFloat, bool, bool, dict[str, Any]]:
        """Step through the environment, and record it while a clip is open."""
        result = self.env.step(action)
        self.step_id += 1
        self._begin_at_step()
        self._pass_step()
        if self._arguments.config and self._arguments.config.keep:
            self._count_reward(*result[1:])
        return result

    def _count_reward(self, reward: SupportsFloat, terminated: bool, truncated: bool, info: dict[str, Any]) -> None:
        """Sum up the episode's rewards, and tell the recorder when it has ended, for the sake of `keep`."""
        self._episode_return += float(reward)
        if self._recorder and (terminated or truncated):
            self._recorder.end_episode(
                episode_return=self._episode_return, terminated=terminated, truncated=truncated, info=info
            )

    def render(self) -> RenderFrame | list[RenderFrame] | None:
        """Return what the environment renders; of a list, also what the recording has taken out of it."""
        rendered = self.env.render()
        if not isinstance(rendered, list):
            return rendered
        if self.recording and self._backend is None:
            for picture in rendered:
                self._renders.forget()
                self._renders.given = picture
                self._open_recorder().step()
                self._frame_count += 1
        history, self.render_history = self.render_history, []
        return history + rendered

    def close(self) -> None:
        """Finish the clips, so that their files are there, and close the environment."""
        try:
            self._close_recorder()
        finally:
            self.env.close()

    def _streams(self) -> Backend:
        return self._backend or PictureBackend(
            self._renders.draw, steps_per_second=self.frames_per_sec, details=describe(self.env)
        )

    def _pass_step(self) -> None:
        """Have this step captured if a clip is open; outside of clips the recorder counts it."""
        if self._recorder is None:
            return
        self._renders.forget()
        self._recorder.step()
        if isinstance(self._renders.rendered, list):
            self.render_history += self._renders.rendered
        if self.recording and self._is_frame(self._renders.rendered):
            self._count_frame()

    def _is_frame(self, rendered: object) -> bool:
        """Return whether the clip goes on with a frame; it ends where the environment gives something else."""
        if isinstance(rendered, list):
            if not rendered:
                logger.warn(
                    "Trying to capture render frame but 'env.render()' has just been called. The frame cannot be"
                    " captured."
                )
                return False
            rendered = rendered[-1]
        if rendered is _UNASKED or isinstance(rendered, np.ndarray):
            return True
        self.stop_recording()
        logger.warn(
            "Recording stopped: expected type of frame returned by render to be a numpy array, got instead "
            f"{type(rendered)}."
        )
        return False


class _Unasked(Enum):
    """Nothing was rendered: no clip is open, this step is not wanted, or the queue has no room for it."""

    UNASKED = auto()


_UNASKED = _Unasked.UNASKED


class _Renders:
    """The pictures of `env.render()`, and the last result of it: Gymnasium ends a clip over that."""

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        self._env = env
        self.given: object = _UNASKED
        """A picture to take instead of asking the environment, once."""
        self.rendered: object = _UNASKED

    def forget(self) -> None:
        """Begin a step: nothing was given or rendered for it yet."""
        self.given = self.rendered = _UNASKED

    def draw(self, slot: Slot) -> Frame:
        """Copy the picture of this step, the newest of a list, into a slot."""
        picture = self._render() if self.given is _UNASKED else self.given
        if isinstance(picture, list):
            if not picture:
                raise CaptureError("env.render() returned an empty list: nothing was drawn since it was last asked")
            picture = picture[-1]
        return copy_pixels(picture, slot)

    def _render(self) -> object:
        try:
            self.rendered = self._env.render()
        except Exception as exc:
            raise CaptureError(f"env.render() failed: {type(exc).__name__}: {exc}") from exc
        return self.rendered
