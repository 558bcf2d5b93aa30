"""MuJoCo simulations by snapshots: what is captured, and that the worker's picture is what `render()` shows."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("mujoco")

import gymnasium
import mujoco
from gymnasium.envs.mujoco.mujoco_rendering import OffScreenViewer

from stepreel import ClipState, DropCause, Recorder, RecorderConfig
from stepreel.backends.archives import make_renderer
from stepreel.backends.camera import Camera
from stepreel.backends.gymnasium import GymnasiumBackend, choose_backend
from stepreel.backends.mujoco import MujocoBackend
from stepreel.backends.mujoco import renderer as mujoco_renderer
from stepreel.backends.mujoco.renderer import MujocoRenderer, gl_environment
from stepreel.backends.render_device import RenderDevice, choose_render_device
from stepreel.capture.frame_pool import PoolSlot
from stepreel.clip import CaptureRequest, ClipRequest
from stepreel.errors import BackendError, CaptureError, ConfigurationError, RendererUnavailableError
from stepreel.interfaces import ArchivableRenderer, Backend, CaptureFormat, RendererArchive
from stepreel.rendering import render_clip

from ...memory import make_pool

Pixels = NDArray[np.uint8]
Point = tuple[float, float, float]
Env = gymnasium.Env[Any, Any]

WIDTH, HEIGHT = 160, 120
REQUEST = CaptureRequest(
    clip=ClipRequest(name="clip", stream="default", start_step=0, frame_stride=1, clip_index=0), step=0, pts=0
)

BALL = """
<mujoco>
  <visual><headlight ambient="1 1 1" diffuse="0 0 0" specular="0 0 0"/></visual>
  <worldbody>
    <camera name="front" pos="0 -4 1" xyaxes="1 0 0 0 0 1" fovy="40"/>
    <camera name="above" pos="0 0 6" fovy="30"/>
    <geom name="pad" type="box" size=".1 .1 .1" pos="0 0 -50" rgba="0 0 1 1"/>
    <body name="ball"><freejoint/><geom type="sphere" size="0.1" rgba="1 0 0 1"/></body>
    <body name="marker" mocap="true" pos="0 5 -50"><geom type="box" size=".2 .2 .2" rgba="0 1 0 1"/></body>
  </worldbody>
</mujoco>
"""
RED, GREEN, BLUE = range(3)
CAMERA = Camera(eye=(3.0, -2.0, 2.5), lookat=(0.2, 0.1, 0.4), fov=50.0)

pytestmark = pytest.mark.mujoco
gl = pytest.mark.gl
needs_gl = pytest.mark.skipif(
    choose_render_device("cpu", None).opengl_problem is not None, reason="no EGL that draws on the CPU here"
)


@pytest.fixture
def slot() -> Iterator[PoolSlot]:
    with make_pool(2**20) as pool:
        yield pool.lease()


@pytest.fixture
def egl(monkeypatch: pytest.MonkeyPatch) -> None:
    """Has Gymnasium's viewer draw without a window."""
    monkeypatch.setenv("MUJOCO_GL", "egl")


@pytest.fixture
def make_env(egl: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[..., Env]]:
    """Makes environments, and closes them."""
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
    """Return the pictures that the renderer draws, sent as to a worker."""
    renderer = pickle.loads(pickle.dumps(described.renderer))
    assert isinstance(renderer, MujocoRenderer)
    renderer.open()
    try:
        return [renderer.render(snapshot).copy() for snapshot in snapshots]
    finally:
        renderer.close()


def place(model: Any, data: Any, ball: Point) -> None:
    data.qpos[:3] = ball
    mujoco.mj_forward(model, data)


def shows(picture: Pixels, channel: int) -> NDArray[np.bool_]:
    """Return which pixels have nothing but one colour, shape `[height, width]`."""
    values = picture.astype(int)
    others = values.sum(axis=2) - values[..., channel]
    return np.asarray((values[..., channel] > 120) & (others < 60))


def place_on(picture: Pixels, channel: int) -> tuple[float, float]:
    """Return the middle of what has nothing but one colour [pixels from the left, from the top]."""
    rows, columns = np.nonzero(shows(picture, channel))
    assert len(rows)
    return float(columns.mean()) + 0.5, float(rows.mean()) + 0.5


def projected(point: Point, camera: Camera, width: int = WIDTH, height: int = HEIGHT) -> tuple[float, float]:
    """Return where an upright pinhole camera sees a point [pixels from the left, from the top]."""
    eye = np.array(camera.eye)
    forward = np.array(camera.lookat) - eye
    forward /= np.linalg.norm(forward)
    right = np.cross(forward, (0.0, 0.0, 1.0))
    right /= np.linalg.norm(right)
    ray = np.array(point) - eye
    scale = height / 2 / np.tan(np.radians(camera.fov) / 2) / float(ray @ forward)
    return width / 2 + scale * float(ray @ right), height / 2 - scale * float(ray @ np.cross(right, forward))


