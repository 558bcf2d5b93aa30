"""Tiles: worlds apart from each other in one picture, each from the same camera."""

from __future__ import annotations

import math
import pickle
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

pytest.importorskip("newton")
pytest.importorskip("warp")

import newton
import warp as wp

from stepreel.backends.camera import Camera
from stepreel.backends.newton import NewtonBackend
from stepreel.backends.newton.render_spec import TILE_GAP, NewtonRenderSpec
from stepreel.backends.newton.renderer import FallbackRenderer, GlRenderer, WarpRenderer
from stepreel.backends.newton.worlds import Worlds
from stepreel.capture.frame_pool import PoolSlot
from stepreel.errors import BackendError, ConfigurationError
from stepreel.interfaces import CaptureFormat

from ...memory import make_pool
from .scenes import (
    HEIGHT,
    WIDTH,
    Pixels,
    assert_same_picture,
    backend_of,
    both_renderers,
    captured,
    center_of_change,
    draw_here,
    moved,
    needs_cuda,
    opened,
    sphere,
    worlds_of,
    zoo,
)

pytestmark = [
    pytest.mark.newton,
    pytest.mark.timeout(300),  # Kernels compile in the first test that draws.
    pytest.mark.filterwarnings("ignore:unclosed file .*icon_:ResourceWarning"),
]


@pytest.fixture
def slot() -> Iterator[PoolSlot]:
    with make_pool(2**20) as pool:
        yield pool.lease()


def spec_of(capture_format: CaptureFormat) -> NewtonRenderSpec:
    renderer = capture_format.renderer
    assert isinstance(renderer, GlRenderer | WarpRenderer | FallbackRenderer)
    return renderer.spec


def tiles_of(capture_format: CaptureFormat, picture: Pixels) -> list[Pixels]:
    return [picture[place] for place in spec_of(capture_format).tile_places()]


def posts(count: int, spacing: tuple[float, float, float] = (0.0, 0.0, 0.0)) -> newton.Model:
    """Worlds of one ball above a post that is fixed in the world."""
    world = newton.ModelBuilder()
    world.add_shape_sphere(
        world.add_body(xform=wp.transform((0.0, 0.0, 1.0), wp.quat_identity()), label="ball"), radius=0.35
    )
    world.add_shape_box(
        -1, hx=0.2, hy=0.2, hz=0.4, xform=wp.transform((0.0, 0.0, 0.4), wp.quat_identity()), color=(1.0, 0.2, 0.1)
    )
    scene = newton.ModelBuilder()
    scene.replicate(world, count, spacing=spacing)
    scene.add_ground_plane()
    return scene.finalize(device="cpu")


