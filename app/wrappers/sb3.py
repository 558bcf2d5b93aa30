"""`VecVideoRecorder`: Stable-Baselines3's wrapper for its vector environments, recorded by stepreel."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Literal

import numpy as np
from gymnasium import logger
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnv, VecEnvWrapper
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn

from ..backends.pixels import copy_pixels
from ..clip import Frame
from ..config import RecorderConfig
from ..errors import CaptureError, ConfigurationError, RenderModeError
from ..interfaces import Backend, ClipHook, SegmentHook, Slot
from .base import VideoArguments, WrapperBase, refuse_keep
from .pictures import PictureBackend, checked_indices, choose_snapshots_of, refuse_snapshots

__all__ = ["VecVideoRecorder"]


class VecVideoRecorder(WrapperBase, VecEnvWrapper):  # type: ignore[misc] # The base is untyped where it is not installed.
    """Records videos of a `VecEnv`: `stable_baselines3.common.vec_env.VecVideoRecorder` without its waits.

    ```python
    venv = make_vec_env("CartPole-v1", n_envs=4, env_kwargs={"render_mode": "rgb_array"})
    venv = VecVideoRecorder(venv, "videos", record_video_trigger=lambda step: step % 2000 == 0)
    PPO("MlpPolicy", venv).learn(10_000)
    venv.close()
    ```

    Which frames are in which file is decided as by Stable-Baselines3: a clip begins with the picture of the reset, or
    of the step, for which the trigger says so, goes on over resets, and has `video_length` more. What goes on when a
    reset begins another clip is kept in its own file, not lost. The environments reset themselves inside of a step,
    so an episode's last picture is not in the video. There is no `recorded_frames`: no frames are kept.

    Args:
        venv: The environments, made with `render_mode="rgb_array"`.
        video_folder: Folder of the clips; made if it is not there.
        record_video_trigger: Called with the number of steps so far, at each reset and, while no clip is open, after
            each step; True begins a clip.
        video_length: Steps of a clip.
        name_prefix: Clips are called `<prefix>-step-<first>-to-step-<first + video_length>`; where a file of this
            name is there already, `-2` and so on is added.
        env_indices: Record these environments, each in clips of its own, `<prefix>-env-<i>-step-...`, instead of all
            of them side by side.
        backend: "auto": where a picture shows one environment, and that is a MuJoCo simulation in a `DummyVecEnv`, it
            is recorded by snapshots, and needs no render mode; all others by `render()`, as by "render". "mujoco": by
            snapshots, or not at all.
        config: All other settings. What the arguments above decide must be left at its default there, or be the same.
        on_clip_closed: Called with each clip whose files are on disk, on the thread that listens to the service.
        on_segment_closed: Called likewise with a clip and each file of it that is whole.

    Attributes:
        recording: Whether a clip is open.
        step_id: Steps so far.
        video_name: The file of the newest clip; `video_path` with its folder.

    Raises:
        RenderModeError: an `AssertionError`: the environments make no pictures.
        ConfigurationError: an argument can't work.
    """

    video_name: str
    video_path: str

    def __init__(
        self,
        venv: VecEnv,
        video_folder: str | os.PathLike[str],
        record_video_trigger: Callable[[int], bool],
        video_length: int = 200,
        name_prefix: str = "rl-video",
        *,
        env_indices: Sequence[int] | None = None,
        backend: Literal["auto", "mujoco", "render"] = "auto",
        config: RecorderConfig | None = None,
        on_clip_closed: ClipHook | None = None,
        on_segment_closed: SegmentHook | None = None,
    ) -> None:
        VecEnvWrapper.__init__(self, venv)
        self.env = venv
        self.env.metadata = _metadata(venv)
        self.env_indices = checked_indices(env_indices, venv.num_envs)
        shown = self.env_indices or tuple(range(venv.num_envs))
        self._snapshots = _snapshots(venv, () if self.env_indices is None and len(shown) > 1 else shown, backend)
        if venv.render_mode != "rgb_array" and len(self._snapshots) < len(shown):
            raise RenderModeError(f"The render_mode must be 'rgb_array', not {venv.render_mode}")
        if not callable(record_video_trigger):
            raise ConfigurationError(
                f"record_video_trigger: got {record_video_trigger!r}; allowed: a function of the number of steps"
            )
        self.record_video_trigger = record_video_trigger
        self._pictures = _Pictures(venv, self.env_indices)
        refuse_keep(config)
        arguments = VideoArguments(
            video_folder=video_folder,
            episode_trigger=None,
            step_trigger=record_video_trigger,
            video_length=video_length,
            name_prefix=name_prefix,
            fps=None,
            disable_logger=True,
            gc_trigger=None,
            config=config,
            on_clip_closed=on_clip_closed,
            on_segment_closed=on_segment_closed,
        )
        WrapperBase.__init__(self, arguments)
        self.frames_per_sec = self.env.metadata.get("render_fps", 30)
        self.video_length = video_length
        self.step_id = 0

    def reset(self) -> VecEnvObs:
        """Reset the environments, and begin a clip where the trigger says so; its first frame is the reset's."""
        observations = self.venv.reset()
        self._open_recorder()
        if self._fires(self.record_video_trigger, self.step_id):
            self._begin()
        elif not self.recording:
            self._pass_step()
        return observations

    def step_wait(self) -> VecEnvStepReturn:
        """Wait for the step, and record it while a clip is open."""
        result = self.venv.step_wait()
        self.step_id += 1
        if not self.recording and self._fires(self.record_video_trigger, self.step_id):
            self._begin()
        else:
            self._pass_step()
            self._end_if_complete()
        return result

    def close(self) -> None:
        """Finish the clips, so that their files are there, and close the environments."""
        try:
            self._close_recorder()
        finally:
            VecEnvWrapper.close(self)

    def _begin(self) -> None:
        """Begin a clip with the present picture. One that began with this very step goes on instead."""
        name = f"{self.name_prefix}-step-{self.step_id}-to-step-{self.step_id + self.video_length}"
        if self.recording and self.video_name == f"{name}.mp4":
            return
        self.start_recording(name)
        self.video_name = f"{name}.mp4"
        self.video_path = os.path.join(self.video_folder, self.video_name)
        self._pass_step()

    def _end_if_complete(self) -> None:
        if self.recording and self._frame_count > self.video_length:
            self.stop_recording()

    def _pass_step(self) -> None:
        """Have the present picture captured if a clip is open; outside of clips the recorder counts it."""
        self._pictures.forget()
        self._open_recorder().step()
        if not self.recording:
            return
        kind = self._pictures.no_picture
        if kind is None:
            self._frame_count += 1
            return
        self.stop_recording()
        logger.warn(
            f"Recording stopped: expected type of frame returned by render to be a numpy array, got instead {kind}."
        )

    def _streams(self) -> Backend | Mapping[str, Backend]:
        if self.env_indices is None:
            return self._snapshots.get(0) or self._backend_of(self._pictures.draw)
        return {
            f"env-{index}": self._snapshots.get(index) or self._backend_of(partial(self._pictures.draw_one, index))
            for index in self.env_indices
        }

    def _backend_of(self, draw: Callable[[Slot], Frame]) -> Backend:
        details = {"vec_env": type(self.unwrapped).__name__, "num_envs": self.num_envs, "render_mode": "rgb_array"}
        return PictureBackend(draw, steps_per_second=self.frames_per_sec, details=details)

    def _make_folder(self) -> None:
        os.makedirs(self.video_folder, exist_ok=True)


