from __future__ import annotations

import math
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("newton")
pytest.importorskip("warp")

import newton
import warp as wp

from stepreel.backends import render_device
from stepreel.backends.camera import Camera
from stepreel.backends.newton import NewtonBackend
from stepreel.backends.newton.renderer import FallbackRenderer, GlRenderer, WarpRenderer
from stepreel.capture.frame_pool import FramePool, PoolSlot
from stepreel.clip import Snapshot
from stepreel.errors import (
    BackendError,
    CaptureError,
    ConfigurationError,
    RendererUnavailableError,
    StepreelError,
)

from ...memory import make_pool
from .scenes import (
    HEIGHT,
    REQUEST,
    WIDTH,
    Vector,
    assert_same_picture,
    backend_of,
    both_renderers,
    captured,
    center_of_change,
    cloth,
    draw_here,
    draw_in_worker,
    gl,
    moved,
    needs_cuda,
    needs_gl,
    opened,
    pixel_of,
    sphere,
    viewers_picture,
    worlds_of,
    zoo,
)

pytestmark = [
    pytest.mark.newton,
    pytest.mark.timeout(300),  # Kernels compile in the first test that draws.
    # Newton's viewer leaves its window icons to the garbage collector.
    pytest.mark.filterwarnings("ignore:unclosed file .*icon_:ResourceWarning"),
]


@pytest.fixture
def pool() -> Iterator[FramePool]:
    with make_pool(2**20) as pool:
        yield pool


@pytest.fixture
def slot(pool: FramePool) -> PoolSlot:
    return pool.lease()


@gl
@needs_gl
def test_a_snapshot_drawn_in_a_worker_is_the_picture_of_newtons_viewer(slot: PoolSlot, tmp_path: Path) -> None:
    model = worlds_of(zoo(), 3)
    states = [moved(model, step) for step in range(2)]
    current = iter([states[0], *states])
    backend = NewtonBackend(model, lambda: next(current), eye=(4.0, 4.0, 3.0), renderer="gl")
    capture_format = opened(backend)
    snapshots = [captured(backend, slot) for _ in states]
    assert backend.name == "newton_gl"
    pictures, name = draw_in_worker(capture_format, snapshots, tmp_path)
    assert name == "newton_gl"
    for picture, state in zip(pictures, states, strict=True):
        assert_same_picture(picture, viewers_picture(model, state))


@gl
@needs_gl
@pytest.mark.parametrize("up_axis", ["Z", "Y"])
def test_a_model_without_worlds_is_drawn_as_the_viewer_does(slot: PoolSlot, up_axis: str) -> None:
    builder = zoo(up_axis)
    builder.add_ground_plane()
    model = builder.finalize(device="cpu")
    state = moved(model)
    backend = backend_of(model, state, renderer="gl")
    (picture,) = draw_here(opened(backend), captured(backend, slot))
    assert_same_picture(picture, viewers_picture(model, state))


@gl
@needs_gl
def test_only_the_visible_worlds_are_drawn_side_by_side(slot: PoolSlot) -> None:
    model = worlds_of(zoo(), 6)
    state = moved(model)
    backend = backend_of(model, state, renderer="gl", visible_worlds=[4, 1, 5])
    capture_format = opened(backend)
    assert capture_format.nbytes == 28 * model.body_count // 2
    assert capture_format.details["visible_worlds"] == [1, 4, 5]
    (picture,) = draw_here(capture_format, captured(backend, slot))
    assert_same_picture(picture, viewers_picture(model, state, worlds=[1, 4, 5]))


@gl
@needs_gl
@pytest.mark.parametrize("world_spacing", [(0.0, 0.0, 0.0), (1.5, 2.0, 0.5)])
def test_worlds_stand_as_far_apart_as_asked_for(slot: PoolSlot, world_spacing: Vector) -> None:
    model = worlds_of(zoo(), 4)
    state = model.state()
    place = state.body_q.numpy()
    place[:, 0] += model.body_world.numpy()  # Apart already, as a simulation may have them.
    backend = backend_of(model, state, renderer="gl", visible_worlds=[1, 3], world_spacing=world_spacing)
    (picture,) = draw_here(opened(backend), captured(backend, slot))
    assert_same_picture(picture, viewers_picture(model, state, worlds=[1, 3], world_spacing=world_spacing))