def rendered(model: Any, data: Any, camera_id: int) -> Pixels:
    """Return the picture that Gymnasium's viewer draws of a camera of the model, on this thread."""
    viewer = OffScreenViewer(model, data, WIDTH, HEIGHT)
    picture = np.array(viewer.render("rgb_array", camera_id=camera_id), np.uint8)
    viewer.free()  # type: ignore[no-untyped-call]
    return picture


# The picture is that of render().


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
    snapshots, pictures = [], []
    for _ in range(2):
        for _ in range(5):
            env.step(env.action_space.sample())
        mujoco.mj_forward(unwrapped.model, unwrapped.data)
        snapshots.append(snapshot_of(backend, slot))
        pictures.append(np.asarray(env.render()))
    np.testing.assert_array_equal(drawn(described, *snapshots), pictures)
    assert not np.array_equal(pictures[0], pictures[1])


@gl
@needs_gl
@pytest.mark.parametrize(
    "arguments",
    [
        {"camera_name": "track"},
        {"camera_id": 0},
        {"default_camera_config": {"azimuth": 40.0, "elevation": -10.0, "distance": 6.0, "lookat": np.ones(3)}},
        {"visual_options": {mujoco.mjtVisFlag.mjVIS_JOINT: True, mujoco.mjtVisFlag.mjVIS_INERTIA: True}},
        {"max_geom": 4},
    ],
    ids=lambda arguments: "-".join(arguments),
)
def test_what_the_environment_is_told_of_its_pictures_holds_for_snapshots(
    make_env: Callable[..., Env], slot: PoolSlot, arguments: dict[str, Any]
) -> None:
    pictures = []
    for told in (arguments, {}):
        env = make_env("Ant-v5", **told)
        backend = MujocoBackend(env)
        (picture,) = drawn(opened(backend), snapshot_of(backend, slot))
        np.testing.assert_array_equal(picture, np.asarray(env.render()))
        pictures.append(picture)
    assert not np.array_equal(pictures[0], pictures[1])


@gl
@needs_gl
def test_contacts_are_drawn_where_the_environment_draws_them(make_env: Callable[..., Env], slot: PoolSlot) -> None:
    env = make_env("Ant-v5", visual_options={mujoco.mjtVisFlag.mjVIS_CONTACTPOINT: True})
    unwrapped: Any = env.unwrapped
    backend = MujocoBackend(env)
    described = opened(backend)
    for _ in range(40):
        env.step(np.zeros(8, np.float32))
    mujoco.mj_forward(unwrapped.model, unwrapped.data)
    assert unwrapped.data.ncon > 0
    (picture,) = drawn(described, snapshot_of(backend, slot))
    np.testing.assert_array_equal(picture, np.asarray(env.render()))


@gl
@needs_gl
def test_a_viewer_that_the_user_moved_is_where_pictures_are_taken_from(
    make_env: Callable[..., Env], slot: PoolSlot
) -> None:
    env = make_env("InvertedPendulum-v5")
    before = np.array(env.render())
    unwrapped: Any = env.unwrapped
    unwrapped.mujoco_renderer.viewer.cam.azimuth = 33.0
    backend = MujocoBackend(env)
    (picture,) = drawn(opened(backend), snapshot_of(backend, slot))
    np.testing.assert_array_equal(picture, np.asarray(env.render()))
    assert not np.array_equal(picture, before)


@gl
@needs_gl
@pytest.mark.parametrize(("camera", "number"), [("front", 0), ("above", 1), (1, 1)])
@pytest.mark.usefixtures("egl")
def test_a_camera_of_the_model_is_drawn_as_on_the_training_thread(
    slot: PoolSlot, camera: str | int, number: int
) -> None:
    model, data = simulation()
    backend = MujocoBackend(model, data, camera=camera)
    described = opened(backend, width=WIDTH, height=HEIGHT)
    place(model, data, (0.3, 0.2, 1.1))
    (picture,) = drawn(described, snapshot_of(backend, slot))
    np.testing.assert_array_equal(picture, rendered(model, data, camera_id=number))
    assert shows(picture, RED).any()


# Things are where the camera model puts them.


