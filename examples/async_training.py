"""Training, recording and reporting in one event loop: the cross-entropy method on CartPole, with `AsyncRecorder`.

    python examples/async_training.py --video --video_interval 10000

An actor steps the environment, a learner gets what its episodes earned and improves the policy, and a reporter prints
a line now and then. The recorder listens in the same loop; a process of its own draws and encodes.
"""

from __future__ import annotations

import argparse
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import anyio
import anyio.lowlevel
import gymnasium
import numpy as np
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from stepreel import AsyncRecorder, RecorderConfig, add_video_arguments
from stepreel.backends.gymnasium import GymnasiumBackend

POPULATION = 24
ELITE = 6


@dataclass(frozen=True, kw_only=True)
class Outcome:
    weights: np.ndarray
    """Of a linear policy, shape [4]."""
    earned: float
    """Return of its episode."""


@dataclass(kw_only=True)
class Search:
    """Where policies are looked for: a normal distribution, shape [4]."""

    mean: np.ndarray
    deviation: np.ndarray
    generation: int = 0
    mean_return: float = 0.0


async def act(
    env: gymnasium.Env[Any, Any],
    recorder: AsyncRecorder | None,
    search: Search,
    outcomes: MemoryObjectSendStream[Outcome],
    steps: int,
    seed: int,
) -> None:
    """Try policies, an episode each, until `steps` steps are taken."""
    rng = np.random.default_rng(seed)
    taken = 0
    async with outcomes:
        while taken < steps:
            weights = rng.normal(search.mean, search.deviation)
            observation, _ = env.reset(seed=int(rng.integers(2**31)))
            if recorder:
                await recorder.reset()
            earned, is_over = 0.0, False
            while not is_over:
                observation, reward, terminated, truncated, _ = env.step(int(observation @ weights > 0))
                if recorder:
                    await recorder.step()
                earned, is_over = earned + float(reward), terminated or truncated
                taken += 1
                if taken % 50 == 0:
                    await anyio.lowlevel.checkpoint()  # Nothing above ever waits: give the other tasks a turn.
            await outcomes.send(Outcome(weights=weights, earned=earned))


async def learn(search: Search, outcomes: MemoryObjectReceiveStream[Outcome]) -> None:
    """Move the search to where the best of each generation were."""
    generation: list[Outcome] = []
    async for outcome in outcomes:
        generation.append(outcome)
        if len(generation) == POPULATION:
            elite = np.array([one.weights for one in sorted(generation, key=lambda one: -one.earned)[:ELITE]])
            search.mean, search.deviation = elite.mean(axis=0), elite.std(axis=0) + 0.1 / (search.generation + 1)
            search.mean_return = float(np.mean([one.earned for one in generation]))
            search.generation += 1
            generation.clear()


async def report(search: Search, recorder: AsyncRecorder | None) -> None:
    """Print how it goes, twice a second."""
    while True:
        await anyio.sleep(0.5)
        line = f"generation {search.generation}: mean return {search.mean_return:.0f}"
        if recorder:
            now = recorder.statistics()
            line += f"; step {now.steps}, {now.frames.encoded} of {now.frames.requested} frames encoded"
        print(line)


async def main(args: argparse.Namespace) -> None:
    env = gymnasium.make("CartPole-v1", render_mode="rgb_array")
    search = Search(mean=np.zeros(4), deviation=np.ones(4))
    async with AsyncExitStack() as stack:
        recorder = None
        if args.video:
            config = RecorderConfig.from_arguments(args, log_dir=args.log_dir)
            recorder = await stack.enter_async_context(AsyncRecorder(config, GymnasiumBackend(env)))
        send, receive = anyio.create_memory_object_stream[Outcome](POPULATION)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(report, search, recorder)
            async with anyio.create_task_group() as training:
                training.start_soon(learn, search, receive)
                training.start_soon(act, env, recorder, search, send, args.steps, args.seed)
            tasks.cancel_scope.cancel()
    env.close()
    if recorder:
        print(recorder.summary())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=40_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--log_dir", default="logs/async_training")
    add_video_arguments(parser)
    anyio.run(main, parser.parse_args())