@gl
@needs_gl
def test_triangles_between_particles_are_drawn_as_the_viewer_does(slot: PoolSlot) -> None:
    builder = cloth()
    builder.add_shape_sphere(builder.add_body(xform=wp.transform((0.0, 0.0, 1.2), wp.quat_identity())), radius=0.2)
    builder.add_ground_plane()
    model = builder.finalize(device="cpu")
    state = moved(model)
    backend = backend_of(model, state, renderer="gl")
    (picture,) = draw_here(opened(backend), captured(backend, slot))
    assert_same_picture(picture, viewers_picture(model, state))


@both_renderers
def test_particles_without_triangles_are_drawn_as_spheres(slot: PoolSlot, renderer: str) -> None:
    builder = newton.ModelBuilder()
    builder.add_particles(pos=[(0.0, 0.0, 0.0)], vel=[(0.0, 0.0, 0.0)], mass=[1.0], radius=[0.15])
    builder.add_particles(pos=[(0.5, 0.0, 0.0)], vel=[(0.0, 0.0, 0.0)], mass=[1.0], radius=[0.15], flags=[0])
    model = builder.finalize(device="cpu")
    state = model.state()
    backend = backend_of(model, state, renderer=renderer, eye=(0.0, -3.0, 0.0))
    capture_format = opened(backend)
    state.particle_q.assign(np.array([[0.2, 0.0, 0.3], [0.5, 0.0, 0.0]], dtype=np.float32))
    seen = captured(backend, slot)
    state.particle_q.assign(np.array([[0.0, -9.0, 0.0], [0.5, 0.0, 0.0]], dtype=np.float32))
    unseen = captured(backend, slot)
    picture, background = draw_here(capture_format, seen, unseen)
    expected = pixel_of((0.2, 0.0, 0.3), (0.0, -3.0, 0.0), (0.0, 0.0, 0.0), 45.0, 2)
    assert center_of_change(picture, background) == pytest.approx(expected, abs=2)


