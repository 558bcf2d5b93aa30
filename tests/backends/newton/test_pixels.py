"""Where things are in Newton's pictures, and when."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

pytest.importorskip("newton")
pytest.importorskip("warp")

import newton
import warp as wp

from stepreel import DropPolicy, Recorder, RecorderConfig, RenderTime, rendering
from stepreel.backends.camera import Camera
from stepreel.backends.colour import depth_to_rgb
from stepreel.backends.newton import NewtonBackend
from stepreel.capture.frame_pool import PoolSlot
from stepreel.rendering import render_clip

from ...memory import make_pool
from .scenes import (
    HEIGHT,
    WIDTH,
    Pixels,
    Vector,
    backend_of,
    both_renderers,
    captured,
    center_of_change,
    draw_here,
    gl,
    needs_gl,
    opened,
    pixel_of,
    sphere,
    worlds_of,
)

pytestmark = [
    pytest.mark.newton,
    pytest.mark.timeout(300),  # Kernels compile in the first test that draws.
    pytest.mark.filterwarnings("ignore:unclosed file .*icon_:ResourceWarning"),
]

BITS = 8


@pytest.fixture
def slot() -> Iterator[PoolSlot]:
    with make_pool(2**20) as pool:
        yield pool.lease()


def number_board() -> newton.Model:
    """Boxes in a row across the view, which stand in a lit place for a 1 and far below it for a 0."""
    builder = newton.ModelBuilder()
    looks = newton.ModelBuilder.ShapeConfig(density=0.0)
    for _ in range(BITS):
        builder.add_shape_box(builder.add_body(), hx=0.05, hy=0.2, hz=0.3, cfg=looks, color=(1.0, 0.9, 0.1))
    return builder.finalize(device="cpu")


def show_number(state: newton.State, number: int) -> None:
    bodies = state.body_q.numpy()
    bodies[:] = [
        (0.0, place - (BITS - 1) / 2, 0.0 if number >> place & 1 else -50.0, 0.0, 0.0, 0.0, 1.0)
        for place in range(BITS)
    ]


def number_in(picture: Pixels) -> int:
    """Read the number from a picture taken from (10, 0, 0) toward the middle at 45 degrees."""
    height, width = picture.shape[:2]
    focal = height / 2 / math.tan(math.radians(45.0) / 2)
    middles = [width / 2 + focal * (place - (BITS - 1) / 2) / 9.95 for place in range(BITS)]
    rows = slice(height // 2 - 3, height // 2 + 3)
    patches = [picture[rows, round(middle) - 3 : round(middle) + 3].astype(int) for middle in middles]
    # Yellow against a sky that is blue or dark.
    return sum(1 << place for place, patch in enumerate(patches) if patch[..., 0].mean() - patch[..., 2].mean() > 40)


def numbers_in(path: Path) -> list[int]:
    with av.open(str(path)) as container:
        pictures = [np.asarray(frame.to_ndarray(format="rgb24"), np.uint8) for frame in container.decode(video=0)]
    return [number_in(picture) for picture in pictures]


@gl
@needs_gl
@pytest.mark.parametrize(
    ("up_axis", "eye", "lookat", "places"),
    [
        ("Z", (4.0, 3.0, 2.5), (0.2, 0.1, 0.4), ((0.5, -0.9, 0.3), (-0.4, 0.9, 0.8))),
        ("Y", (-3.0, 2.5, 4.0), (0.0, 0.5, 0.0), ((0.4, 0.9, -0.3), (-0.9, -0.2, 0.5))),
    ],
)
def test_both_renderers_show_a_body_within_two_pixels_of_its_place_at_full_size(
    slot: PoolSlot, up_axis: str, eye: Vector, lookat: Vector, places: tuple[Vector, Vector]
) -> None:
    model = sphere(0.04, up_axis=up_axis).finalize(device="cpu")
    state = model.state()
    behind = tuple(3 * at - 2 * to for at, to in zip(eye, lookat, strict=True))
    found: dict[str, list[tuple[float, float]]] = {}
    for renderer in ("gl", "warp"):
        backend = backend_of(model, state, renderer=renderer, eye=eye, lookat=lookat, fov=50.0)
        capture_format = backend.open(width=1280, height=720, worker_device="auto")
        snapshots = []
        for place in (*places, behind):
            state.body_q.numpy()[0, :3] = place
            snapshots.append(captured(backend, slot))
        *pictures, background = draw_here(capture_format, *snapshots)
        found[renderer] = [center_of_change(picture, background) for picture in pictures]
    for number, place in enumerate(places):
        expected = pixel_of(place, eye, lookat, 50.0, "XYZ".index(up_axis), size=(1280, 720))
        assert found["gl"][number] == pytest.approx(expected, abs=2)
        assert found["warp"][number] == pytest.approx(expected, abs=2)
        assert found["warp"][number] == pytest.approx(found["gl"][number], abs=2)


@both_renderers
def test_a_recorded_picture_is_of_its_own_step_and_not_of_the_one_before(output_dir: Path, renderer: str) -> None:
    model = number_board()
    states = [model.state(), model.state()]
    show_number(states[0], 0)
    config = RecorderConfig(
        output_dir=output_dir, video_length=40, video_interval=0, width=320, height=180, drop_policy=DropPolicy.BLOCK
    )
    backend = NewtonBackend(model, lambda: states[0], eye=(10.0, 0.0, 0.0), lookat=(0.0, 0.0, 0.0), renderer=renderer)
    with Recorder(config, backend) as recorder:
        for step in range(40):
            # As a simulation does: into the other state, and then the two change places.
            show_number(states[1], 3 * step + 7)
            states.reverse()
            recorder.step()
    (clip,) = recorder.summary().clips
    assert clip.frames.encoded == 40
    assert numbers_in(output_dir / clip.segments[0].file) == [3 * step + 7 for step in range(40)]


@both_renderers
def test_what_was_kept_for_later_is_drawn_afterwards_and_from_another_camera(output_dir: Path, renderer: str) -> None:
    model = number_board()
    state = model.state()
    config = RecorderConfig(
        output_dir=output_dir, video_length=5, video_interval=0, width=320, height=180, render=RenderTime.LATER
    )
    backend = NewtonBackend(model, lambda: state, eye=(10.0, 0.0, 0.0), renderer=renderer)
    with Recorder(config, backend) as recorder:
        for step in range(5):
            show_number(state, 50 * step + 3)
            recorder.step()
    (clip,) = recorder.summary().clips
    assert clip.frames.encoded == 0
    numbers = [50 * step + 3 for step in range(5)]
    assert render_clip(output_dir, clip.name).drawn == 5
    assert numbers_in(output_dir / f"{clip.name}.mp4") == numbers
    # From behind left and right have changed places.
    behind = rendering.RenderOptions(camera=Camera(eye=(-10.0, 0.0, 0.0)))
    assert render_clip(output_dir, clip.name, options=behind, save_as="behind").drawn == 5
    mirrored = [int(f"{number:0{BITS}b}"[::-1], 2) for number in numbers]
    assert numbers_in(output_dir / f"{clip.name}-behind.mp4") == mirrored


@both_renderers
def test_chosen_worlds_side_by_side_are_where_they_are_told_to_stand(slot: PoolSlot, renderer: str) -> None:
    model = worlds_of(sphere(0.12), 6, ground=False)
    state = model.state()
    bodies = state.body_q.numpy()
    eye, chosen, nowhere = (6.0, 0.5, 1.0), (1, 2, 5), (-40.0, 0.0, 90.0)
    backend = backend_of(model, state, renderer=renderer, eye=eye, visible_worlds=chosen, world_spacing=(0.0, 1.5, 0.0))
    capture_format = opened(backend)
    heights = [(0.2, 0.5, 0.8), (0.5, 0.2, 0.8), (0.5, 0.2, -0.7)]  # The first two swapped, then the third fallen.
    snapshots = []
    for shown in heights:
        for column, world in enumerate(chosen):
            bodies[:, :3] = (0.0, 0.0, 0.3)  # In front of everything, had they been chosen.
            bodies[list(chosen), :3] = nowhere
            bodies[world, :3] = (0.1 * column, 0.0, shown[column])
            snapshots.append(captured(backend, slot))
    bodies[:, :3] = nowhere
    snapshots.append(captured(backend, slot))
    *pictures, background = draw_here(capture_format, *snapshots)
    for number, picture in enumerate(pictures):
        column = number % 3
        place = (0.1 * column, 1.5 * (column - 1), heights[number // 3][column])
        expected = pixel_of(place, eye, (0.0, 0.0, 0.0), 45.0, 2)
        assert center_of_change(picture, background) == pytest.approx(expected, abs=2)


@both_renderers
def test_a_following_camera_sees_the_others_move_when_its_world_is_swapped_or_falls(
    slot: PoolSlot, renderer: str
) -> None:
    model = worlds_of(sphere(0.12), 2, ground=False)
    state = model.state()
    bodies = state.body_q.numpy()

    def behind_the_first() -> Camera:
        x, y, z = bodies[0, :3].tolist()
        return Camera(eye=(x + 5.0, y, z), lookat=(x, y, z))

    backend = NewtonBackend(
        model, lambda: state, camera=behind_the_first, renderer=renderer, world_spacing=(0.0, 0.0, 0.0)
    )
    capture_format = opened(backend)
    places = [
        ((0.0, 0.6, 1.0), (0.0, -0.6, 0.5)),
        ((0.0, -0.6, 0.5), (0.0, 0.6, 1.0)),
        ((0.0, -0.6, -0.4), (0.0, 0.6, 0.2)),
    ]
    snapshots = []
    for first, second in places:
        bodies[:, :3] = first, second
        shown = captured(backend, slot)
        hidden = shown.copy()
        hidden[28:56].view(np.float32)[:3] = (40.0, 0.0, 90.0)
        snapshots += [shown, hidden]
    pictures = draw_here(capture_format, *snapshots)
    for number, (first, second) in enumerate(places):
        seen = center_of_change(pictures[2 * number], pictures[2 * number + 1])
        eye = (first[0] + 5.0, first[1], first[2])
        assert seen == pytest.approx(pixel_of(second, eye, first, 45.0, 2), abs=2)


def test_a_snapshot_shows_what_newtons_ray_tracer_sees_of_the_state_itself(slot: PoolSlot) -> None:
    sensors: Any = pytest.importorskip("newton.sensors")
    if not hasattr(sensors, "SensorCamera"):
        pytest.skip("this Newton's ray tracer has another face")
    builder = sphere(0.5)
    builder.add_shape_box(-1, hx=0.2, hy=0.2, hz=0.6, xform=wp.transform((-0.4, 0.5, 0.0), wp.quat_identity()))
    model = builder.finalize(device="cpu")
    state = model.state()
    state.body_q.numpy()[0, :3] = (0.3, -0.2, 0.1)
    camera = Camera(eye=(3.0, 1.0, 1.0))
    backend = NewtonBackend(model, lambda: state, camera=camera, channel="depth", depth_range=(1.0, 5.0))
    (picture,) = draw_here(opened(backend), captured(backend, slot))
    sensor = sensors.SensorCamera(model)
    depth = sensor.allocate_image_depth_forward(1, WIDTH, HEIGHT)
    rays = sensors.SensorCamera.compute_camera_rays_pinhole(
        WIDTH, HEIGHT, camera_fov=math.radians(camera.fov), device=model.device
    )
    eye = wp.array([[*camera.eye, *camera.rotation(2)]], dtype=wp.transformf, device=model.device)
    model.bvh_refit_shapes(state)
    sensor.update(state, eye, rays, forward_depth_image=depth)
    assert (depth.numpy()[0] > 1.0).sum() > 500
    expected = depth_to_rgb(depth.numpy()[0], near=1.0, far=5.0)
    assert (np.abs(picture.astype(int) - expected).max(axis=2) > 2).mean() < 0.002
