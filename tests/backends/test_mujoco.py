"""MuJoCo simulations by snapshots: what is captured, and that the worker's picture is what `render()` shows."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("mujoco")

import gymnasium
import mujoco

from stepreel.backends.drawing_place import choose_place
from stepreel.backends.gymnasium import GymnasiumBackend, choose_backend
from stepreel.backends.mujoco import MujocoBackend
from stepreel.backends.mujoco_renderer import MujocoRenderer
from stepreel.clip import CaptureFormat, CaptureRequest, ClipRequest
from stepreel.errors import BackendError
from stepreel.frame_pool import FramePool, PoolSlot

Pixels = NDArray[np.uint8]
Env = gymnasium.Env[Any, Any]

WIDTH, HEIGHT = 160, 120
REQUEST = CaptureRequest(
    clip=ClipRequest(name="clip", stream="default", start_step=0, frame_stride=1, clip_index=0), step=0, pts=0
)

pytestmark = [
    pytest.mark.mujoco,
    pytest.mark.filterwarnings("ignore:.*compiler attribute:UserWarning"),
]
gl = pytest.mark.gl
needs_gl = pytest.mark.skipif(
    choose_place("cpu", None).opengl_problem is not None, reason="no EGL that draws on the CPU here"
)

BALL = """
<mujoco>
  <visual><headlight ambient="1 1 1" diffuse="0 0 0" specular="0 0 0"/></visual>
  <worldbody>
    <camera name="front" pos="0 -4 1" xyaxes="1 0 0 0 0 1" fovy="40"/>
    <body name="ball"><freejoint/><geom type="sphere" size="0.1" rgba="1 0 0 1"/></body>
    <body name="marker" mocap="true" pos="0 5 -50"><geom type="box" size=".2 .2 .2" rgba="0 1 0 1"/></body>
  </worldbody>
</mujoco>
"""


@pytest.fixture
def slot() -> Iterator[PoolSlot]:
    pool = FramePool(2**20)
    yield pool.lease()
    pool.close()


@pytest.fixture
def make_env(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[..., Env]]:
    """Makes environments that draw without a window too."""
    monkeypatch.setenv("MUJOCO_GL", "egl")
    monkeypatch.chdir(tmp_path)  # MuJoCo writes its warnings into a file there.
    made: list[Env] = []

    def make(env_id: str, **arguments: Any) -> Env:
        settings = {"render_mode": "rgb_array", "width": WIDTH, "height": HEIGHT, **arguments}
        made.append(gymnasium.make(env_id, **settings))
        made[-1].reset(seed=1)
        return made[-1]

    yield make
    for env in made:
        env.close()


def simulation(xml: str = BALL) -> tuple[Any, Any]:
    model = mujoco.MjModel.from_xml_string(xml)
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    return model, data


def opened(backend: MujocoBackend, *, width: int | None = None, height: int | None = None) -> CaptureFormat:
    return backend.open(width=width, height=height, worker_device="auto")


def snapshot_of(backend: MujocoBackend, slot: PoolSlot) -> Pixels:
    return slot.array(backend.capture(REQUEST, slot).nbytes).copy()


def drawn(described: CaptureFormat, *snapshots: Pixels) -> list[Pixels]:
    """Return the pictures that the renderer draws after a pickled way."""
    renderer = pickle.loads(pickle.dumps(described.renderer))
    assert isinstance(renderer, MujocoRenderer)
    renderer.open()
    try:
        return [renderer.render(snapshot).copy() for snapshot in snapshots]
    finally:
        renderer.close()


@gl
@needs_gl
@pytest.mark.parametrize("env_id", ["Ant-v5", "HalfCheetah-v5", "Reacher-v5", "Humanoid-v5", "InvertedPendulum-v5"])
def test_a_snapshot_is_drawn_as_render_draws_the_same_state(
    make_env: Callable[..., Env], slot: PoolSlot, env_id: str
) -> None:
    env = make_env(env_id)
    unwrapped: Any = env.unwrapped
    backend = MujocoBackend(env)
    described = opened(backend)
    snapshots, rendered = [], []
    for _ in range(2):
        for _ in range(5):
            env.step(env.action_space.sample())
        mujoco.mj_forward(unwrapped.model, unwrapped.data)
        snapshots.append(snapshot_of(backend, slot))
        rendered.append(np.asarray(env.render()))
    np.testing.assert_array_equal(drawn(described, *snapshots), rendered)
    assert not np.array_equal(rendered[0], rendered[1])


def test_a_mujoco_environment_is_recorded_by_snapshots_unasked(make_env: Callable[..., Env]) -> None:
    assert isinstance(choose_backend(make_env("Ant-v5")), MujocoBackend)
    assert isinstance(choose_backend(make_env("Ant-v5", render_mode=None)), MujocoBackend)
    assert isinstance(choose_backend(make_env("Ant-v5"), backend="render"), GymnasiumBackend)


def test_another_environment_is_recorded_by_render() -> None:
    env = gymnasium.make("CartPole-v1", render_mode="rgb_array")
    assert isinstance(choose_backend(env), GymnasiumBackend)
    env.close()


class _Overlay(gymnasium.Wrapper[Any, Any, Any, Any]):
    def render(self) -> Any:
        picture = np.array(super().render())
        picture[:4] = 255
        return picture


def test_where_a_wrapper_draws_something_of_its_own_render_is_called(make_env: Callable[..., Env]) -> None:
    assert isinstance(choose_backend(_Overlay(make_env("Ant-v5"))), GymnasiumBackend)
    assert isinstance(choose_backend(_Overlay(make_env("Ant-v5")), backend="mujoco"), MujocoBackend)


def test_what_is_no_mujoco_simulation_is_refused_with_what_was_found() -> None:
    env = gymnasium.make("CartPole-v1")
    with pytest.raises(BackendError, match=r"CartPoleEnv; found: model is None, data is None"):
        MujocoBackend(env)
    env.close()