def test_cloth_stands_in_the_place_of_its_world() -> None:
    world = cloth()
    world.add_shape_box(world.add_body(), hx=0.5, hy=0.5, hz=0.5)
    renderer = opened(backend_of(worlds_of(world, 2), renderer="warp")).renderer
    assert isinstance(renderer, WarpRenderer)
    (scene,) = renderer.spec.tiled_scene.scenes
    particles = len(scene.particles) // 2
    assert scene.body_offsets[0].any()
    assert (scene.body_offsets[0] != scene.body_offsets[1]).any()
    assert (scene.particle_offsets[:particles] == scene.body_offsets[0]).all()
    assert (scene.particle_offsets[particles:] == scene.body_offsets[1]).all()
    assert scene.triangles[: len(scene.triangles) // 2].max() < particles
    assert not scene.particle_drawn.any()


@gl
@needs_gl
@pytest.mark.parametrize(
    ("up_axis", "eye", "lookat", "place"),
    [
        ("Z", (3.0, 2.0, 2.5), (0.2, 0.1, 0.4), (0.5, -0.4, 0.3)),
        ("Y", (-2.0, 1.5, 3.0), (0.0, 0.5, 0.0), (0.4, 0.6, -0.3)),
        ("X", (1.0, 3.0, -2.0), (0.3, 0.0, 0.0), (0.5, 0.3, 0.4)),
    ],
)
def test_both_renderers_show_a_body_where_the_camera_sees_it(
    slot: PoolSlot, up_axis: str, eye: Vector, lookat: Vector, place: Vector
) -> None:
    model = sphere(up_axis=up_axis).finalize(device="cpu")
    state = model.state()
    behind = [2 * at - to for at, to in zip(eye, lookat, strict=True)]
    found = {}
    for renderer in ("gl", "warp"):
        backend = backend_of(model, state, renderer=renderer, eye=eye, lookat=lookat, fov=50.0)
        capture_format = opened(backend)
        state.body_q.numpy()[0, :3] = place
        seen = captured(backend, slot)
        state.body_q.numpy()[0, :3] = behind
        picture, background = draw_here(capture_format, seen, captured(backend, slot))
        found[renderer] = center_of_change(picture, background)
    up = "XYZ".index(up_axis)
    assert found["gl"] == pytest.approx(pixel_of(place, eye, lookat, 50.0, up), abs=2)
    assert found["warp"] == pytest.approx(found["gl"], abs=2)


@both_renderers
def test_a_picture_changes_with_the_state_and_with_nothing_else(slot: PoolSlot, renderer: str) -> None:
    model = worlds_of(sphere(0.4), 2)
    state = model.state()
    backend = backend_of(model, state, renderer=renderer)
    capture_format = opened(backend)
    before = captured(backend, slot)
    again = captured(backend, slot)
    state.body_q.numpy()[1, 2] += 0.5
    after = captured(backend, slot)
    pictures = draw_here(capture_format, before, again, after, before)
    assert (pictures[0] == pictures[1]).all()
    assert (np.abs(pictures[0].astype(int) - pictures[2]) > 25).sum() > 50
    assert (pictures[0] == pictures[3]).all()


@both_renderers
def test_a_cloth_and_a_heightfield_are_drawn_by_both_renderers(slot: PoolSlot, renderer: str) -> None:
    builder = cloth()
    heights = np.linspace(0.0, 0.3, 12).reshape(3, 4)
    builder.add_shape_heightfield(heightfield=newton.Heightfield(heights, 3, 4, hx=1.0, hy=1.0))
    model = builder.finalize(device="cpu")
    state = model.state()
    backend = backend_of(model, state, renderer=renderer, eye=(0.0, -3.0, 2.0))
    capture_format = opened(backend)
    seen = captured(backend, slot)
    state.particle_q.numpy()[:, 1] -= 9.0
    unseen = captured(backend, slot)
    picture, background = draw_here(capture_format, seen, unseen)
    changed = (np.abs(picture.astype(int) - background).max(axis=2) > 12).mean()
    assert 0.03 < changed < 0.6
    assert background.std() > 2


@gl
@needs_gl
def test_renderers_of_one_process_take_turns(slot: PoolSlot) -> None:
    formats, snapshots = [], []
    for count in (1, 2):
        model = worlds_of(zoo(), count)
        backend = backend_of(model, moved(model), renderer="gl")
        formats.append(opened(backend))
        snapshots.append(captured(backend, slot))
    alone = [draw_here(one, snapshot)[0] for one, snapshot in zip(formats, snapshots, strict=True)]
    renderers = [one.renderer for one in formats if one.renderer is not None]
    for renderer in renderers:
        renderer.open()
    for _ in range(2):
        for renderer, snapshot, expected in zip(renderers, snapshots, alone, strict=True):
            assert_same_picture(renderer.render(snapshot), expected)
    renderers.pop(0).close()
    assert_same_picture(renderers[0].render(snapshots[1]), alone[1])
    renderers[0].close()


def test_the_ray_tracer_draws_in_a_worker_where_opengl_does_not_open(slot: PoolSlot, tmp_path: Path) -> None:
    model = worlds_of(zoo(), 2)
    backend = backend_of(model, moved(model))
    capture_format = opened(backend)
    snapshot = captured(backend, slot)
    nowhere = {"__EGL_VENDOR_LIBRARY_FILENAMES": str(tmp_path / "no-driver.json")}
    if not isinstance(capture_format.renderer, FallbackRenderer):
        pytest.skip("OpenGL was ruled out before a worker was needed to tell")
    pictures, name = draw_in_worker(capture_format, [snapshot], tmp_path, nowhere)
    assert name == "newton_warp"
    assert pictures.shape == (1, HEIGHT, WIDTH, 3)
    assert pictures.std() > 10


def test_a_large_model_sends_the_worker_only_what_is_drawn() -> None:
    few, many = (opened(backend_of(worlds_of(zoo(), count))) for count in (16, 300))
    assert many.nbytes == few.nbytes
    assert many.details["worlds"] == 300
    assert many.details["visible_worlds"] == list(range(16))
    assert len(pickle.dumps(many.renderer)) < 1.02 * len(pickle.dumps(few.renderer))


def test_a_snapshot_holds_the_bodies_of_the_visible_worlds_in_order(slot: PoolSlot) -> None:
    model = worlds_of(zoo(), 5)
    state = moved(model)
    backend = backend_of(model, state, visible_worlds=[0, 2, 3])
    opened(backend)
    bodies = captured(backend, slot).view(np.float32).reshape(-1, 7)
    expected = np.flatnonzero(np.isin(model.body_world.numpy(), [0, 2, 3]))
    assert (bodies == state.body_q.numpy()[expected]).all()


def test_every_capture_reads_the_state_that_is_current_then(slot: PoolSlot) -> None:
    model = worlds_of(sphere(), 2)
    states = [moved(model, step) for step in range(20)]
    step = 0
    backend = NewtonBackend(model, lambda: states[step])
    opened(backend)
    for step in [0, 1, 0, 1, *range(20)]:
        states[step].body_q.numpy()[:, 0] += 1.0
        assert (captured(backend, slot).view(np.float32) == states[step].body_q.numpy().reshape(-1)).all()


@both_renderers
def test_a_following_camera_keeps_in_the_middle_what_it_follows(slot: PoolSlot, renderer: str) -> None:
    builder = sphere(0.2)
    builder.add_shape_box(-1, hx=0.1, hy=0.1, hz=0.1, xform=wp.transform((0.0, 0.0, -9.0), wp.quat_identity()))
    model = builder.finalize(device="cpu")
    state = model.state()

    def beside() -> Camera:
        x, y, z = state.body_q.numpy()[0, :3].tolist()
        return Camera(eye=(x - 3.0, y, z), lookat=(x, y, z), fov=40.0)

    backend = NewtonBackend(model, lambda: state, camera=beside, renderer=renderer)
    capture_format = opened(backend)
    assert capture_format.nbytes == 28 + 28
    assert capture_format.details["camera_follows"]
    snapshots = []
    for place in ((0.0, 0.0, 0.0), (5.0, -2.0, 1.0)):
        state.body_q.numpy()[0, :3] = place
        snapshots.append(captured(backend, slot))
    # The body where it was, and the camera where it is now: out of the picture.
    gone = np.concatenate([snapshots[0][:28], snapshots[1][28:]])
    first, second, background = draw_here(capture_format, *snapshots, gone)
    for picture in (first, second):
        assert center_of_change(picture, background) == pytest.approx((WIDTH / 2, HEIGHT / 2), abs=2)


@pytest.mark.parametrize("answer", [None, (1.0, 2.0, 3.0), ZeroDivisionError()])
def test_a_camera_function_that_tells_no_camera_costs_the_frame(slot: PoolSlot, answer: object) -> None:
    model = worlds_of(sphere(), 2)
    answers: list[object] = [Camera(), answer, Camera()]

    def camera() -> Camera:
        told = answers.pop(0)
        if isinstance(told, Exception):
            raise told
        return told  # type: ignore[return-value]

    backend = NewtonBackend(model, model.state, camera=camera)
    opened(backend)
    with pytest.raises((CaptureError, ZeroDivisionError)):
        backend.capture(REQUEST, slot)
    assert len(captured(backend, slot)) == 56 + 28


def test_a_camera_function_that_tells_no_camera_before_training_is_refused() -> None:
    model = worlds_of(sphere(), 2)
    with pytest.raises(BackendError, match=r"called the camera function once .* returned None"):
        opened(NewtonBackend(model, model.state, camera=lambda: None))  # type: ignore[arg-type]


@both_renderers
def test_a_captured_camera_that_is_none_costs_the_frame(slot: PoolSlot, renderer: str) -> None:
    model = worlds_of(sphere(), 2)
    backend = NewtonBackend(model, model.state, camera=Camera, renderer=renderer)
    capture_format = opened(backend)
    broken = captured(backend, slot)
    broken.view(np.float32)[-7:] = np.nan
    with pytest.raises(StepreelError, match=r"eye: got .*nan"):
        draw_here(capture_format, broken)


def test_a_state_of_another_model_costs_the_frame(slot: PoolSlot) -> None:
    model, other = worlds_of(sphere(), 2), worlds_of(sphere(), 3)
    states: list[Any] = [model.state(), other.state(), None, model.state()]
    backend = NewtonBackend(model, lambda: states.pop(0))
    opened(backend)
    with pytest.raises(CaptureError, match=r"state\.body_q has 3 rows, the model 2"):
        backend.capture(REQUEST, slot)
    with pytest.raises(CaptureError, match="get_state returned NoneType"):
        backend.capture(REQUEST, slot)
    assert len(captured(backend, slot)) == 56


def test_a_state_of_another_model_is_refused_before_training_starts() -> None:
    model, other = worlds_of(sphere(), 2), worlds_of(sphere(), 3)
    with pytest.raises(BackendError, match="called get_state once"):
        opened(NewtonBackend(model, other.state))


def test_a_capture_before_open_and_after_close_is_refused(slot: PoolSlot) -> None:
    backend = backend_of(worlds_of(sphere(), 2))
    with pytest.raises(CaptureError, match="not open"):
        backend.capture(REQUEST, slot)
    opened(backend)
    captured(backend, slot)
    backend.close()
    with pytest.raises(CaptureError, match="not open"):
        backend.capture(REQUEST, slot)


def test_a_model_without_a_visible_shape_is_refused() -> None:
    builder = newton.ModelBuilder()
    builder.add_shape_sphere(builder.add_body(), radius=1.0, cfg=newton.ModelBuilder.ShapeConfig(is_visible=False))
    with pytest.raises(BackendError, match="none of 1 shapes visible; give a shape"):
        opened(backend_of(builder.finalize(device="cpu")))


def test_worlds_that_the_model_has_not_are_refused() -> None:
    with pytest.raises(BackendError, match=r"visible_worlds names \[-1, 2\], the model has 2 worlds"):
        opened(backend_of(worlds_of(sphere(), 2), visible_worlds=[0, 2, -1]))


def test_something_else_than_a_model_is_refused() -> None:
    with pytest.raises(BackendError, match=r"looked for a newton\.Model, got ModelBuilder"):
        opened(NewtonBackend(sphere(), lambda: None))


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("renderer", "opengl"),
        ("steps_per_second", 0),
        ("steps_per_second", math.nan),
        ("steps_per_second", "60"),
        ("visible_worlds", []),
        ("visible_worlds", [0.5]),
        ("visible_worlds", 3),
        ("world_spacing", (1.0, 1.0)),
        ("world_spacing", (-1.0, 0.0, 0.0)),
        ("world_spacing", (0.0, math.inf, 0.0)),
        ("eye", (0.0, math.nan, 0.0)),
        ("eye", (0.0, 0.0, 0.0)),
        ("fov", 0),
        ("camera", "above"),
    ],
)
def test_a_setting_that_can_not_work_is_refused_at_construction(setting: str, value: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"got .*; allowed: "):
        NewtonBackend(None, lambda: None, **{setting: value})