@gl
@needs_gl
@pytest.mark.parametrize("ball", [(0.0, 0.0, 0.0), (0.6, -0.3, 0.5), (-0.8, 0.9, 1.0)])
def test_a_thing_appears_where_the_camera_model_puts_it(slot: PoolSlot, ball: Point) -> None:
    model, data = simulation()
    backend = MujocoBackend(model, data, camera=CAMERA)
    described = opened(backend, width=640, height=360)
    place(model, data, ball)
    (picture,) = drawn(described, snapshot_of(backend, slot))
    assert place_on(picture, RED) == pytest.approx(projected(ball, CAMERA, 640, 360), abs=1.0)


@gl
@needs_gl
def test_a_camera_that_looks_straight_down_stays_where_it_is(slot: PoolSlot) -> None:
    model, data = simulation()
    place(model, data, (0.0, 0.0, 1.0))
    backend = MujocoBackend(model, data, camera=Camera(eye=(0.0, 0.0, 5.0), lookat=(0.0, 0.0, 0.0), fov=30.0))
    (picture,) = drawn(opened(backend, width=WIDTH, height=HEIGHT), snapshot_of(backend, slot))
    # It looks at most 89 degrees down; 4 m below the eye one degree is 0.07 m, of 2.14 m in the picture.
    assert place_on(picture, RED) == pytest.approx((WIDTH / 2, HEIGHT / 2 + 0.07 / 2.14 * HEIGHT), abs=1.0)


@gl
@needs_gl
def test_a_camera_of_mujoco_is_read_at_every_capture(slot: PoolSlot) -> None:
    model, data = simulation()
    camera = mujoco.MjvCamera()
    camera.type, camera.trackbodyid = mujoco.mjtCamera.mjCAMERA_TRACKING, 1
    backend = MujocoBackend(model, data, camera=camera)
    described = opened(backend, width=WIDTH, height=HEIGHT)
    snapshots = []
    for distance, ball in ((2.0, (5.0, 2.0, 1.0)), (4.0, (-7.0, 3.0, 0.5))):
        camera.distance = distance
        place(model, data, ball)
        snapshots.append(snapshot_of(backend, slot))
    near, far = drawn(described, *snapshots)
    for picture in (near, far):
        assert place_on(picture, RED) == pytest.approx((WIDTH / 2, HEIGHT / 2), abs=1.0)
    assert shows(near, RED).sum() > 2 * shows(far, RED).sum()


@gl
@needs_gl
def test_a_camera_that_follows_is_asked_at_every_capture(slot: PoolSlot) -> None:
    model, data = simulation()
    cameras = [Camera(eye=(4.0, 0.0, 2.0), fov=30.0), Camera(eye=(0.0, -5.0, 1.0), lookat=(1.0, 0.0, 0.0), fov=60.0)]
    asked = iter(cameras)
    backend = MujocoBackend(model, data, camera=lambda: next(asked))
    described = opened(backend, width=WIDTH, height=HEIGHT)
    place(model, data, (0.5, 0.4, 0.3))
    pictures = drawn(described, snapshot_of(backend, slot), snapshot_of(backend, slot))
    for camera, picture in zip(cameras, pictures, strict=True):
        assert place_on(picture, RED) == pytest.approx(projected((0.5, 0.4, 0.3), camera), abs=1.0)


def test_a_camera_function_that_returns_something_else_costs_the_frame(slot: PoolSlot) -> None:
    backend = MujocoBackend(*simulation(), camera=lambda: (1.0, 2.0, 3.0))
    opened(backend)
    with pytest.raises(CaptureError, match=r"camera function returned \(1.0, 2.0, 3.0\)"):
        backend.capture(REQUEST, slot)


@gl
@needs_gl
def test_groups_are_drawn_as_the_scene_option_says(slot: PoolSlot) -> None:
    model, data = simulation(BALL.replace('size="0.1"', 'size="0.1" group="3"'))
    option = mujoco.MjvOption()
    option.geomgroup[3] = 1
    pictures = []
    for scene_option in (None, option):
        backend = MujocoBackend(model, data, camera=CAMERA, scene_option=scene_option)
        pictures += drawn(opened(backend, width=WIDTH, height=HEIGHT), snapshot_of(backend, slot))
    hidden, shown = pictures
    assert not shows(hidden, RED).any()
    assert shows(shown, RED).any()


