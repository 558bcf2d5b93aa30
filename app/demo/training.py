"""Cross-entropy search for linear policies, each tried in a world of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from .task import CartPoleTask


class CrossEntropySearch:
    """Keeps a normal distribution over policies and moves it toward those that did best.

    See Rubinstein and Kroese, "The Cross-Entropy Method", 2004. A policy is one weight for each number observed.

    Attributes:
        mean: Weights of the policy in the middle, shape `[size]`.
        spread: Standard deviation of each weight, shape `[size]`.
    """

    def __init__(
        self,
        size: int,
        population: int,
        rng: np.random.Generator,
        *,
        initial_spread: float = 3.0,
        elite_share: float = 0.25,
        learning_rate: float = 0.7,
        least_spread: float = 0.02,
    ) -> None:
        self.mean = np.zeros(size)
        self.spread = np.full(size, initial_spread)
        self._population = population
        self._rng = rng
        self._elite_count = max(2, round(elite_share * population))
        self._learning_rate = learning_rate
        self._least_spread = least_spread

    def ask(self) -> NDArray[np.float64]:
        """Draw the policies to try next, shape `[population, size]`."""
        return self.mean + self.spread * self._rng.normal(size=(self._population, self.mean.size))

    def tell(self, policies: NDArray[np.float64], returns: NDArray[np.floating[Any]]) -> None:
        """Learn from the `returns`, shape `[population]`, of `policies`, shape `[population, size]`."""
        elite = policies[np.argsort(-returns)[: self._elite_count]]
        rate = self._learning_rate
        self.mean = (1.0 - rate) * self.mean + rate * elite.mean(axis=0)
        self.spread = (1.0 - rate) * self.spread + rate * (elite.std(axis=0) + self._least_spread)


class Episode:
    """One attempt of every world's own policy at the task; begins with a reset of all worlds.

    Attributes:
        policies: Shape `[world_count, 4]`.
        returns: Sum of the rewards so far, shape `[world_count]`.
    """

    def __init__(self, task: CartPoleTask, policies: NDArray[np.float64], rng: np.random.Generator) -> None:
        self.policies = policies
        self.returns = np.zeros(task.world_count)
        self._task = task
        self._observations = task.reset(rng)

    def step(self) -> None:
        """Let every policy act once."""
        actions = np.einsum("wi,wi->w", self.policies, self._observations)
        self._observations, rewards = self._task.step(actions)
        self.returns += rewards