@pytest.mark.skipif(wp.get_cuda_device_count() > 0, reason="there is a CUDA device here")
def test_a_gpu_that_is_not_there_is_refused() -> None:
    backend = backend_of(worlds_of(sphere(), 1))
    with pytest.raises(BackendError, match="worker_device asks for cuda:0, Warp sees 0 CUDA devices"):
        backend.open(width=None, height=None, worker_device="cuda")


def test_opengl_without_its_libraries_is_refused_or_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(render_device, "_LIBRARIES", ("libnowhere.so.1",))
    model = worlds_of(sphere(), 1)
    with pytest.raises(RendererUnavailableError, match=r"gl: libnowhere\.so\.1 can't be loaded .* install EGL"):
        opened(backend_of(model, renderer="gl"))
    backend = backend_of(model, renderer="auto")
    assert isinstance(opened(backend).renderer, WarpRenderer)
    assert backend.name == "newton_warp"


def test_the_format_says_what_is_recorded() -> None:
    model = worlds_of(sphere(), 2)
    backend = backend_of(model, steps_per_second=200, fov=60.0)
    capture_format = backend.open(width=None, height=None, worker_device="cpu")
    assert (capture_format.width, capture_format.height) == (1280, 720)
    assert capture_format.steps_per_second == 200.0
    assert capture_format.nbytes == 56
    assert capture_format.worker_environment["CUDA_VISIBLE_DEVICES"] == ""
    assert capture_format.details == {
        "camera": {"eye": [4.0, 4.0, 3.0], "lookat": [0.0, 0.0, 0.0], "fov": 60.0},
        "camera_follows": False,
        "renderer": backend.name,
        "channel": "rgb",
        "worlds": 2,
        "visible_worlds": [0, 1],
        "tiles": None,
        "shapes": 3,
        "bodies": 2,
        "particles": 0,
        "model_device": "cpu",
        "draws_on": "cpu",
    }


