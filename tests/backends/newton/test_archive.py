"""Newton's renderers as plain arrays: the same pictures from them; from anything else an error, and nothing worse."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytest.importorskip("newton")
pytest.importorskip("warp")

import newton
import warp as wp
from PIL import Image

from stepreel.backends import render_device
from stepreel.backends.archives import make_renderer
from stepreel.backends.camera import Camera
from stepreel.backends.newton import NewtonBackend
from stepreel.backends.newton.renderer import FallbackRenderer, GlRenderer, WarpRenderer
from stepreel.capture.frame_pool import PoolSlot
from stepreel.errors import BackendError, CaptureError
from stepreel.interfaces import ArchivableRenderer, CaptureFormat, RendererArchive

from ...memory import make_pool
from .scenes import (
    HEIGHT,
    WIDTH,
    Pixels,
    backend_of,
    both_renderers,
    captured,
    center_of_change,
    cloth,
    draw_here,
    moved,
    opened,
    pixel_of,
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


def everything() -> newton.Model:
    """Shapes of every kind in worlds, a textured mesh, cloth, free particles and a heightfield."""
    world = zoo()
    world.add_builder(cloth())
    world.add_particles(pos=[(0.0, 0.0, 2.0)], vel=[(0.0, 0.0, 0.0)], mass=[1.0], radius=[0.15])
    texture = np.zeros((4, 4, 3), dtype=np.uint8)
    texture[::2, ::2] = 255
    plate = newton.Mesh(
        np.array([(0, 0, 0), (1, 0, 0), (1, 1, 0), (0, 1, 0)], dtype=np.float32),
        np.array([0, 1, 2, 0, 2, 3]),
        uvs=np.array([(0, 0), (1, 0), (1, 1), (0, 1)], dtype=np.float32),
        texture=texture,
        compute_inertia=False,
    )
    world.add_shape_mesh(-1, mesh=plate, xform=wp.transform((0.0, 0.0, 0.3), wp.quat_identity()))
    scene = newton.ModelBuilder()
    scene.replicate(world, 2)
    heights = np.linspace(0.0, 0.3, 12).reshape(3, 4)
    scene.add_shape_heightfield(heightfield=newton.Heightfield(heights, 3, 4, hx=4.0, hy=4.0))
    return scene.finalize(device="cpu")


def archived(capture_format: CaptureFormat) -> RendererArchive:
    """The renderer's archive, as it comes back from a file."""
    assert isinstance(capture_format.renderer, ArchivableRenderer)
    archive = capture_format.renderer.to_archive()
    file = io.BytesIO()
    np.savez(file, **archive.arrays)  # type: ignore[arg-type]
    file.seek(0)
    with np.load(file, allow_pickle=False) as arrays:
        return RendererArchive(
            kind=archive.kind, arrays=dict(arrays), settings=json.loads(json.dumps(archive.settings))
        )


def drawn(renderer: Any, snapshot: Pixels) -> Pixels:
    renderer.open()
    try:
        picture: Pixels = renderer.render(snapshot).copy()
        return picture
    finally:
        renderer.close()


@both_renderers
@pytest.mark.parametrize("looks", [{}, {"tiles": (1, 2)}], ids=["side by side", "tiles"])
def test_a_renderer_made_again_draws_the_same(slot: PoolSlot, renderer: str, looks: dict[str, Any]) -> None:
    model = everything()
    backend = backend_of(model, moved(model), renderer=renderer, **looks)
    capture_format = opened(backend)
    snapshot = captured(backend, slot)
    (expected,) = draw_here(capture_format, snapshot)
    again = make_renderer(archived(capture_format))
    assert type(again) is type(capture_format.renderer)
    assert (drawn(again, snapshot) == expected).all()


def test_what_is_asked_for_comes_back() -> None:
    model = worlds_of(sphere(), 2)
    backend = NewtonBackend(model, model.state, camera=Camera, channel="depth", depth_range=(1.0, 3.0))
    spec = make_renderer(archived(opened(backend))).spec  # type: ignore[attr-defined]
    assert (spec.channel, spec.depth_range, spec.is_camera_captured) == ("depth", (1.0, 3.0), True)
    auto = make_renderer(archived(opened(backend_of(model))))
    assert isinstance(auto, FallbackRenderer | GlRenderer | WarpRenderer)
    assert (auto.spec.width, auto.spec.height) == (WIDTH, HEIGHT)


