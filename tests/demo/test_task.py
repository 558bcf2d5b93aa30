from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from stepreel.demo.task import FALLEN_ANGLE, MAX_FORCE, RAIL_REACH, STEPS_PER_SECOND, CartPoleTask

pytestmark = [pytest.mark.newton, pytest.mark.timeout(300)]  # The first use compiles kernels.

ENOUGH_TO_FALL = 2 * STEPS_PER_SECOND


def rng() -> np.random.Generator:
    return np.random.default_rng(7)


def angles(task: CartPoleTask) -> NDArray[np.floating[Any]]:
    return np.array(task.state.joint_q.numpy().reshape(-1, 2)[:, 1])


def test_every_pole_falls_without_control(task: CartPoleTask) -> None:
    task.reset(rng())
    tilt = angles(task)
    assert (np.abs(tilt) < FALLEN_ANGLE).all()

    for _ in range(ENOUGH_TO_FALL):
        task.step(np.zeros(task.world_count))
    _, rewards = task.step(np.zeros(task.world_count))

    assert not task.standing.any()
    assert (rewards == 0).all()


def test_a_pole_falls_to_the_side_to_which_it_leans(task: CartPoleTask) -> None:
    task.reset(rng())
    before = angles(task)

    for _ in range(5):
        task.step(np.zeros(task.world_count))

    assert (np.sign(before) * (angles(task) - before) > 0).all()


def test_a_free_pole_keeps_its_energy(task: CartPoleTask) -> None:
    """A pole that swings freely comes back to its tilt, and never above it by more than the integrator's error."""
    task.reset(rng())
    highest = np.cos(angles(task)).max()

    heights = []
    for _ in range(10 * STEPS_PER_SECOND):
        task.step(np.zeros(task.world_count))
        heights.append(np.cos(angles(task)))

    assert np.max(heights) < highest + 0.05
    assert (np.max(heights[len(heights) // 2 :], axis=0) > 0.5).all()


def test_a_push_moves_the_cart_its_own_way_by_newtons_law(task: CartPoleTask) -> None:
    task.reset(rng())
    before = task.observe()

    after, _ = task.step(np.ones(task.world_count))

    acceleration = (after[:, 1] - before[:, 1]) * STEPS_PER_SECOND
    assert (acceleration > MAX_FORCE / 1.2 * 0.9).all()  # Cart and pole together weigh 1.2 kg, the cart alone 1 kg.
    assert (acceleration < MAX_FORCE / 1.0 * 1.1).all()


def test_actions_beyond_one_push_no_harder(task: CartPoleTask) -> None:
    task.reset(rng())
    at_one, _ = task.step(np.ones(task.world_count))
    task.reset(rng())
    beyond, _ = task.step(np.full(task.world_count, 50.0))

    np.testing.assert_array_equal(at_one, beyond)


def test_the_worlds_do_not_touch_one_another(task: CartPoleTask) -> None:
    def run(actions: NDArray[np.floating[Any]]) -> NDArray[np.floating[Any]]:
        task.reset(rng())
        for _ in range(10):
            task.step(actions)
        return task.observe()

    still = np.zeros(task.world_count)
    one_pushed = still.copy()
    one_pushed[3] = 1.0
    quiet, pushed = run(still), run(one_pushed)

    others = np.arange(task.world_count) != 3
    np.testing.assert_array_equal(quiet[others], pushed[others])
    assert pushed[3, 0] > quiet[3, 0] + 0.1


def test_a_cart_stays_on_its_rail(task: CartPoleTask) -> None:
    task.reset(rng())
    furthest = 0.0
    for _ in range(ENOUGH_TO_FALL):
        observations, _ = task.step(np.ones(task.world_count))
        task.standing[:] = True  # A cart whose pole has fallen would no longer be pushed.
        furthest = max(furthest, float(np.abs(observations[:, 0]).max()))

    assert 0.8 * RAIL_REACH < furthest < RAIL_REACH + 0.15


def test_reset_puts_everything_back_whatever_happened_before(task: CartPoleTask) -> None:
    first = task.reset(rng())
    bodies = task.state.body_q.numpy().copy()
    for _ in range(20):
        task.step(np.ones(task.world_count))
    assert not np.allclose(task.state.body_q.numpy(), bodies, atol=1e-3)

    second = task.reset(rng())

    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(task.state.body_q.numpy(), bodies)
    assert task.standing.all()
    assert (task.state.joint_qd.numpy() == 0).all()


def test_the_state_after_a_reset_and_after_a_step_shows_the_poles_where_the_joints_are(task: CartPoleTask) -> None:
    def check() -> None:
        cart, pole = task.state.body_q.numpy().reshape(-1, 2, 7).swapaxes(0, 1)
        np.testing.assert_allclose(cart[:, 0], task.observe()[:, 0], atol=1e-5)
        np.testing.assert_allclose(2.0 * np.arcsin(pole[:, 4]), angles(task), atol=1e-3)

    task.reset(rng())
    check()
    task.step(np.zeros(task.world_count))
    check()


def test_a_fallen_pole_earns_nothing_even_when_it_swings_up_again(task: CartPoleTask) -> None:
    task.reset(rng())
    task.standing[2] = False

    observations, rewards = task.step(np.zeros(task.world_count))

    assert rewards[2] == 0
    assert (np.delete(rewards, 2) > 0.5).all()
    assert abs(observations[2, 2]) < np.sin(FALLEN_ANGLE)


def test_the_best_place_is_upright_in_the_middle(task: CartPoleTask) -> None:
    task.reset(rng())
    _, rewards = task.step(np.zeros(task.world_count))
    observations = task.observe()

    off_middle = np.abs(observations[:, 0]) / RAIL_REACH
    assert rewards == pytest.approx(np.cos(angles(task)) * (1.0 - 0.5 * off_middle), abs=1e-5)