@both_renderers
def test_a_snapshot_of_another_size_is_refused_by_the_renderer(renderer: str) -> None:
    capture_format = opened(backend_of(worlds_of(sphere(), 2), renderer=renderer))
    assert isinstance(capture_format.renderer, GlRenderer | WarpRenderer)
    with pytest.raises(StepreelError, match="a snapshot of this scene has 56 bytes, got 28"):
        draw_here(capture_format, np.zeros(28, dtype=np.uint8))


@needs_cuda
def test_snapshots_of_a_cuda_model_come_whole_and_unmixed_without_a_wait_between_them(pool: FramePool) -> None:
    scene = newton.ModelBuilder()
    scene.replicate(zoo(), 4)
    model = scene.finalize(device="cuda:0")
    state = model.state()
    backend = NewtonBackend(model, lambda: state, visible_worlds=[0, 2, 3])
    capture_format = opened(backend)
    assert capture_format.nbytes is not None
    rows = np.flatnonzero(np.isin(model.body_world.numpy(), [0, 2, 3]))
    with wp.ScopedCapture(device="cuda:0") as capture:
        wp.launch(_lift, dim=model.body_count, inputs=[state.body_q], device="cuda:0")
    start = model.body_q.numpy()
    slots = [pool.lease() for _ in range(8)]
    pending = []
    for slot in slots:
        wp.capture_launch(capture.graph)
        pending.append(backend.capture(REQUEST, slot))
    for number, (slot, snapshot) in enumerate(zip(slots, pending, strict=True), start=1):
        assert not isinstance(snapshot, Snapshot)
        whole = snapshot.wait()
        assert snapshot.poll() == whole
        expected = start[rows]
        expected[:, 2] += number
        assert slot.array(capture_format.nbytes).view(np.float32).reshape(-1, 7) == pytest.approx(expected, abs=1e-5)


@wp.kernel  # type: ignore[untyped-decorator]
def _lift(bodies: wp.array(dtype=wp.transformf)):  # type: ignore[no-untyped-def, valid-type]
    row = wp.tid()
    up = wp.transformf(wp.vec3f(0.0, 0.0, 1.0), wp.quatf(0.0, 0.0, 0.0, 1.0))
    bodies[row] = wp.transform_multiply(up, bodies[row])  # type: ignore[arg-type]