@gl
@needs_gl
def test_what_a_task_changes_in_the_model_is_seen_and_taken_back(slot: PoolSlot) -> None:
    model, data = simulation()
    backend = MujocoBackend(model, data, camera="front")
    described = opened(backend, width=WIDTH, height=HEIGHT)
    place(model, data, (0.0, 0.0, 1.0))
    pad, ball = model.geom("pad"), model.geom(1)
    before = snapshot_of(backend, slot)
    pad.pos[:], ball.rgba[:] = (0.5, 0.0, 1.0), (1.0, 1.0, 0.0, 1.0)
    changed = snapshot_of(backend, slot)
    pad.pos[:], ball.rgba[:] = (0.0, 0.0, -50.0), (1.0, 0.0, 0.0, 1.0)
    after = snapshot_of(backend, slot)
    assert before.nbytes == after.nbytes < changed.nbytes
    first, moved, again = drawn(described, before, changed, after)
    assert place_on(moved, BLUE)[0] > WIDTH / 2 + 10
    assert not shows(first, BLUE).any()
    assert moved[HEIGHT // 2, WIDTH // 2].tolist() == pytest.approx([255, 255, 0], abs=5)
    np.testing.assert_array_equal(first, again)


@gl
@needs_gl
def test_bodies_that_sleep_are_drawn_where_they_are(slot: PoolSlot) -> None:
    if not hasattr(mujoco.mjtEnableBit, "mjENBL_SLEEP"):
        pytest.skip("this MuJoCo lets nothing sleep")
    sleeping = BALL.replace("<visual>", '<option><flag sleep="enable"/></option><visual>', 1)
    model, data = simulation(sleeping.replace('<body name="ball">', '<body name="ball" sleep="init">'))
    backend = MujocoBackend(model, data, camera=CAMERA)
    described = opened(backend, width=WIDTH, height=HEIGHT)
    snapshots = []
    for x in (0.0, 0.5):
        data.qpos[0] = x
        snapshots.append(snapshot_of(backend, slot))
    for x, picture in zip((0.0, 0.5), drawn(described, *snapshots), strict=True):
        assert place_on(picture, RED) == pytest.approx(projected((x, 0.0, 0.0), CAMERA), abs=1.0)


# What is captured.


def test_a_snapshot_is_small_and_holds_motion_only_where_the_model_has_any(
    slot: PoolSlot, make_env: Callable[..., Env]
) -> None:
    model, data = simulation()
    assert opened(MujocoBackend(model, data)).nbytes == 8 * (7 + model.nq + 7 * model.nmocap)
    env = make_env("Ant-v5")
    ant: Any = env.unwrapped
    backend = MujocoBackend(env)
    assert opened(backend).nbytes == 8 * (7 + 1 + ant.model.nq + ant.model.nv + ant.model.nu)
    state = snapshot_of(backend, slot).view(np.float64)[7:]
    np.testing.assert_array_equal(state[1 : 1 + ant.model.nq], ant.data.qpos)
    np.testing.assert_array_equal(state[1 + ant.model.nq :][: ant.model.nv], ant.data.qvel)


def test_size_and_rate_are_the_environments(make_env: Callable[..., Env]) -> None:
    described = opened(MujocoBackend(make_env("Ant-v5", render_mode=None, width=200, height=100)))
    assert (described.width, described.height, described.steps_per_second) == (200, 100, 20.0)
    described = opened(MujocoBackend(make_env("Ant-v5"), steps_per_second=7.0), width=320, height=180)
    assert (described.width, described.height, described.steps_per_second) == (320, 180, 7.0)
    described = opened(MujocoBackend(*simulation()))
    assert (described.width, described.height, described.steps_per_second) == (1280, 720, None)


@gl
@needs_gl
def test_a_state_that_is_no_number_is_refused_instead_of_drawn(slot: PoolSlot) -> None:
    model, data = simulation()
    backend = MujocoBackend(model, data)
    described = opened(backend, width=WIDTH, height=HEIGHT)
    data.qpos[2] = np.nan
    with pytest.raises(CaptureError, match=r"qpos\[2\] is nan: the simulation has diverged"):
        drawn(described, snapshot_of(backend, slot))
    data.qpos[2] = 0.0
    data.mocap_pos[0, 1] = np.inf
    with pytest.raises(CaptureError, match=r"mocap_pos\[1\] is inf"):
        drawn(described, snapshot_of(backend, slot))


class _Bench(gymnasium.Env[Any, Any]):
    """An environment whose model and data can be exchanged; each step moves the marker on by a tenth of a metre."""

    def __init__(self, model: Any, data: Any) -> None:
        self.model = model
        self.data = data
        self.steps = 0

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.data.mocap_pos[0] = (0.1 * self.steps - 1.0, 0.0, 1.0)
        self.steps += 1
        return None, 0.0, False, False, {}


def test_other_data_of_the_same_model_are_captured(slot: PoolSlot) -> None:
    env = _Bench(*simulation())
    backend = MujocoBackend(env)
    opened(backend)
    env.data = mujoco.MjData(env.model)
    env.data.qpos[0] = 42.0
    assert snapshot_of(backend, slot).view(np.float64)[7] == 42.0


def test_data_of_another_model_cost_the_frame(slot: PoolSlot) -> None:
    env = _Bench(*simulation())
    backend = MujocoBackend(env)
    opened(backend)
    env.data = mujoco.MjData(mujoco.MjModel.from_xml_string("<mujoco/>"))
    with pytest.raises(CaptureError, match="it has 1 bodies and 0 positions, the model 3 bodies and 7 positions"):
        backend.capture(REQUEST, slot)
    with pytest.raises(BackendError, match="data is of another model"):
        MujocoBackend(env.model, env.data)


def test_another_model_costs_frames_until_it_is_taken_over(slot: PoolSlot) -> None:
    env = _Bench(*simulation())
    backend = MujocoBackend(env)
    before = opened(backend)
    assert backend.renewed() is None
    two_balls = "<body><freejoint/><geom size='.1'/></body></worldbody>"
    env.model, env.data = simulation(BALL.replace("</worldbody>", two_balls))
    with pytest.raises(CaptureError, match="4 bodies and 14 positions, not 3 bodies and 7 positions"):
        backend.capture(REQUEST, slot)
    renewed = backend.renewed()
    assert renewed is not None
    assert renewed.nbytes == (before.nbytes or 0) + 7 * 8
    assert backend.capture(REQUEST, slot).nbytes == renewed.nbytes
    assert backend.renewed() is None


# Through a recorder and a worker of its own.


def _pictures(path: Path) -> list[Pixels]:
    with av.open(path, "r") as container:
        return [np.asarray(frame.to_ndarray(format="rgb24"), np.uint8) for frame in container.decode(video=0)]


def _steps_shown(path: Path) -> list[int]:
    """Return the step that the marker of each picture tells, seen by the camera in front."""
    pixels_per_metre = HEIGHT / 2 / np.tan(np.radians(20.0)) / 3.8  # At the marker's face, 3.8 m from the camera.
    places = [(place_on(picture, GREEN)[0] - WIDTH / 2) / pixels_per_metre for picture in _pictures(path)]
    return [round((place + 1.0) * 10) for place in places]


def _config(output_dir: Path, **settings: Any) -> RecorderConfig:
    """Return settings under which colours come out as they went in."""
    return RecorderConfig(output_dir=output_dir, width=WIDTH, height=HEIGHT, crf=10, pix_fmt="yuv444p", **settings)


@gl
@needs_gl
def test_each_picture_of_a_clip_is_of_its_own_step(output_dir: Path) -> None:
    env = _Bench(*simulation())
    with Recorder(
        _config(output_dir, video_length=20, video_interval=0), MujocoBackend(env, camera="front")
    ) as recorder:
        for _ in range(20):
            env.step(None)
            recorder.step()
    assert _steps_shown(output_dir / "rl-video-step-0.mp4") == list(range(20))


@gl
@needs_gl
def test_another_model_ends_the_frames_of_its_clip_and_is_in_the_next(output_dir: Path) -> None:
    env = _Bench(*simulation())
    with Recorder(
        _config(output_dir, video_length=10, video_interval=10), MujocoBackend(env, camera="front")
    ) as recorder:
        for step in range(20):
            if step == 4:
                env.model, env.data = simulation(BALL.replace('rgba="0 1 0 1"', 'rgba="0 0 1 1"'))
            if step == 15:
                env.data.qpos[0] = np.nan
            env.step(None)
            recorder.step()
    first, second = recorder.summary().clips
    assert (first.frames.encoded, first.frames.dropped) == (4, {DropCause.CAPTURE_FAILED: 6})
    assert (second.frames.encoded, second.frames.dropped) == (5, {DropCause.RENDER_FAILED: 5})
    assert second.state is ClipState.INCOMPLETE
    assert _steps_shown(output_dir / "rl-video-step-0.mp4") == [0, 1, 2, 3]
    assert all(shows(picture, BLUE).any() for picture in _pictures(output_dir / "rl-video-step-10.mp4"))


@gl
@needs_gl
def test_snapshots_kept_for_later_show_each_step_and_what_the_task_changed(output_dir: Path) -> None:
    env = _Bench(*simulation())
    config = _config(output_dir, video_length=8, video_interval=0, render="later")
    with Recorder(config, MujocoBackend(env, camera="front")) as recorder:
        for step in range(8):
            if step == 4:
                env.model.geom("pad").pos[:] = (0.0, 0.0, 0.4)
            env.step(None)
            recorder.step()
    assert render_clip(output_dir, "rl-video-step-0").clip.state is ClipState.COMPLETE
    path = output_dir / "rl-video-step-0.mp4"
    assert _steps_shown(path) == list(range(8))
    assert [bool(shows(picture, BLUE).any()) for picture in _pictures(path)] == [False] * 4 + [True] * 4


@gl
@needs_gl
@pytest.mark.newton
@pytest.mark.timeout(300)
@pytest.mark.filterwarnings("ignore:unclosed file .*icon_:ResourceWarning")
@pytest.mark.parametrize("order", [("mujoco", "newton"), ("newton", "mujoco")], ids="-".join)
def test_a_worker_draws_streams_of_two_simulators(output_dir: Path, order: tuple[str, str]) -> None:
    newton = pytest.importorskip("newton")
    from stepreel.backends.newton import NewtonBackend

    builder = newton.ModelBuilder()
    builder.add_shape_sphere(builder.add_body(), radius=0.5)
    builder.shape_color[0] = (1.0, 0.0, 0.0)
    model = builder.finalize(device="cpu")
    state = model.state()
    env = _Bench(*simulation())
    backends: dict[str, Backend] = {
        "mujoco": MujocoBackend(env, camera="front"),
        "newton": NewtonBackend(model, lambda: state, renderer="gl", eye=(3.0, 0.0, 0.0)),
    }
    config = _config(output_dir, video_length=6, video_interval=0)
    with Recorder(config, {name: backends[name] for name in order}) as recorder:
        for _ in range(6):
            env.step(None)
            recorder.step()
    assert {clip.state for clip in recorder.summary().clips} == {ClipState.COMPLETE}
    assert _steps_shown(output_dir / "rl-video-mujoco-step-0.mp4") == list(range(6))
    pictures = _pictures(output_dir / "rl-video-newton-step-0.mp4")
    middles = [picture[HEIGHT // 2, WIDTH // 2].astype(int) for picture in pictures]
    assert [bool(red > green + 30 and red > blue + 30) for red, green, blue in middles] == [True] * 6


@gl
@needs_gl
def test_drawing_goes_on_in_another_thread(slot: PoolSlot) -> None:
    backend = MujocoBackend(*simulation(), camera=CAMERA)
    renderer = opened(backend, width=WIDTH, height=HEIGHT).renderer
    snapshot = snapshot_of(backend, slot)
    assert renderer is not None

    def open_and_draw() -> Pixels:
        renderer.open()
        return renderer.render(snapshot).copy()

    with ThreadPoolExecutor(max_workers=1) as thread:
        picture = thread.submit(open_and_draw).result()
    np.testing.assert_array_equal(renderer.render(snapshot), picture)
    renderer.close()


@gl
@needs_gl
def test_a_snapshot_of_another_model_is_refused(slot: PoolSlot) -> None:
    backend = MujocoBackend(*simulation())
    described = opened(backend, width=WIDTH, height=HEIGHT)
    snapshot = snapshot_of(backend, slot)
    with pytest.raises(CaptureError, match=f"{snapshot.nbytes} bytes or more, got {snapshot.nbytes - 8}"):
        drawn(described, snapshot[:-8])
    header = np.array([0, 8], np.int64).view(np.uint8)
    with pytest.raises(CaptureError, match="cut short"):
        drawn(described, np.concatenate([snapshot, header]))
    with pytest.raises(CaptureError, match="8 bytes of body_pos"):
        drawn(described, np.concatenate([snapshot, header, header[:8]]))


# Archives.


def _archive(backend: MujocoBackend) -> RendererArchive:
    """Return a renderer's archive as it is read from a file: JSON, and plain arrays."""
    renderer = opened(backend, width=WIDTH, height=HEIGHT).renderer
    assert isinstance(renderer, ArchivableRenderer)
    archive = renderer.to_archive()
    return replace(archive, settings=json.loads(json.dumps(archive.settings)))


@gl
@needs_gl
def test_an_archive_draws_the_same_and_from_elsewhere(slot: PoolSlot) -> None:
    model, data = simulation()
    place(model, data, (0.2, 0.3, 0.4))
    backend = MujocoBackend(model, data, camera="front")
    archive = _archive(backend)
    snapshot = snapshot_of(backend, slot)
    pictures = []
    for camera, width, height in ((None, None, None), (CAMERA, 320, 180)):
        renderer = make_renderer(archive, camera=camera, width=width, height=height)
        renderer.open()
        pictures.append(renderer.render(snapshot).copy())
        renderer.close()
    np.testing.assert_array_equal(pictures[0], drawn(opened(backend, width=WIDTH, height=HEIGHT), snapshot)[0])
    assert place_on(pictures[1], RED) == pytest.approx(projected((0.2, 0.3, 0.4), CAMERA, 320, 180), abs=1.0)


@pytest.mark.parametrize("name", ["mujoco", "spec", "dtype", "looks", "camera", "scene_option", "max_geom", "width"])
def test_an_archive_that_lacks_something_is_refused(name: str) -> None:
    archive = _archive(MujocoBackend(*simulation()))
    settings = {key: value for key, value in archive.settings.items() if key != name}
    with pytest.raises(BackendError, match=f"damaged.*{name}"):
        make_renderer(replace(archive, settings=settings))


@pytest.mark.parametrize(
    ("name", "value"),
    [("looks", ["qpos0"]), ("dtype", "O"), ("width", 0), ("camera", {"kind": 3}), ("scene_option", {"frames": 1})],
)
def test_an_archive_that_names_something_unknown_is_refused(name: str, value: object) -> None:
    archive = _archive(MujocoBackend(*simulation()))
    with pytest.raises(BackendError, match="damaged"):
        make_renderer(replace(archive, settings={**archive.settings, name: value}))


def test_a_spec_that_mujoco_does_not_know_is_refused() -> None:
    archive = _archive(MujocoBackend(*simulation()))
    renderer = make_renderer(replace(archive, settings={**archive.settings, "spec": 2**30}))
    with pytest.raises(BackendError, match=r"can't draw the model as asked"):
        renderer.open()


def test_a_model_of_another_version_is_refused_with_both_versions() -> None:
    archive = _archive(MujocoBackend(*simulation()))
    cut = np.array(archive.arrays["model"][:1000])
    renderer = make_renderer(replace(archive, arrays={"model": cut}, settings={**archive.settings, "mujoco": "3.0.0"}))
    with pytest.raises(
        BackendError, match=rf"MuJoCo {mujoco.__version__} can't load the model that MuJoCo 3.0.0 saved"
    ):
        renderer.open()


# What draws, and what is refused.


def test_the_worker_draws_over_egl_whatever_training_draws_with(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUJOCO_GL", "glfw")
    monkeypatch.setenv("MUJOCO_EGL_DEVICE_ID", "3")
    monkeypatch.setenv("PYOPENGL_PLATFORM", "glx")
    here = RenderDevice(gpu=None, environment={"LIBGL_ALWAYS_SOFTWARE": "1"}, opengl_problem=None)
    assert gl_environment(here) == {
        "LIBGL_ALWAYS_SOFTWARE": "1",
        "MUJOCO_GL": "egl",
        "PYOPENGL_PLATFORM": "egl",
        "MUJOCO_EGL_DEVICE_ID": "0",
    }


def test_the_gpu_that_was_asked_for_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    environment = gl_environment(replace(choose_render_device("cuda:1", None), opengl_problem=None))
    assert (environment["CUDA_VISIBLE_DEVICES"], environment["MUJOCO_EGL_DEVICE_ID"]) == ("1", "1")
    assert environment["MUJOCO_GL"] == "egl"
    monkeypatch.setenv("MUJOCO_GL", "osmesa")
    with pytest.raises(
        RendererUnavailableError, match="on cuda:1, found egl: not asked; osmesa: draws on the CPU only"
    ):
        gl_environment(choose_render_device("cuda:1", None))


def test_without_egl_osmesa_draws_and_without_either_both_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    here = RenderDevice(gpu=None, environment={}, opengl_problem="libEGL.so.1 can't be loaded")
    monkeypatch.setattr(mujoco_renderer, "_OSMESA", ("libc.so.6",))
    assert gl_environment(here)["MUJOCO_GL"] == "osmesa"
    monkeypatch.setattr(mujoco_renderer, "_OSMESA", ("libnothing.so",))
    with pytest.raises(
        RendererUnavailableError, match=r"on cpu, found egl: libEGL.so.1 can't be loaded; osmesa: libOS"
    ):
        gl_environment(here)


def test_without_mujoco_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    env = gymnasium.make("CartPole-v1")
    monkeypatch.setitem(sys.modules, "mujoco", None)
    with pytest.raises(BackendError, match=r"pip install 'stepreel\[mujoco\]'"):
        MujocoBackend(env)
    assert isinstance(choose_backend(gymnasium.make("CartPole-v1", render_mode="rgb_array")), GymnasiumBackend)


def test_choosing_the_backend_of_another_environment_imports_no_mujoco() -> None:
    code = (
        "import sys, gymnasium; from stepreel.backends.gymnasium import choose_backend; "
        "choose_backend(gymnasium.make('CartPole-v1', render_mode='rgb_array')); print('mujoco' in sys.modules)"
    )
    printed = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert printed.split() == ["False"]


def test_a_mujoco_environment_is_recorded_by_snapshots_unasked(make_env: Callable[..., Env]) -> None:
    assert isinstance(choose_backend(make_env("Ant-v5")), MujocoBackend)
    assert isinstance(choose_backend(make_env("Ant-v5", render_mode=None)), MujocoBackend)
    assert isinstance(choose_backend(make_env("Ant-v5"), backend="render"), GymnasiumBackend)


def test_another_environment_is_recorded_by_render() -> None:
    env = gymnasium.make("CartPole-v1", render_mode="rgb_array")
    assert isinstance(choose_backend(env), GymnasiumBackend)
    with pytest.raises(ConfigurationError, match="camera: got 'front'; allowed: None"):
        choose_backend(env, camera="front")
    with pytest.raises(ConfigurationError, match="backend: got 'kit'; allowed: one of auto, render, mujoco"):
        choose_backend(env, backend="kit")


class _Overlay(gymnasium.Wrapper[Any, Any, Any, Any]):
    def render(self) -> Any:
        picture = np.array(super().render())
        picture[:4] = 255
        return picture


def test_where_a_wrapper_draws_something_of_its_own_render_is_called(make_env: Callable[..., Env]) -> None:
    assert isinstance(choose_backend(_Overlay(make_env("Ant-v5"))), GymnasiumBackend)
    assert isinstance(choose_backend(_Overlay(make_env("Ant-v5")), backend="mujoco"), MujocoBackend)
    assert isinstance(choose_backend(_Overlay(make_env("Ant-v5", render_mode=None))), MujocoBackend)
    assert isinstance(choose_backend(_Overlay(make_env("Ant-v5")), camera="track"), MujocoBackend)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"camera": "back"}, r"camera: got 'back'; allowed: one of the model's cameras: 0 \('front'\), 1 \('above'\)"),
        ({"camera": 2}, "camera: got 2; allowed: one of"),
        ({"camera": True}, "camera: got True; allowed: the name"),
        ({"camera": 1.5}, "camera: got 1.5; allowed: the name"),
        ({"scene_option": "geoms"}, "scene_option: got 'geoms'; allowed: a mujoco.MjvOption"),
        ({"steps_per_second": 0.0}, "steps_per_second: got 0.0; allowed"),
    ],
)
def test_a_value_that_cannot_work_is_refused_at_once(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        MujocoBackend(*simulation(), **arguments)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (mujoco.mjtCamera.mjCAMERA_TRACKING, "camera: got trackbodyid=-1; allowed: 0 to 2"),
        (mujoco.mjtCamera.mjCAMERA_FIXED, "camera: got fixedcamid=-1; allowed: 0 to 1"),
    ],
    ids=["tracking", "fixed"],
)
def test_a_camera_of_mujoco_that_looks_at_nothing_is_refused(kind: Any, message: str) -> None:
    camera = mujoco.MjvCamera()
    camera.type = kind
    with pytest.raises(ConfigurationError, match=message):
        MujocoBackend(*simulation(), camera=camera)


