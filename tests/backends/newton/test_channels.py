"""What the ray tracer shows besides colours."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

pytest.importorskip("newton")
pytest.importorskip("warp")

import newton
import warp as wp

from stepreel.backends.colour import depth_to_rgb
from stepreel.backends.newton import NewtonBackend, NewtonGlBackend, NewtonWarpBackend
from stepreel.backends.newton.renderer import WarpRenderer
from stepreel.capture.frame_pool import PoolSlot
from stepreel.errors import ConfigurationError

from ...memory import make_pool
from .scenes import HEIGHT, WIDTH, Pixels, backend_of, captured, draw_here, opened, pixel_of, sphere, worlds_of

pytestmark = [
    pytest.mark.newton,
    pytest.mark.timeout(300),  # Kernels compile in the first test that draws each channel.
]

EYE = (4.0, 0.0, 0.0)


@pytest.fixture
def slot() -> Iterator[PoolSlot]:
    with make_pool(2**20) as pool:
        yield pool.lease()


def boxes() -> newton.Model:
    """Two boxes side by side, 3 m and 1 m before the camera, whose front sides face it."""
    builder = newton.ModelBuilder()
    for place in ((0.9, 0.7, 0.0), (2.9, -0.2, 0.0)):
        body = builder.add_body(xform=wp.transform(place, wp.quat_identity()))
        builder.add_shape_box(body, hx=0.1, hy=0.15, hz=0.15)
    return builder.finalize(device="cpu")


def picture_of(model: newton.Model, slot: PoolSlot, **settings: Any) -> Pixels:
    backend = backend_of(model, eye=EYE, **settings)
    (picture,) = draw_here(opened(backend), captured(backend, slot))
    return picture


def at(picture: Pixels, point: tuple[float, float, float]) -> list[int]:
    x, y = pixel_of(point, EYE, (0.0, 0.0, 0.0), 45.0, 2)
    colour: list[int] = picture[int(y), int(x)].tolist()
    return colour


def test_depth_is_the_distance_from_the_cameras_plane_in_turbos_colours(slot: PoolSlot) -> None:
    picture = picture_of(boxes(), slot, channel="depth", depth_range=(0.5, 3.5))
    for point, depth in (((1.0, 0.7, 0.0), 3.0), ((3.0, -0.2, 0.0), 1.0), ((3.0, -0.3, 0.1), 1.0)):
        expected = depth_to_rgb(np.array([depth]), near=0.5, far=3.5)[0]
        assert at(picture, point) == pytest.approx(expected.tolist(), abs=3)
    assert picture[2, 2].tolist() == [0, 0, 0], "nothing was hit"


def test_the_default_depth_range_is_a_tenth_to_ten_metres(slot: PoolSlot) -> None:
    picture = picture_of(boxes(), slot, channel="depth")
    expected = depth_to_rgb(np.array([3.0]), near=0.1, far=10.0)[0]
    assert at(picture, (1.0, 0.7, 0.0)) == pytest.approx(expected.tolist(), abs=3)


def test_normals_are_directions_in_the_world(slot: PoolSlot) -> None:
    builder = newton.ModelBuilder()
    turned = wp.quat_from_axis_angle(wp.vec3(0.0, 0.0, 1.0), -0.5)
    builder.add_shape_box(builder.add_body(xform=wp.transform((0.0, 0.0, 0.0), turned)), hx=0.5, hy=0.5, hz=0.5)
    picture = picture_of(builder.finalize(device="cpu"), slot, channel="normals")
    normal = np.array([np.cos(0.5), -np.sin(0.5), 0.0])
    assert picture[HEIGHT // 2, WIDTH // 2].tolist() == pytest.approx(((normal + 1) * 127.5).tolist(), abs=2)
    assert picture[2, 2].tolist() == [0, 0, 0], "nothing was hit"


def test_segmentation_gives_every_shape_one_colour_and_no_other_the_same(slot: PoolSlot) -> None:
    model = worlds_of(sphere(0.4), 4)
    picture = picture_of(model, slot, channel="segmentation")
    colours, counts = np.unique(picture.reshape(-1, 3), axis=0, return_counts=True)
    assert (counts > 20).all(), "no shades, no blended edges"
    assert len(colours) == 6, "four balls, the ground and nothing"
    assert colours[0].tolist() == [0, 0, 0]
    apart = np.abs(colours[:, None].astype(int) - colours[None]).sum(axis=2)
    assert apart[~np.eye(6, dtype=bool)].min() > 60


def test_a_shape_keeps_its_colour_whatever_else_is_shown(slot: PoolSlot) -> None:
    model = worlds_of(sphere(0.4), 4, ground=False)
    alone = [
        np.unique(picture_of(model, slot, channel="segmentation", visible_worlds=[world]).reshape(-1, 3), axis=0)[1]
        for world in range(4)
    ]
    together = np.unique(picture_of(model, slot, channel="segmentation").reshape(-1, 3), axis=0)[1:]
    assert {tuple(colour) for colour in alone} == {tuple(colour) for colour in together}
    assert len(together) == 4


def test_particles_and_cloth_have_a_colour_each(slot: PoolSlot) -> None:
    builder = newton.ModelBuilder()
    builder.add_particles(pos=[(0.0, 0.9, 0.0)], vel=[(0.0, 0.0, 0.0)], mass=[1.0], radius=[0.3])
    builder.add_cloth_grid(
        pos=wp.vec3(0.0, -0.9, -0.4),
        rot=wp.quat_from_axis_angle(wp.vec3(0.0, 1.0, 0.0), -1.5),
        vel=wp.vec3(0.0),
        dim_x=4,
        dim_y=4,
        cell_x=0.2,
        cell_y=0.2,
        mass=0.1,
    )
    picture = picture_of(builder.finalize(device="cpu"), slot, channel="segmentation")
    left, right = (picture[HEIGHT // 4 : 3 * HEIGHT // 4, columns] for columns in (slice(0, 96), slice(96, None)))
    assert len(np.unique(left.reshape(-1, 3), axis=0)) == 2
    assert len(np.unique(right.reshape(-1, 3), axis=0)) == 2
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) == 3


def test_any_backend_but_the_viewers_takes_a_channel() -> None:
    model = boxes()
    for backend in (
        NewtonBackend(model, model.state, channel="depth"),
        NewtonBackend(model, model.state, channel="depth", renderer="warp"),
        NewtonWarpBackend(model, model.state, channel="depth"),
    ):
        capture_format = opened(backend)
        assert isinstance(capture_format.renderer, WarpRenderer)
        assert capture_format.details["channel"] == "depth"
        assert backend.name == "newton_warp"


def test_the_viewers_backend_draws_with_the_viewer_only() -> None:
    model = boxes()
    assert NewtonGlBackend(model, model.state).name == "newton_gl"
    with pytest.raises(ConfigurationError, match=r'^channel: got .depth. with renderer="gl"; allowed: rgb'):
        NewtonBackend(model, model.state, renderer="gl", channel="depth")


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("channel", "smell"),
        ("channel", None),
        ("depth_range", (3.0, 1.0)),
        ("depth_range", (1.0,)),
        ("depth_range", (0.1, float("inf"))),
        ("depth_range", "near"),
    ],
)
def test_a_channel_that_is_none_is_refused_at_construction(setting: str, value: Any) -> None:
    with pytest.raises(ConfigurationError, match=f"^{setting}: got .*; allowed: "):
        NewtonBackend(None, lambda: None, **{setting: value})
