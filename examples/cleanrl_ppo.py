"""PPO in one file, in the style of CleanRL, with videos: only the import of `RecordVideo` is stepreel's.

    python examples/cleanrl_ppo.py --total_timesteps 20000 --capture_video

The first of the environments is recorded. Its clips are in `logs/cleanrl_ppo/videos`.
"""

from __future__ import annotations

import argparse
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor, nn
from torch.distributions import Categorical

from stepreel.wrappers import RecordVideo  # was: from gymnasium.wrappers import RecordVideo


@dataclass
class Args:
    env_id: str = "CartPole-v1"
    total_timesteps: int = 20_000
    learning_rate: float = 1e-3
    num_envs: int = 4
    num_steps: int = 128
    """Of each environment, between two updates."""
    gamma: float = 0.99
    gae_lambda: float = 0.95
    num_minibatches: int = 4
    update_epochs: int = 4
    clip_coef: float = 0.2
    ent_coef: float = 0.01
    vf_coef: float = 0.5
    max_grad_norm: float = 0.5
    seed: int = 1
    capture_video: bool = False
    video_folder: str = "logs/cleanrl_ppo/videos"
    video_episodes: int = 25
    """Record every n-th episode of the first environment."""


def make_env(args: Args, index: int) -> Callable[[], gym.Env[Any, Any]]:
    def make() -> gym.Env[Any, Any]:
        if not args.capture_video or index > 0:
            return gym.wrappers.RecordEpisodeStatistics(gym.make(args.env_id))
        env = gym.make(args.env_id, render_mode="rgb_array")
        env = RecordVideo(env, args.video_folder, episode_trigger=lambda episode: episode % args.video_episodes == 0)
        return gym.wrappers.RecordEpisodeStatistics(env)

    return make


def layer(inputs: int, outputs: int, gain: float = np.sqrt(2)) -> nn.Linear:
    linear = nn.Linear(inputs, outputs)
    nn.init.orthogonal_(linear.weight, gain)
    nn.init.zeros_(linear.bias)
    return linear


class Agent(nn.Module):
    def __init__(self, observations: int, actions: int) -> None:
        super().__init__()
        self.critic = nn.Sequential(layer(observations, 64), nn.Tanh(), layer(64, 64), nn.Tanh(), layer(64, 1, 1.0))
        self.actor = nn.Sequential(
            layer(observations, 64), nn.Tanh(), layer(64, 64), nn.Tanh(), layer(64, actions, 0.01)
        )

    def policy(self, observation: Tensor) -> Categorical:
        return Categorical(logits=self.actor(observation))

    def value(self, observation: Tensor) -> Tensor:
        return self.critic(observation).squeeze(-1)


class Rollout:
    """What happened in `num_steps` steps of every environment: arrays of shape [num_steps, num_envs, ...]."""

    def __init__(self, args: Args, observations: int) -> None:
        shape = (args.num_steps, args.num_envs)
        self.observations = torch.zeros(*shape, observations)
        self.actions = torch.zeros(shape)
        self.log_probs = torch.zeros(shape)
        self.rewards = torch.zeros(shape)
        self.values = torch.zeros(shape)
        self.ends = torch.zeros(shape)
        """1 where the step was an episode's last."""

    def advantages(self, args: Args, last_value: Tensor) -> Tensor:
        """Generalized advantage estimation (Schulman et al. 2016, equation 16)."""
        advantages = torch.zeros_like(self.rewards)
        advantage, value = torch.zeros_like(last_value), last_value
        for step in reversed(range(args.num_steps)):
            goes_on = 1.0 - self.ends[step]
            delta = self.rewards[step] + args.gamma * value * goes_on - self.values[step]
            advantage = delta + args.gamma * args.gae_lambda * goes_on * advantage
            advantages[step], value = advantage, self.values[step]
        return advantages


