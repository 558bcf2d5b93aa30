"""PPO of Stable-Baselines3, with videos: only the import of `VecVideoRecorder` is stepreel's.

    python examples/sb3_ppo.py

The four environments are recorded side by side. The clips are in `logs/sb3_ppo/videos`.
"""

from __future__ import annotations

import argparse

import torch
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy

from stepreel.wrappers.sb3 import VecVideoRecorder  # was: from stable_baselines3.common.vec_env import ...


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", default="CartPole-v1")
    parser.add_argument("--timesteps", type=int, default=20_000, help="of all environments together")
    parser.add_argument("--num_envs", type=int, default=4)
    parser.add_argument("--video_folder", default="logs/sb3_ppo/videos")
    parser.add_argument("--video_length", type=int, default=200)
    parser.add_argument("--video_interval", type=int, default=2000)
    args = parser.parse_args()

    torch.set_num_threads(1)
    venv = make_vec_env(args.env, args.num_envs, seed=1, env_kwargs={"render_mode": "rgb_array"})
    recorded = VecVideoRecorder(
        venv,
        args.video_folder,
        record_video_trigger=lambda step: step % args.video_interval == 0,
        video_length=args.video_length,
    )
    model = PPO("MlpPolicy", recorded, n_steps=128, learning_rate=1e-3, seed=1, device="cpu")
    model.learn(args.timesteps, progress_bar=False)
    mean, deviation = evaluate_policy(model, make_vec_env(args.env, 1, seed=2), n_eval_episodes=5)
    print(f"{args.env}: return {mean:.0f} +- {deviation:.0f} after {args.timesteps} steps")
    recorder = recorded.recorder
    recorded.close()
    if recorder:
        print(recorder.summary())


if __name__ == "__main__":
    main()