class _Pictures:
    """The pictures of the present step, asked for when the first of them is wanted.

    Attributes:
        no_picture: The type of what was rendered for this step instead of a picture, if it was.
    """

    def __init__(self, venv: VecEnv, indices: tuple[int, ...] | None) -> None:
        self.no_picture: type | None = None
        self._venv = venv
        self._indices = indices
        self._rendered: dict[int, object] = {}

    def forget(self) -> None:
        """Begin a step: nothing is rendered yet."""
        self.no_picture = None
        self._rendered.clear()

    def draw(self, slot: Slot) -> Frame:
        """Copy the picture of all environments, side by side as Stable-Baselines3 puts them, into a slot."""
        return self._copy(self._ask(self._venv.render), slot)

    def draw_one(self, index: int, slot: Slot) -> Frame:
        """Copy the picture of one environment into a slot."""
        if not self._rendered and self._indices:
            pictures = self._ask(lambda: self._venv.env_method("render", indices=self._indices))
            self._rendered = dict(zip(self._indices, pictures, strict=True))
        return self._copy(self._rendered[index], slot)

    def _ask(self, render: Callable[[], Any]) -> Any:
        try:
            return render()
        except Exception as exc:
            raise CaptureError(f"the environments' render() failed: {type(exc).__name__}: {exc}") from exc

    def _copy(self, picture: object, slot: Slot) -> Frame:
        if not isinstance(picture, np.ndarray):
            self.no_picture = type(picture)
        return copy_pixels(picture, slot)


def _snapshots(venv: VecEnv, indices: tuple[int, ...], backend: str) -> dict[int, Backend]:
    """Return what records environments, each with pictures of its own, by snapshots.

    Raises:
        BackendError: `backend` asks for another kind of environment.
        ConfigurationError: there is no such backend, or not for these environments.
    """
    base = venv.unwrapped
    if indices and isinstance(base, DummyVecEnv) and _renders_plainly(venv):
        return choose_snapshots_of(base.envs, indices, backend)
    refuse_snapshots(
        backend, "only the env_indices of a DummyVecEnv, or its only environment, can be recorded by snapshots"
    )
    return {}


def _renders_plainly(venv: VecEnv) -> bool:
    """Return whether no wrapper has a say in what `venv.render()` shows."""
    while isinstance(venv, VecEnvWrapper):
        if type(venv).render is not VecEnvWrapper.render or type(venv).get_images is not VecEnvWrapper.get_images:
            return False
        venv = venv.venv
    return type(venv).render is DummyVecEnv.render and type(venv).get_images is DummyVecEnv.get_images


def _metadata(venv: VecEnv) -> dict[str, Any]:
    """Return what the environments, under whatever wrappers, say of themselves; as Stable-Baselines3 asks them."""
    base = venv.unwrapped
    metadata: dict[str, Any]
    metadata = base.get_attr("metadata")[0] if isinstance(base, DummyVecEnv | SubprocVecEnv) else base.metadata
    return metadata
