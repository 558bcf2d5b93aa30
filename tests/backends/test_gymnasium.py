"""Real Gymnasium environments, and what is refused of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.wrappers import RenderCollection

from stepreel.backends.gymnasium import GymnasiumBackend
from stepreel.capture.frame_pool import PoolSlot
from stepreel.clip import CaptureRequest, ClipRequest
from stepreel.errors import BackendError, CaptureError, RenderModeError

from ..memory import make_pool

REQUEST = CaptureRequest(
    clip=ClipRequest(name="clip", stream="default", start_step=0, frame_stride=1, clip_index=0), step=0, pts=0
)


@pytest.fixture
def slot() -> Iterator[PoolSlot]:
    with make_pool(4 * 2**20) as pool:
        slot = pool.lease()
        yield slot
        slot.release()


@pytest.fixture
def cart_pole() -> Iterator[gymnasium.Env[Any, Any]]:
    env = gymnasium.make("CartPole-v1", render_mode="rgb_array")
    env.reset(seed=3)
    yield env
    env.close()


def test_a_capture_is_what_the_environment_renders(cart_pole: gymnasium.Env[Any, Any], slot: PoolSlot) -> None:
    backend = GymnasiumBackend(cart_pole)
    backend.open(width=None, height=None, worker_device="auto")
    for _ in range(3):
        cart_pole.step(1)
        frame = backend.capture(REQUEST, slot)
        pixels = slot.array(frame.nbytes).reshape(frame.height, frame.width, 3)
        np.testing.assert_array_equal(pixels, np.asarray(cart_pole.render()))


def test_the_rate_comes_from_the_metadata_and_the_size_from_the_first_picture(
    cart_pole: gymnasium.Env[Any, Any],
) -> None:
    described = GymnasiumBackend(cart_pole).open(width=None, height=None, worker_device="auto")
    assert (described.width, described.height, described.nbytes) == (None, None, None)
    assert described.steps_per_second == 50.0
    assert described.renderer is None
    assert described.details == {"env_id": "CartPole-v1", "render_mode": "rgb_array"}


def test_of_a_render_collection_the_newest_picture_is_taken(slot: PoolSlot) -> None:
    env = RenderCollection(gymnasium.make("CartPole-v1", render_mode="rgb_array"), pop_frames=False)
    env.reset(seed=3)
    env.step(1)
    env.step(1)
    backend = GymnasiumBackend(env)
    backend.open(width=None, height=None, worker_device="auto")
    frame = backend.capture(REQUEST, slot)
    pixels = slot.array(frame.nbytes).reshape(frame.height, frame.width, 3)
    pictures = env.render()
    assert isinstance(pictures, list)
    np.testing.assert_array_equal(pixels, pictures[-1])
    assert not np.array_equal(pixels, pictures[0])
    env.close()


def test_a_render_collection_without_a_new_picture_costs_the_frame(slot: PoolSlot) -> None:
    env = RenderCollection(gymnasium.make("CartPole-v1", render_mode="rgb_array"))
    env.reset()
    backend = GymnasiumBackend(env)
    backend.open(width=None, height=None, worker_device="auto")
    backend.capture(REQUEST, slot)
    with pytest.raises(CaptureError, match="empty list"):
        backend.capture(REQUEST, slot)
    env.close()


def test_what_the_environment_raises_costs_the_frame_and_is_its_cause(slot: PoolSlot) -> None:
    env = gymnasium.make("CartPole-v1", render_mode="rgb_array")
    backend = GymnasiumBackend(env)
    backend.open(width=None, height=None, worker_device="auto")
    with pytest.raises(CaptureError, match=r"CartPole-v1 failed: ResetNeeded") as caught:
        backend.capture(REQUEST, slot)
    assert isinstance(caught.value.__cause__, gymnasium.error.ResetNeeded)
    env.close()


@pytest.mark.parametrize("mode", [None, "human"])
def test_a_render_mode_without_pictures_is_refused_with_those_there_are(mode: str | None) -> None:
    env = gymnasium.make("CartPole-v1").unwrapped
    env.render_mode = mode
    with pytest.raises(
        ValueError, match=rf"Render mode is {mode}, .*rgb_array; CartPole-v1 has human, rgb_array"
    ) as found:
        GymnasiumBackend(env)
    assert type(found.value) is RenderModeError
    env.close()


def test_a_vector_of_environments_is_refused() -> None:
    envs = gymnasium.make_vec("CartPole-v1", num_envs=2, render_mode="rgb_array")
    with pytest.raises(BackendError, match="holds 2 environments"):
        GymnasiumBackend(envs)  # type: ignore[arg-type]
    envs.close()


def test_a_picture_of_another_size_than_asked_for_is_refused(
    cart_pole: gymnasium.Env[Any, Any], slot: PoolSlot
) -> None:
    backend = GymnasiumBackend(cart_pole)
    described = backend.open(width=640, height=480, worker_device="auto")
    assert (described.width, described.height, described.nbytes) == (640, 480, 640 * 480 * 3)
    with pytest.raises(CaptureError, match="draws 600x400 pixels where width=640, height=480"):
        backend.capture(REQUEST, slot)


def test_closing_leaves_the_environment_to_its_owner(cart_pole: gymnasium.Env[Any, Any], slot: PoolSlot) -> None:
    backend = GymnasiumBackend(cart_pole)
    backend.open(width=None, height=None, worker_device="auto")
    backend.close()
    cart_pole.step(0)
    assert isinstance(cart_pole.render(), np.ndarray)