@both_renderers
@pytest.mark.parametrize("follows", [False, True], ids=["still", "following"])
def test_it_is_drawn_from_another_camera_and_in_another_size(slot: PoolSlot, renderer: str, follows: bool) -> None:
    model = sphere(0.2).finalize(device="cpu")
    state = model.state()
    recorded = Camera(eye=(4.0, 0.0, 0.0))
    backend = NewtonBackend(model, lambda: state, camera=(lambda: recorded) if follows else recorded, renderer=renderer)
    capture_format = opened(backend)
    state.body_q.numpy()[0, :3] = (0.5, 0.4, 0.3)
    snapshots = [captured(backend, slot)]
    state.body_q.numpy()[0, :3] = (0.0, -9.0, 0.0)
    snapshots.append(captured(backend, slot))
    eye, lookat = (1.0, -3.0, 2.0), (0.3, 0.0, 0.0)
    camera = Camera(eye=eye, lookat=lookat, fov=50.0)
    again = make_renderer(archived(capture_format), camera=camera, width=2 * WIDTH, height=2 * HEIGHT)
    again.open()
    picture, background = (again.render(snapshot).copy() for snapshot in snapshots)
    again.close()
    assert picture.shape == (2 * HEIGHT, 2 * WIDTH, 3)
    x, y = pixel_of((0.5, 0.4, 0.3), eye, lookat, 50.0, 2)
    # The lower side of a ball is dark in the ray tracer's light.
    assert center_of_change(picture, background) == pytest.approx((2 * x, 2 * y), abs=6)


