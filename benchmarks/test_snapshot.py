"""What a snapshot of a simulation costs the training thread, against copying its state by hand."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

pytest.importorskip("newton")
pytest.importorskip("warp")

import newton
import warp as wp
from shared_memory import frame_pool

from stepreel.backends.mujoco import MujocoBackend
from stepreel.backends.newton import NewtonBackend
from stepreel.capture.frame_pool import PoolSlot
from stepreel.clip import CaptureRequest, ClipRequest

WORLD_COUNT = 16
BODIES_OF_A_ROBOT = 13
REQUEST = CaptureRequest(
    clip=ClipRequest(name="clip", stream="default", start_step=0, frame_stride=1, clip_index=0), step=0, pts=0
)


@pytest.fixture
def slot() -> Iterator[PoolSlot]:
    with frame_pool(2**20) as pool:
        yield pool.lease()


def robots() -> newton.Model:
    """Return a model of robots, as far as a picture is concerned: bodies with a shape."""
    robot = newton.ModelBuilder()
    for place in range(BODIES_OF_A_ROBOT):
        body = robot.add_body(xform=wp.transform((0.1 * place, 0.0, 1.0), wp.quat_identity()), mass=1.0)
        robot.add_shape_box(body, hx=0.04, hy=0.04, hz=0.04)
    builder = newton.ModelBuilder()
    builder.replicate(robot, WORLD_COUNT)
    return builder.finalize(device="cpu")


def test_newton_snapshot(hold_against: Callable[..., None], slot: PoolSlot) -> None:
    model = robots()
    state = model.state()
    backend = NewtonBackend(model, lambda: state, renderer="warp")
    backend.open(width=1280, height=720, worker_device="cpu")
    copied = np.empty((WORLD_COUNT * BODIES_OF_A_ROBOT, 7), np.float32)
    hold_against(
        lambda: backend.capture(REQUEST, slot),
        lambda: np.copyto(copied, state.body_q.numpy()),
        title="snapshot of 16 Newton robots on the CPU",
        against="`body_q.numpy()`, copied",
        rounds=200,
        count=20,
    )


def mujoco_robots() -> Any:
    """Return a model of robots, each of as many bodies as a Newton one: a root that is free, and two arms of hinges."""
    mujoco = pytest.importorskip("mujoco")
    arm = '<body pos=".1 0 0"><joint axis="0 1 0"/><geom size=".04"/>{}</body>'
    arms = ""
    for _ in range((BODIES_OF_A_ROBOT - 1) // 2):
        arms = arm.format(arms)
    robot = '<body pos="0 {} 1"><freejoint/><geom size=".04"/>' + 2 * arms + "</body>"
    bodies = "".join(robot.format(number) for number in range(WORLD_COUNT))
    return mujoco.MjModel.from_xml_string(f"<mujoco><worldbody>{bodies}</worldbody></mujoco>")


@pytest.mark.mujoco
def test_mujoco_snapshot(hold_against: Callable[..., None], slot: PoolSlot) -> None:
    mujoco = pytest.importorskip("mujoco")
    model = mujoco_robots()
    data = mujoco.MjData(model)
    backend = MujocoBackend(model, data)
    backend.open(width=1280, height=720, worker_device="cpu")
    positions = mujoco.mjtState.mjSTATE_QPOS.value
    copied = np.empty(model.nq)
    hold_against(
        lambda: backend.capture(REQUEST, slot),
        lambda: mujoco.mj_getState(model, data, copied, positions),
        title="snapshot of 16 MuJoCo robots",
        against="`mj_getState` of their positions",
        rounds=200,
        count=20,
    )
