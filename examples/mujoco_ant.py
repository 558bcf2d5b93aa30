"""Teach Gymnasium's MuJoCo Ant to move forward by random search, and record how it learns.

    pip install 'stepreel[mujoco]'
    python examples/mujoco_ant.py

No GPU, no window and no `render_mode`: what is captured is the state, and a worker draws it. The search changes the
best linear policy so far at random, and keeps the change where the Ant got further.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

import stepreel
from stepreel.backends.camera import Camera
from stepreel.backends.mujoco import MujocoBackend

Env = gymnasium.Env[Any, Any]


def attempt(env: Env, weights: NDArray[np.float64], steps: int, on_step: Callable[[], None]) -> float:
    """Run one episode of the policy `weights`, shape `[actions, observations]`; return the sum of its rewards."""
    observation, _ = env.reset(seed=0)
    total = 0.0
    for _ in range(steps):
        observation, reward, _, _, _ = env.step(np.clip(weights @ observation, -1.0, 1.0).astype(np.float32))
        on_step()
        total += float(reward)
    return total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--attempts", type=int, default=80, help="Changes of the policy that are tried.")
    parser.add_argument("--episode-steps", type=int, default=100)
    parser.add_argument("--spread", type=float, default=0.1, help="Standard deviation of a change.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output-dir", default="videos/mujoco-ant")
    arguments = parser.parse_args()

    # Paid for moving alone: an Ant that is paid for being well learns to stand still first.
    env: Env = gymnasium.make(
        "Ant-v5",
        healthy_reward=0.0,
        ctrl_cost_weight=0.05,
        terminate_when_unhealthy=False,
        include_cfrc_ext_in_observation=False,
    )
    data = env.unwrapped.data  # type: ignore[attr-defined]

    def beside_the_torso() -> Camera:
        x, y, _ = data.body("torso").xpos
        return Camera(eye=(x + 1.0, y - 5.0, 2.5), lookat=(x, y, 0.5))

    config = stepreel.RecorderConfig(
        output_dir=arguments.output_dir,
        video_interval=0,
        step_trigger=lambda step: False,  # Clips are opened below, of the best policy so far.
        width=640,
        height=360,
    )
    rng = np.random.default_rng(arguments.seed)
    shape = (*(env.action_space.shape or ()), *(env.observation_space.shape or ()))
    best, best_return = np.zeros(shape), -np.inf
    with stepreel.Recorder(config, MujocoBackend(env, camera=beside_the_torso)) as recorder:
        for number in range(arguments.attempts + 1):
            if number in (0, arguments.attempts // 2, arguments.attempts):
                recorder.start_clip(f"after-{number}-attempts")
                best_return = attempt(env, best, arguments.episode_steps, recorder.step)
                recorder.stop_clip()
                print(f"after {number} attempts: return {best_return:.1f}, recorded")
            weights = best + arguments.spread * rng.normal(size=shape)
            if (found := attempt(env, weights, arguments.episode_steps, recorder.step)) > best_return:
                best, best_return = weights, found
    env.close()
    print(recorder.summary())


if __name__ == "__main__":
    main()