def test_what_was_recorded_where_opengl_is_missing_may_be_drawn_with_it_elsewhere(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(render_device, "_LIBRARIES", ("libnowhere.so.1",))
    capture_format = opened(backend_of(worlds_of(sphere(), 1)))
    assert isinstance(capture_format.renderer, WarpRenderer)
    assert isinstance(make_renderer(archived(capture_format)), FallbackRenderer)


def test_a_texture_named_by_its_path_is_kept_as_pixels(slot: PoolSlot, tmp_path: Any) -> None:
    path = tmp_path / "texture.png"
    Image.fromarray(np.full((4, 4, 3), (250, 10, 10), dtype=np.uint8)).save(path)
    model = everything()
    for source in model.shape_source:
        if getattr(source, "texture", None) is not None:
            source.texture = str(path)
    archive = archived(opened(backend_of(model, renderer="warp")))
    textures = [array for name, array in archive.arrays.items() if name.endswith(".texture")]
    assert [texture.shape for texture in textures] == [(4, 4, 4)]
    assert (textures[0][0, 0] == (250, 10, 10, 255)).all()
    assert str(path) not in json.dumps(archive.settings)


def test_no_array_needs_unpickling() -> None:
    archive = archived(opened(backend_of(everything())))
    assert all(array.dtype.kind in "fiubU" for array in archive.arrays.values())


Damage = Callable[[dict[str, Any], dict[str, Any]], None]


def setting(name: str, value: Any) -> Damage:
    return lambda arrays, settings: settings.update({name: value})


def part(name: str, number: int, **values: Any) -> Damage:
    return lambda arrays, settings: settings[name][number].update(values)


def array(name: str, change: Callable[[Any], Any]) -> Damage:
    return lambda arrays, settings: arrays.update({name: change(arrays[name])})


def gone(name: str) -> Damage:
    return lambda arrays, settings: arrays.pop(name)


def with_one(value: Any) -> Callable[[Any], Any]:
    """A function that puts a value into the last place of a copy."""

    def change(values: Any) -> Any:
        changed = values.copy()
        changed.flat[-1] = value
        return changed

    return change


@pytest.fixture(scope="module")
def whole() -> RendererArchive:
    return archived(opened(backend_of(everything(), tiles=2)))


@pytest.mark.parametrize(
    "damage",
    [
        gone("scene0.bodies"),
        gone("body_names"),
        gone("tile1.body_rows"),
        gone("source0.vertices"),
        array("scene0.bodies", lambda values: values[:-1]),
        array("scene0.bodies", with_one(np.nan)),
        array("scene0.bodies", lambda values: values.astype(str)),
        array("scene0.shape_body", with_one(10**6)),
        array("scene0.shape_body", with_one(-2)),
        array("scene0.shape_source", with_one(99)),
        array("scene0.shape_source", lambda values: np.full_like(values, -1)),
        array("scene0.shape_type", with_one(11)),
        array("scene0.shape_type", lambda values: values.astype(np.float32)),
        array("scene0.shape_transform", lambda values: values[:, :3]),
        array("scene0.shape_number", with_one(-1)),
        array("scene0.triangles", with_one(10**6)),
        array("scene0.triangles", with_one(-1)),
        array("scene0.particle_drawn", lambda values: values.astype(np.int32)),
        array("source0.indices", with_one(10**6)),
        array("source0.indices", with_one(-1)),
        array("source0.indices", lambda values: values[:-1]),
        array("source0.vertices", lambda values: values[:3]),
        array("tile0.body_rows", with_one(10**6)),
        array("tile0.body_rows", with_one(-1)),
        array("tile0.body_rows", lambda values: values[1:]),
        array("tile0.particle_rows", with_one(10**6)),
        setting("width", 0),
        setting("width", -5),
        setting("height", 10**9),
        setting("height", "tall"),
        setting("renderer", "povray"),
        setting("channel", "smell"),
        setting("depth_range", [3, 1]),
        setting("grid", [0, 0]),
        setting("grid", [1, 1]),
        setting("grid", None),
        setting("up_axis", 3),
        setting("camera", {"eye": [0, 0, 0], "lookat": [0, 0, 0], "fov": 45}),
        setting("camera", None),
        setting("scenes", 7),
        setting("particle_count", 0),
        setting("particle_count", -1),
        setting("sources", []),
        setting("tiles", []),
        part("tiles", 0, scene=4),
        part("tiles", 0, scene=-1),
        part("tiles", 0, origin=[0, float("nan"), 0]),
        part("tiles", 0, origin=[0, 0]),
        part("sources", 0, kind="gaussian"),
        part("sources", 0, kind="heightfield"),
        part("sources", 0, texture_transform=[[1]]),
        part("sources", 0, roughness="rough"),
        part("scenes", 0, is_anchored=True),
    ],
)
def test_a_damaged_archive_is_refused(whole: RendererArchive, damage: Damage) -> None:
    arrays, values = dict(whole.arrays), json.loads(json.dumps(whole.settings))
    damage(arrays, values)
    with pytest.raises(BackendError, match="damaged"):
        make_renderer(replace(whole, arrays=arrays, settings=values))


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_an_archive_of_which_anything_was_changed_is_refused_or_whole(
    whole: RendererArchive, data: st.DataObject
) -> None:
    arrays, values = dict(whole.arrays), json.loads(json.dumps(whole.settings))
    for name in data.draw(st.lists(st.sampled_from(sorted(arrays)), max_size=3)):
        values_of = arrays[name]
        arrays[name] = data.draw(
            st.sampled_from(
                [values_of[:-1], values_of[:0], values_of.reshape(-1), values_of.astype(str), values_of[None]]
            )
        )
    junk = st.none() | st.integers() | st.floats() | st.text(max_size=3) | st.lists(st.integers(), max_size=3)
    for name in data.draw(st.lists(st.sampled_from(sorted(values)), max_size=2)):
        values[name] = data.draw(junk)
    try:
        renderer = make_renderer(replace(whole, arrays=arrays, settings=values))
    except BackendError:
        return
    assert isinstance(renderer, FallbackRenderer | GlRenderer | WarpRenderer)
    tiled_scene = renderer.spec.tiled_scene
    assert all(0 <= tile.scene < len(tiled_scene.scenes) for tile in tiled_scene.tiles)
    for scene in tiled_scene.scenes:
        assert scene.shape_body.max(initial=-1) < len(scene.bodies)
        assert scene.shape_source.max(initial=-1) < len(tiled_scene.sources)
        assert scene.triangles.max(initial=-1) < len(scene.particles)


@both_renderers
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_body_that_is_nowhere_costs_the_frame_and_is_named(slot: PoolSlot, renderer: str, value: float) -> None:
    world = newton.ModelBuilder()
    for label in ("cart", "pole"):
        world.add_shape_sphere(world.add_body(label=label), radius=0.1)
    model = worlds_of(world, 3, ground=False)
    state = model.state()
    backend = backend_of(model, state, renderer=renderer, visible_worlds=[0, 2])
    capture_format = opened(backend)
    state.body_q.numpy()[5, 2] = value
    nowhere = captured(backend, slot)
    state.body_q.numpy()[5, 2] = 0.5
    fine = captured(backend, slot)
    assert isinstance(capture_format.renderer, GlRenderer | WarpRenderer)
    capture_format.renderer.open()
    with pytest.raises(CaptureError, match=r"1 of 4 bodies are nowhere, the first body 5 \(.*pole.*\) of world 2: x=0"):
        capture_format.renderer.render(nowhere)
    assert capture_format.renderer.render(fine).shape == (HEIGHT, WIDTH, 3)
    capture_format.renderer.close()


def test_a_particle_that_is_nowhere_costs_the_frame(slot: PoolSlot) -> None:
    model = cloth().finalize(device="cpu")
    state = model.state()
    backend = backend_of(model, state, renderer="warp")
    capture_format = opened(backend)
    state.particle_q.numpy()[7] = np.nan
    with pytest.raises(CaptureError, match="1 of 49 particles are nowhere, the first in row 7"):
        draw_here(capture_format, captured(backend, slot))