@both_renderers
def test_a_tile_is_the_picture_of_its_world_alone(slot: PoolSlot, renderer: str) -> None:
    model = worlds_of(zoo(), 4)
    state = moved(model)
    backend = backend_of(model, state, renderer=renderer, tiles=(1, 2), visible_worlds=[3, 1])
    capture_format = opened(backend)
    assert capture_format.details["tiles"] == [1, 2]
    assert capture_format.details["visible_worlds"] == [3, 1]
    (picture,) = draw_here(capture_format, captured(backend, slot))
    assert picture.shape == (HEIGHT, WIDTH, 3)
    width, height = spec_of(capture_format).tile_size
    assert (width, height) == ((WIDTH - TILE_GAP) // 2, HEIGHT)
    for tile, world in zip(tiles_of(capture_format, picture), (3, 1), strict=True):
        alone = backend_of(model, state, renderer=renderer, visible_worlds=[world])
        alone_format = alone.open(width=width, height=height, worker_device="auto")
        assert_same_picture(tile, draw_here(alone_format, captured(alone, slot))[0])


@both_renderers
def test_swapped_worlds_swap_their_tiles_and_a_falling_one_falls_in_its_own(slot: PoolSlot, renderer: str) -> None:
    model = posts(3)
    state = model.state()
    bodies = state.body_q.numpy()
    backend = backend_of(model, state, renderer=renderer, tiles=3, eye=(3.0, 0.5, 1.5), lookat=(0.0, 0.0, 0.7))
    capture_format = opened(backend)
    bodies[:, :3] = [(0.0, 0.8, 1.0), (0.0, 0.0, 1.6), (0.0, -0.8, 1.0)]
    before = captured(backend, slot)
    bodies[[0, 1]] = bodies[[1, 0]]
    swapped = captured(backend, slot)
    bodies[2, 2] = 0.4
    fallen = captured(backend, slot)
    first, second, third = (tiles_of(capture_format, one) for one in draw_here(capture_format, before, swapped, fallen))
    assert_same_picture(second[0], first[1])
    assert_same_picture(second[1], first[0])
    assert (second[2] == first[2]).all()
    assert (third[0] == second[0]).all()
    assert (third[1] == second[1]).all()
    changed = np.abs(third[2].astype(int) - second[2]).max(axis=2) > 25
    assert changed.sum() > 20
    rows = np.nonzero(changed)[0]
    assert rows.max() - rows.min() > 10, "it was higher before"


@both_renderers
def test_worlds_that_stand_apart_look_alike_from_a_camera_relative_to_their_origins(
    slot: PoolSlot, renderer: str
) -> None:
    together, apart = posts(4), posts(4, (5.0, 5.0, 0.0))
    origins = apart.body_q.numpy()[:, :3] - np.array([0.0, 0.0, 1.0])
    assert np.abs(origins).max() > 2
    looks: dict[str, Any] = {"renderer": renderer, "tiles": (2, 2), "lookat": (0.0, 0.0, 0.7), "eye": (2.0, 1.5, 1.5)}
    backends = [backend_of(together, **looks), backend_of(apart, **looks, world_origins=origins)]
    formats = [opened(backend) for backend in backends]
    assert [len(spec_of(capture_format).tiled_scene.scenes) for capture_format in formats] == [1, 1]
    pictures = [
        draw_here(capture_format, captured(backend, slot))[0]
        for capture_format, backend in zip(formats, backends, strict=True)
    ]
    difference = np.abs(pictures[0].astype(int) - pictures[1].astype(int))
    # The ground's chequers are where they are.
    for tile in tiles_of(formats[0], difference):
        upper = tile[: len(tile) // 2]
        assert (upper.max(axis=2) > 12).mean() < 0.02


@both_renderers
def test_worlds_of_different_shapes_have_tiles_of_their_own(slot: PoolSlot, renderer: str) -> None:
    scene = newton.ModelBuilder()
    for radius in (0.2, 0.5, 0.2):
        scene.add_world(sphere(radius))
    model = scene.finalize(device="cpu")
    backend = backend_of(model, renderer=renderer, tiles=(1, 3), eye=(3.0, 0.0, 0.0))
    capture_format = opened(backend)
    assert [tile.scene for tile in spec_of(capture_format).tiled_scene.tiles] == [0, 1, 0]
    shown = captured(backend, slot)
    hidden = shown.copy()
    hidden.view(np.float32).reshape(-1, 7)[:, 0] = 9.0
    picture, background = draw_here(capture_format, shown, hidden)
    differences = tiles_of(capture_format, np.abs(picture.astype(int) - background).max(axis=2, keepdims=True) > 25)
    small, large, again = (int(tile.sum()) for tile in differences)
    assert small == again
    assert large > 4 * small


@both_renderers
def test_a_following_camera_is_relative_to_every_tiles_world(slot: PoolSlot, renderer: str) -> None:
    model = worlds_of(sphere(0.2), 2, ground=False)
    state = model.state()

    def camera() -> Camera:
        x, y, z = state.body_q.numpy()[0, :3].tolist()
        return Camera(eye=(x + 3.0, y, z), lookat=(x, y, z))

    backend = NewtonBackend(model, lambda: state, camera=camera, renderer=renderer, tiles=(1, 2))
    capture_format = opened(backend)
    state.body_q.numpy()[:, :3] = [(0.0, 1.0, 2.0), (0.0, 1.5, 2.0)]
    shown = captured(backend, slot)
    hidden = shown.copy()
    hidden[:56].view(np.float32).reshape(-1, 7)[:, 0] = 9.0
    picture, background = draw_here(capture_format, shown, hidden)
    tiles = tiles_of(capture_format, picture)
    backgrounds = tiles_of(capture_format, background)
    width, height = spec_of(capture_format).tile_size
    followed = center_of_change(tiles[0], backgrounds[0])
    beside = center_of_change(tiles[1], backgrounds[1])
    assert followed == pytest.approx((width / 2, height / 2), abs=2)
    focal = height / 2 / math.tan(math.radians(45.0) / 2)
    # Half a metre to the left of what looks along -x is half a metre to the right in its picture.
    assert beside == pytest.approx((width / 2 + focal * 0.5 / 3.0, height / 2), abs=2)


@needs_cuda
def test_tiles_and_a_following_camera_of_a_cuda_model_are_those_of_the_same_model_on_the_cpu(slot: PoolSlot) -> None:
    scene = newton.ModelBuilder()
    scene.replicate(zoo(), 4)
    snapshots, pictures = [], []
    for device in ("cpu", "cuda:0"):
        model = scene.finalize(device=device)
        state = model.state()
        bodies = moved(scene.finalize(device="cpu")).body_q.numpy()
        state.body_q.assign(bodies)
        x, y, z = bodies[0, :3].tolist()
        camera = Camera(eye=(x + 5.0, y + 1.0, z + 2.0), lookat=(x, y, z))
        backend = backend_of(model, state, eye=None, camera=lambda camera=camera: camera, tiles=(2, 2), renderer="warp")
        capture_format = opened(backend)
        snapshots.append(captured(backend, slot))
        pictures += draw_here(capture_format, snapshots[-1])
    assert np.array_equal(snapshots[0], snapshots[1])
    assert np.array_equal(pictures[0], pictures[1])


def test_cells_without_a_tile_stay_dark(slot: PoolSlot) -> None:
    backend = backend_of(worlds_of(sphere(), 3), renderer="warp", tiles=3)
    capture_format = opened(backend)
    assert capture_format.details["tiles"] == [2, 2]
    (picture,) = draw_here(capture_format, captured(backend, slot))
    empty = picture[HEIGHT // 2 + TILE_GAP :, WIDTH // 2 + TILE_GAP :]
    assert empty.max() < 32
    assert (picture[: HEIGHT // 2 - TILE_GAP, : WIDTH // 2 - TILE_GAP] != empty[0, 0]).any(axis=2).all()


def test_worlds_that_are_copies_travel_once() -> None:
    one, many = (opened(backend_of(worlds_of(zoo(), 64), tiles=count)) for count in (1, 16))
    side_by_side = opened(backend_of(worlds_of(zoo(), 64)))
    sizes = [len(pickle.dumps(capture_format.renderer)) for capture_format in (one, many, side_by_side)]
    assert len(spec_of(many).tiled_scene.scenes) == 1
    assert sizes[1] - sizes[0] < 0.5 * (sizes[2] - sizes[0])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tiles": 0}, r"tiles: got 0; allowed: "),
        ({"tiles": True}, r"tiles: got True; allowed: "),
        ({"tiles": (2, 0)}, r"tiles: got \(2, 0\); allowed: "),
        ({"tiles": (1, 2, 3)}, r"tiles: got \(1, 2, 3\); allowed: "),
        ({"tiles": "all"}, r"tiles: got 'all'; allowed: "),
        ({"tiles": 5}, r"tiles: got 5; allowed: at most as many as worlds, 4"),
        ({"tiles": (2, 3)}, r"tiles: got \(2, 3\); allowed: at most as many as worlds, 4"),
        ({"tiles": 3, "visible_worlds": [0, 1]}, r"tiles: got 3; allowed: at most as many as worlds, 2"),
        ({"tiles": 2, "visible_worlds": [0, 1, 2]}, r"visible_worlds: got 3 of them; allowed: .*tiles=2 shows, 2"),
        ({"tiles": 2, "world_spacing": (1, 1, 0)}, r"world_spacing: got \(1, 1, 0\) beside tiles"),
        ({"world_origins": np.zeros((4, 3))}, r"world_origins: got some without tiles"),
        ({"tiles": 2, "world_origins": np.zeros((3, 3))}, r"world_origins: got 3 of them; .*each of the 4 worlds"),
        ({"tiles": 2, "world_origins": [(0, math.nan, 0)] * 4}, r"world_origins: got .*; allowed: "),
        ({"tiles": 2, "world_origins": "grid"}, r"world_origins: got 'grid'; allowed: "),
        ({"visible_worlds": "some"}, r"visible_worlds: got 'some'; allowed: "),
    ],
)
def test_what_can_not_be_shown_is_refused_at_construction(settings: dict[str, Any], message: str) -> None:
    model = worlds_of(sphere(), 4)
    with pytest.raises(ConfigurationError, match=message):
        NewtonBackend(model, model.state, **settings)


def test_worlds_that_the_model_has_not_are_refused_at_construction() -> None:
    model = worlds_of(sphere(), 2)
    with pytest.raises(BackendError, match=r"visible_worlds names \[-1, 2\], the model has 2 worlds"):
        NewtonBackend(model, model.state, visible_worlds=[0, 2, -1])


def test_tiles_too_small_to_see_are_refused() -> None:
    backend = backend_of(worlds_of(sphere(), 144), tiles=(12, 12))
    with pytest.raises(BackendError, match=r"tiles: 12 rows and 12 columns make tiles of 14x8 pixels .* 192x128"):
        opened(backend)


def test_all_worlds_and_a_single_one_can_be_asked_for() -> None:
    def chosen(**settings: Any) -> tuple[int, ...]:
        wish: dict[str, Any] = {"visible": None, "spacing": None, "tiles": None, "origins": None}
        return Worlds(**{**wish, **settings}).choose(40).worlds

    assert chosen() == tuple(range(16))
    assert chosen(visible="all") == tuple(range(40))
    assert chosen(visible=[7]) == (7,)
    assert chosen(visible=[7, 3, 7]) == (3, 7)
    assert chosen(visible=[7, 3, 7], tiles=2) == (7, 3)
    assert chosen(visible="all", tiles=(8, 5)) == tuple(range(40))
    assert chosen(tiles=20) == tuple(range(20))
