"""What is copied from a real CUDA device: nothing waits for it, and what arrives is of the moment it was asked for."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from stepreel.backends.camera import Camera
from stepreel.backends.colour import depth_to_rgb
from stepreel.backends.isaaclab.scene import AssetCamera
from stepreel.backends.isaaclab.selection import OriginType, Viewpoint
from stepreel.backends.isaaclab.sensor import SensorBackend
from stepreel.capture.frame_pool import FramePool, PoolSlot
from stepreel.clip import CaptureRequest, ClipRequest
from stepreel.interfaces import PendingSnapshot

from ...memory import make_pool

torch: Any = pytest.importorskip("torch")

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")

ENVS, HEIGHT, WIDTH = 3, 60, 80
LONG = 2_000_000_000
"""Cycles that the device is busy for about a second."""
REQUEST = CaptureRequest(
    clip=ClipRequest(name="clip", stream="default", start_step=0, frame_stride=1, clip_index=0), step=0, pts=0
)


@pytest.fixture
def pool() -> Iterator[FramePool]:
    with make_pool(16 * 2**20) as pool:
        yield pool


@pytest.fixture
def slot(pool: FramePool) -> PoolSlot:
    return pool.lease()


def sensors_with(name: str, tensor: Any) -> dict[str, Any]:
    proxy = SimpleNamespace(torch=tensor)
    return {"camera": SimpleNamespace(data=SimpleNamespace(output={name: proxy}))}


def is_device_busy() -> bool:
    return not torch.cuda.current_stream().query()


@pytest.mark.parametrize("channel", ["rgb", "depth"])
def test_a_picture_on_the_device_is_that_of_the_capture_and_nobody_waits(slot: PoolSlot, channel: str) -> None:
    generator = torch.Generator("cuda").manual_seed(3)
    rgba = torch.randint(0, 256, (ENVS, HEIGHT, WIDTH, 4), dtype=torch.uint8, device="cuda", generator=generator)
    depth = torch.rand((ENVS, HEIGHT, WIDTH, 1), device="cuda", generator=generator) * 12
    held = {"rgb": rgba[..., :3], "depth": depth}[channel]
    expected = held.cpu().numpy()
    backend = SensorBackend(sensors_with(channel, held), "camera", channel=channel, env_indices=[2, 0])
    described = backend.open(width=None, height=None, worker_device="auto")
    assert described.renderer is not None
    described.renderer.open()
    torch.zeros((2, 2, 2), dtype=held.dtype, device="cuda")[..., :1].zero_()  # The first use of a kernel waits.
    torch.cuda.synchronize()
    torch.cuda._sleep(LONG)
    pending: Any = backend.capture(REQUEST, slot)
    held.zero_()
    assert is_device_busy(), "the capture waited for the device"
    assert pending.poll() is None
    snapshot = pending.wait()
    picture = described.renderer.render(slot.array(snapshot.nbytes))
    wanted = expected if channel == "rgb" else depth_to_rgb(expected[..., 0], near=0.1, far=10.0)
    np.testing.assert_array_equal(picture[:, :WIDTH], wanted[2])
    np.testing.assert_array_equal(picture[:, WIDTH:], wanted[0])


def test_several_captures_under_way_keep_their_pictures(pool: FramePool) -> None:
    depth = torch.zeros((ENVS, HEIGHT, WIDTH, 1), device="cuda")
    backend = SensorBackend(sensors_with("depth", depth), "camera", channel="depth")
    backend.open(width=None, height=None, worker_device="auto")
    slots = [pool.lease() for _ in range(5)]
    torch.cuda.synchronize()
    torch.cuda._sleep(LONG)
    under_way: list[PendingSnapshot] = []
    for number, own in enumerate(slots):
        depth.fill_(float(number + 1))
        under_way.append(backend.capture(REQUEST, own))  # type: ignore[arg-type]
    assert is_device_busy()
    for number, (pending, own) in enumerate(zip(under_way, slots, strict=True)):
        held = own.array(pending.wait().nbytes).view(np.float32)
        assert (held == number + 1).all()


def test_following_an_asset_on_the_device_waits_at_the_start_of_a_clip_only() -> None:
    positions = torch.zeros((ENVS, 3), device="cuda")
    robot = SimpleNamespace(body_names=[], data=SimpleNamespace(root_pos_w=SimpleNamespace(torch=positions)))
    scene = SimpleNamespace(articulations={"robot": robot}, rigid_objects={})
    base = SimpleNamespace(scene=scene, common_step_counter=0)
    viewpoint = Viewpoint(origin_type=OriginType.ASSET_ROOT, asset_name="robot", env_index=1)
    follow = AssetCamera(base, viewpoint, Camera(eye=(1.0, 0.0, 1.0), lookat=(0.0, 0.0, 0.0)))
    positions[1, 0] = 5.0
    assert follow().lookat == (5.0, 0.0, 0.0)
    torch.cuda._sleep(LONG)
    for step in range(1, 4):
        base.common_step_counter = step
        positions[1, 0].fill_(5.0 + step)  # An assignment would wait by itself.
        assert follow().lookat == (5.0, 0.0, 0.0)
    assert is_device_busy(), "following waited for the device"
    torch.cuda.synchronize()
    base.common_step_counter = 4
    assert follow().lookat == (6.0, 0.0, 0.0), "that of the first call that was not waited for"
    base.common_step_counter = 400
    positions[1, 0] = 77.0
    assert follow().lookat == (77.0, 0.0, 0.0)