def test_a_vector_of_environments_is_refused() -> None:
    envs = gymnasium.make_vec("InvertedPendulum-v5", num_envs=2, vectorization_mode="sync")
    with pytest.raises(BackendError, match="it holds 2 environments: give one of them"):
        MujocoBackend(envs)
    envs.close()


def test_a_model_without_data_is_refused() -> None:
    with pytest.raises(BackendError, match=r"looked for the mujoco.MjData of the model, got None"):
        MujocoBackend(simulation()[0])


def test_what_is_no_mujoco_simulation_is_refused_with_what_was_found() -> None:
    env = gymnasium.make("CartPole-v1")
    with pytest.raises(BackendError, match=r"CartPoleEnv; found: model is None, data is None"):
        MujocoBackend(env)
    env.close()


def test_the_first_capture_has_nothing_left_to_load() -> None:
    script = """
import sys
import gymnasium
from stepreel.backends.mujoco import MujocoBackend
from stepreel.clip import CaptureRequest, ClipRequest
from stepreel.capture.frame_pool import FramePool
from stepreel.transport.shared_memory import Layout, SharedMemory
env = gymnasium.make("InvertedPendulum-v5")
env.reset(seed=0)
backend = MujocoBackend(env)
backend.open(width=64, height=48, worker_device="auto")
clip = ClipRequest(name="clip", stream="default", start_step=0, frame_stride=1, clip_index=0)
layout = Layout(record_count=1024, description_nbytes=0, checkpoint_nbytes=4096, pool_nbytes=2**20, queue_nbytes=2**20)
pool = FramePool(SharedMemory.create(layout, b""))
loaded = set(sys.modules)
backend.capture(CaptureRequest(clip=clip, step=0, pts=0), pool.lease())
print(*sorted(set(sys.modules) - loaded))
"""
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert found.stdout.split() == []