def collect(
    args: Args, envs: gym.vector.VectorEnv, agent: Agent, rollout: Rollout, observation: Tensor, returns: deque[float]
) -> Tensor:
    """Fill the rollout from `observation` on; return the observation that follows."""
    for step in range(args.num_steps):
        with torch.no_grad():
            policy = agent.policy(observation)
            action = policy.sample()
            rollout.values[step] = agent.value(observation)
        rollout.observations[step], rollout.actions[step] = observation, action
        rollout.log_probs[step] = policy.log_prob(action)
        following, reward, terminated, truncated, infos = envs.step(action.numpy())
        rollout.rewards[step] = torch.as_tensor(reward)
        rollout.ends[step] = torch.as_tensor(terminated | truncated)
        observation = torch.as_tensor(following, dtype=torch.float32)
        if "final_info" in infos:
            episodes = infos["final_info"]["episode"]
            returns.extend(episodes["r"][infos["final_info"]["_episode"]].tolist())
    return observation


def update(args: Args, agent: Agent, optimizer: torch.optim.Optimizer, rollout: Rollout, advantages: Tensor) -> None:
    """Improve policy and value function (Schulman et al. 2017, equations 7 and 9)."""
    targets = (advantages + rollout.values).flatten()
    observations, actions = rollout.observations.flatten(0, 1), rollout.actions.flatten()
    log_probs, advantages = rollout.log_probs.flatten(), advantages.flatten()
    for _ in range(args.update_epochs):
        for batch in torch.randperm(len(actions)).chunk(args.num_minibatches):
            policy = agent.policy(observations[batch])
            ratio = (policy.log_prob(actions[batch]) - log_probs[batch]).exp()
            gain = advantages[batch]
            gain = (gain - gain.mean()) / (gain.std() + 1e-8)
            clipped = ratio.clamp(1 - args.clip_coef, 1 + args.clip_coef)
            policy_loss = -torch.min(ratio * gain, clipped * gain).mean()
            value_loss = (agent.value(observations[batch]) - targets[batch]).square().mean() / 2
            loss = policy_loss + args.vf_coef * value_loss - args.ent_coef * policy.entropy().mean()
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(agent.parameters(), args.max_grad_norm)
            optimizer.step()


def train(args: Args) -> None:
    torch.manual_seed(args.seed)
    torch.set_num_threads(1)
    envs = gym.vector.SyncVectorEnv(
        [make_env(args, index) for index in range(args.num_envs)],
        autoreset_mode=gym.vector.AutoresetMode.SAME_STEP,
    )
    observations = int(np.prod(envs.single_observation_space.shape))
    agent = Agent(observations, int(envs.single_action_space.n))
    optimizer = torch.optim.Adam(agent.parameters(), lr=args.learning_rate, eps=1e-5)
    rollout = Rollout(args, observations)
    returns: deque[float] = deque(maxlen=20)
    observation = torch.as_tensor(envs.reset(seed=args.seed)[0], dtype=torch.float32)
    start = time.perf_counter()
    for iteration in range(1, args.total_timesteps // (args.num_envs * args.num_steps) + 1):
        observation = collect(args, envs, agent, rollout, observation, returns)
        with torch.no_grad():
            last_value = agent.value(observation)
        update(args, agent, optimizer, rollout, rollout.advantages(args, last_value))
        if iteration % 5 == 0:
            global_step = iteration * args.num_envs * args.num_steps
            speed = global_step / (time.perf_counter() - start)
            print(f"step {global_step}: mean return {np.mean(returns):.0f}, {speed:.0f} steps/s")
    envs.close()


def parse() -> Args:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for field in fields(Args):
        if isinstance(field.default, bool):
            parser.add_argument(f"--{field.name}", action="store_true")
        else:
            parser.add_argument(f"--{field.name}", type=type(field.default), default=field.default)
    return Args(**vars(parser.parse_args()))


if __name__ == "__main__":
    train(parse())
