from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from stepreel.demo.task import CartPoleTask
from stepreel.demo.training import CrossEntropySearch, Episode

pytestmark = [pytest.mark.newton, pytest.mark.timeout(300)]  # The first use compiles kernels.


def test_the_search_finds_the_top_of_a_hill() -> None:
    top = np.array([2.0, -1.0, 0.5])
    search = CrossEntropySearch(3, 40, np.random.default_rng(0))

    for _ in range(15):
        policies = search.ask()
        search.tell(policies, -np.square(policies - top).sum(axis=1))

    np.testing.assert_allclose(search.mean, top, atol=0.1)
    assert (search.spread < 0.3).all()


def test_a_search_with_the_same_seed_asks_for_the_same_policies() -> None:
    def ask() -> NDArray[np.float64]:
        return CrossEntropySearch(4, 8, np.random.default_rng(3)).ask()

    np.testing.assert_array_equal(ask(), ask())


def test_an_episode_adds_up_the_rewards_of_each_worlds_own_policy(task: CartPoleTask) -> None:
    balancing = np.array([0.6, 1.6, 4.2, 2.1])
    policies = np.zeros((task.world_count, 4))
    policies[::2] = balancing
    episode = Episode(task, policies, np.random.default_rng(0))

    for _ in range(60):
        episode.step()

    assert (episode.returns[::2] > 40).all()
    assert (episode.returns[1::2] < 30).all()
    assert task.standing[::2].all()
    assert not task.standing[1::2].any()


def test_training_raises_the_return(task: CartPoleTask) -> None:
    rng = np.random.default_rng(1)
    search = CrossEntropySearch(4, task.world_count, rng)
    returns = []
    for _ in range(10):
        episode = Episode(task, search.ask(), rng)
        for _ in range(50):
            episode.step()
        search.tell(episode.policies, episode.returns)
        returns.append(episode.returns.mean())

    assert np.mean(returns[-3:]) > 1.5 * np.mean(returns[:3])
