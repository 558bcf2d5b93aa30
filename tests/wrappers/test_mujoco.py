"""MuJoCo environments in the wrappers: recorded by snapshots without asking."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("mujoco")

import gymnasium
from gymnasium.vector import SyncVectorEnv

from stepreel import ClipState
from stepreel.backends.render_device import choose_render_device
from stepreel.storage.manifest import read_manifest
from stepreel.wrappers import RecordVideo
from stepreel.wrappers.vector import RecordVideo as RecordVectorVideo

pytestmark = [
    pytest.mark.mujoco,
    pytest.mark.gl,
    pytest.mark.skipif(
        choose_render_device("cpu", None).opengl_problem is not None, reason="no EGL that draws on the CPU here"
    ),
]


def reacher() -> gymnasium.Env[Any, Any]:
    return gymnasium.make("Reacher-v5", width=96, height=64, max_episode_steps=6)


def pictures_in(path: Path) -> list[NDArray[Any]]:
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24").astype(int) for frame in container.decode(video=0)]


def test_snapshots_are_taken_without_asking_and_need_no_render_mode(output_dir: Path) -> None:
    env = RecordVideo(reacher(), str(output_dir), episode_trigger=lambda _: True)
    env.reset(seed=3)
    for _ in range(8):
        *_, truncated, _ = env.step(np.ones(2))
        if truncated:
            env.reset()
    env.close()
    for name, count in (("rl-video-episode-0", 7), ("rl-video-episode-1", 3)):
        clip = read_manifest(output_dir / f"{name}.json")
        assert (clip.backend, clip.state, clip.frames.encoded) == ("mujoco", ClipState.COMPLETE, count)
        pictures = pictures_in(output_dir / f"{name}.mp4")
        assert [picture.shape for picture in pictures] == [(64, 96, 3)] * count
        assert np.ptp(pictures[0]) > 50
        assert np.abs(pictures[0] - pictures[-1]).max() > 50  # The arm has moved.


def test_chosen_sub_environments_are_recorded_by_snapshots_too(output_dir: Path) -> None:
    envs = RecordVectorVideo(SyncVectorEnv([reacher] * 3), str(output_dir), env_indices=[2, 0])
    envs.reset(seed=3)
    for _ in range(3):
        envs.step(np.ones((3, 2)))
    envs.close()
    clips = [read_manifest(output_dir / f"rl-video-env-{index}-episode-0.json") for index in (0, 2)]
    assert [(clip.backend, clip.state, clip.frames.encoded) for clip in clips] == [
        ("mujoco", ClipState.COMPLETE, 4)
    ] * 2
