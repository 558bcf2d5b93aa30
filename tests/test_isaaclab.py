"""Recording environments of Isaac Lab's shape: what is chosen, what is counted, and what the videos show."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import av
import gymnasium
import numpy as np
import pytest
import structlog
from numpy.typing import NDArray

pytest.importorskip("newton")

import newton

from stepreel import Clip, ClipState, RecorderConfig
from stepreel.backends.camera import Camera
from stepreel.backends.isaaclab.scene import AssetCamera, VisualizerCamera, base_env, find_newton
from stepreel.backends.isaaclab.selection import (
    CameraKind,
    OriginType,
    Physics,
    SceneDescription,
    SensorDescription,
    Viewpoint,
    VisualizerDescription,
)
from stepreel.backends.synthetic import SyntheticBackend
from stepreel.errors import BackendError, CaptureError, ConfigurationError, SourceUnavailableError
from stepreel.isaaclab import RecordVideo, attach, describe

from .backends.kit_standin import KitStandIn
from .isaaclab_standin import (
    SPACING,
    CameraSensor,
    GlVisualizer,
    IsaacEnv,
    Visualizer,
    install_newton_manager,
)
from .recordings import check_clip, shown_steps

WIDTH, HEIGHT = 320, 180

pytestmark = [
    pytest.mark.newton,
    pytest.mark.timeout(300),  # Kernels compile in the first test that draws.
    pytest.mark.filterwarnings("ignore:unclosed file .*icon_:ResourceWarning"),
]


@pytest.fixture
def env(monkeypatch: pytest.MonkeyPatch) -> IsaacEnv:
    env = IsaacEnv(resolution=(WIDTH, HEIGHT))
    install_newton_manager(monkeypatch, env)
    return env


@pytest.fixture
def filmed(env: IsaacEnv) -> IsaacEnv:
    """An environment with a camera: its pictures are there at once, where Newton's take seconds to begin."""
    env.scene.sensors["front"] = CameraSensor(env)
    return env


def config_of(output_dir: Path, length: int = 5, **settings: Any) -> RecorderConfig:
    return RecorderConfig(output_dir=output_dir, video_length=length, video_interval=0, codec="libx264", **settings)


def pictures_of(output_dir: Path, clip: Clip) -> list[NDArray[Any]]:
    (segment,) = clip.segments
    with av.open(str(output_dir / segment.file)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def source_of(output_dir: Path) -> dict[str, Any]:
    """What `session.json` says of where the only stream's pictures came from."""
    session = json.loads((output_dir / "session.json").read_text())
    found: dict[str, Any] = session["streams"]["default"]["source"] if "streams" in session else session["source"]
    return found


def test_the_video_shows_the_balls_where_the_simulation_has_them_at_each_step(env: IsaacEnv, output_dir: Path) -> None:
    env.cfg.viewer.eye, env.cfg.viewer.lookat = (SPACING, -0.001, 9.0), (SPACING, 0.0, 0.0)
    with attach(env, config_of(output_dir, 8)) as recorder:
        for step in range(8):
            env.positions[1, 1] += 0.6 if step == 4 else 0.0  # The picture of this very step has to show it.
            env.step(0)
    (clip,) = recorder.summary().clips
    assert (clip.state, clip.backend, clip.frames.encoded) == (ClipState.COMPLETE, "newton_gl", 8)
    assert (clip.width, clip.height, clip.fps) == (WIDTH, HEIGHT, 50.0)
    pictures = pictures_of(output_dir, clip)
    # Straight from above: a meter is as many pixels everywhere at the height of the balls.
    pixels_per_meter = HEIGHT / 2 / math.tan(math.radians(45.0) / 2) / 8.5
    shifts = [_shift_down(pictures[0], picture) for picture in pictures]
    expected = [-(step * 0.1 + (0.6 if step >= 4 else 0.0)) * pixels_per_meter for step in range(8)]
    assert shifts == pytest.approx(expected, abs=1.5)


def _shift_down(first: NDArray[Any], picture: NDArray[Any]) -> float:
    """How many pixels further down the ball in the middle is than in the first picture: where they match best."""
    template = _patch(first, 0)
    assert template.std() > 10, "there is a ball"
    errors = {shift: np.abs(_patch(picture, shift) - template).mean() for shift in range(-40, 41)}
    return float(min(errors, key=lambda shift: errors[shift]))


def _patch(picture: NDArray[Any], shift: int) -> NDArray[Any]:
    found = picture[77 + shift : 98 + shift, WIDTH // 2 - 11 : WIDTH // 2 + 11].astype(float)
    patch: NDArray[Any] = found - found.mean()  # The light is not the same everywhere.
    return patch


def test_poses_are_brought_up_to_date_where_the_simulation_renders_nothing(env: IsaacEnv) -> None:
    get_state = find_newton(env).get_state
    for _ in range(3):
        env.step(0)
        np.testing.assert_allclose(get_state().body_q.numpy()[:, :3], env.positions)
    assert env.sim.forwards == 3
    env.sim.is_rendering = True
    get_state()
    assert env.sim.forwards == 3


def test_steps_are_counted_below_all_wrappers_and_the_environment_is_left_as_it_was(
    filmed: IsaacEnv, output_dir: Path
) -> None:
    wrapped = gymnasium.wrappers.TimeLimit(filmed, max_episode_steps=1000)
    with attach(wrapped, config_of(output_dir, 4), source="sensor:front") as recorder:
        wrapped.reset()
        wrapped.step(0)
        filmed.step(0)
        assert recorder.statistics().steps == 2
    filmed.step(0)
    wrapped.reset()
    assert recorder.statistics().steps == 2
    assert not {"step", "reset", "close"} & set(vars(filmed))


def test_a_hook_that_somebody_hooked_again_does_nothing_after_the_recorder_is_closed(
    filmed: IsaacEnv, output_dir: Path
) -> None:
    attachment = attach(filmed, config_of(output_dir, 4), source="sensor:front")
    ours = filmed.step
    filmed.step = lambda action: ours(action)  # type: ignore[method-assign]
    attachment.close()
    attachment.close()
    filmed.step(0)
    assert attachment.recorder.statistics().steps == 0


def test_two_recorders_on_one_environment_leave_it_as_it_was(filmed: IsaacEnv, output_dir: Path) -> None:
    first = attach(filmed, config_of(output_dir / "first", 4), source="sensor:front")
    second = attach(filmed, config_of(output_dir / "second", 4), source="sensor:front")
    filmed.step(0)
    second.close()
    filmed.step(0)
    first.close()
    filmed.step(0)
    assert (first.recorder.statistics().steps, second.recorder.statistics().steps) == (2, 1)
    assert not {"step", "reset", "close"} & set(vars(filmed))


@pytest.mark.parametrize(
    ("source", "wish", "told"),
    [
        (
            "sensor:front",
            {"visible_worlds": [0]},
            r"visible_worlds: got \[0\]; allowed: only for newton_gl.* is sensor",
        ),
        ("sensor:front", {"camera": Camera()}, r"camera: got Camera.*; allowed: only for kit and newton_gl"),
        (
            "renderer",
            {"env_indices": [0]},
            r"env_indices: got \[0\]; allowed: only for sensor.*there is Newton physics",
        ),
        ("renderer", {"camera": 3}, r"camera: got 3; allowed: a Camera, or a function"),
        ("renderer", {"tiles": (2, 2)}, r"tiles: got \(2, 2\); allowed: at most as many as worlds, 3"),
        ("sensor:front", {"tiles": (2, 2)}, r"tiles: got \(2, 2\); allowed: no more than the 3 environments"),
    ],
)
def test_what_the_chosen_source_can_not_do_is_refused(
    filmed: IsaacEnv, output_dir: Path, source: str, wish: dict[str, Any], told: str
) -> None:
    with pytest.raises(ConfigurationError, match=told):
        attach(filmed, config_of(output_dir), source=source, **wish)


def test_a_reset_begins_an_episode(filmed: IsaacEnv, output_dir: Path) -> None:
    config = config_of(output_dir, 2, episode_trigger=lambda episode: episode == 1)
    with attach(filmed, config, source="sensor:front") as recorder:
        filmed.reset()
        filmed.step(0)
        filmed.reset(seed=3)
        filmed.step(0)
        filmed.step(0)
    (clip,) = recorder.summary().clips
    assert clip.name == "rl-video-episode-1"


def test_closing_the_environment_closes_the_recorder_before_the_simulation_stops(
    filmed: IsaacEnv, output_dir: Path
) -> None:
    stopped_at_close: list[bool] = []

    def closed(clip: Clip) -> None:
        stopped_at_close.append(filmed.sim.is_stopped)

    attachment = attach(filmed, config_of(output_dir, 100), source="sensor:front", on_clip_closed=closed)
    filmed.step(0)
    filmed.close()
    assert stopped_at_close == [False]
    assert filmed.sim.is_stopped
    (clip,) = attachment.recorder.summary().clips
    assert clip.frames.encoded == 1


def test_what_training_raises_passes_and_the_clip_is_kept(filmed: IsaacEnv, output_dir: Path) -> None:
    attachment = attach(filmed, config_of(output_dir, 100), source="sensor:front")

    def train() -> None:
        with attachment:
            filmed.step(0)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        train()
    (clip,) = attachment.recorder.summary().clips
    assert clip.frames.encoded == 1


def test_the_wrapper_records_and_closes_the_recorder_first(filmed: IsaacEnv, output_dir: Path) -> None:
    stopped_at_close: list[bool] = []

    def closed(clip: Clip) -> None:
        stopped_at_close.append(filmed.sim.is_stopped)

    wrapped = RecordVideo(filmed, config_of(output_dir, 3), source="sensor:front", on_clip_closed=closed)
    wrapped.reset()
    for _ in range(3):
        wrapped.step(0)
    wrapped.close()
    assert stopped_at_close == [False]
    assert filmed.sim.is_stopped
    (clip,) = wrapped.recorder.summary().clips
    assert clip.frames.encoded == clip.frames.requested > 0
    assert wrapped.choices["default"].reason == "the task renders front itself"


def test_one_line_of_the_log_says_what_was_chosen_and_why(env: IsaacEnv, output_dir: Path) -> None:
    env.sim.visualizers.append(GlVisualizer())
    with structlog.testing.capture_logs() as lines, attach(env, config_of(output_dir)):
        pass
    assert [line for line in lines if line["event"] == "source.chosen"] == [
        {
            "event": "source.chosen",
            "log_level": "info",
            "stream": "default",
            "source": "visualizer",
            "backend": "newton_gl",
            "reason": "a Newton visualizer is active",
            "camera": "the view of the newton_gl visualizer, followed",
        }
    ]


def test_a_camera_of_the_callers_takes_the_place_of_the_rules(env: IsaacEnv, output_dir: Path) -> None:
    camera = Camera(eye=(1.0, 2.0, 3.0), lookat=(0.0, 0.0, 1.0))
    with structlog.testing.capture_logs() as lines, attach(env, config_of(output_dir), camera=camera):
        pass
    (line,) = (line for line in lines if line["event"] == "source.chosen")
    assert line["camera"] == "the caller's"
    assert source_of(output_dir)["camera"] == camera.to_json()


def test_the_worlds_in_the_picture_are_those_that_the_camera_looks_at(
    monkeypatch: pytest.MonkeyPatch, output_dir: Path
) -> None:
    env = IsaacEnv(20, eye=(60.0, 9.0, 5.0), lookat=(19 * SPACING, 0.0, 0.0), resolution=(WIDTH, HEIGHT))
    install_newton_manager(monkeypatch, env)
    with attach(env, config_of(output_dir)):
        pass
    assert source_of(output_dir)["visible_worlds"] == list(range(4, 20))


def test_the_worlds_in_the_picture_are_those_that_the_visualizer_shows(env: IsaacEnv, output_dir: Path) -> None:
    visualizer = GlVisualizer()
    visualizer.shown = [0, 2]
    env.sim.visualizers.append(visualizer)
    with attach(env, config_of(output_dir)):
        pass
    assert source_of(output_dir)["visible_worlds"] == [0, 2]


@pytest.mark.parametrize(
    ("viewer", "visualizer", "eye"),
    [
        ({"eye": (2.0, 0.0, 1.0)}, False, (2.0, 0.0, 1.0)),
        ({"eye": (2.0, 0.0, 1.0), "origin_type": "env", "env_index": 2}, False, (2.0, 0.0, 1.0)),
        ({"eye": (2.0, 0.0, 1.0), "origin_type": "asset_root", "asset_name": "robot"}, False, (2.0, 0.0, 1.5)),
        ({}, True, (4.0 - SPACING, -4.0, 3.0)),
    ],
)
def test_each_tile_is_seen_from_the_same_place_beside_its_environment(
    monkeypatch: pytest.MonkeyPatch, output_dir: Path, viewer: dict[str, Any], visualizer: bool, eye: Any
) -> None:
    env = IsaacEnv(**viewer)
    install_newton_manager(monkeypatch, env)
    if visualizer:
        env.sim.visualizers.append(GlVisualizer())
        x, y, z = SPACING + 0.1, 0.0, 0.0
        yaw = math.degrees(math.atan2(y + 4.0, x - 4.0))
        pitch = math.degrees(math.asin((z - 3.0) / math.dist((x, y, z), (4.0, -4.0, 3.0))))
        env.sim.visualizers[0].cfg.lookat = (x, y, z)
        env.sim.visualizers[0].camera.yaw, env.sim.visualizers[0].camera.pitch = yaw, pitch  # type: ignore[attr-defined]
    with attach(env, config_of(output_dir), tiles=(1, 3)):
        pass
    source = source_of(output_dir)
    assert source["tiles"] == [1, 3]
    assert source["camera"]["eye"] == pytest.approx(eye)


def test_an_asset_is_followed_in_the_world_it_is_in(monkeypatch: pytest.MonkeyPatch, output_dir: Path) -> None:
    env = IsaacEnv(
        20, origin_type="asset_root", asset_name="robot", env_index=19, eye=(2.0, 2.0, 2.0), resolution=(WIDTH, HEIGHT)
    )
    install_newton_manager(monkeypatch, env)
    with attach(env, config_of(output_dir, 8)) as recorder:
        for _ in range(8):
            env.step(0)
    assert 19 in source_of(output_dir)["visible_worlds"]
    (clip,) = recorder.summary().clips
    pictures = pictures_of(output_dir, clip)
    window = np.s_[HEIGHT // 2 - 12 : HEIGHT // 2 + 12, WIDTH // 2 - 12 : WIDTH // 2 + 12]
    for picture in pictures[1:]:
        difference = np.abs(picture[window].astype(int) - pictures[0][window].astype(int))
        assert difference.mean() < 6, "the ball stays in the middle"
    # By 0.7 m, more than its size: a camera that stood still would have lost it. Its neighbour stands, and is left.
    assert np.abs(pictures[0].astype(int) - pictures[-1].astype(int)).max() > 25, "the rest of the picture moves"


def test_what_a_camera_of_the_scene_holds_is_recorded_and_not_rendered_again(
    filmed: IsaacEnv, output_dir: Path
) -> None:
    camera = filmed.scene.sensors["front"]
    with attach(filmed, config_of(output_dir, 6), source="sensor:front") as recorder:
        opened = camera.renderings
        for _ in range(6):
            filmed.step(0)
            assert camera.data.output["rgb"] is not None  # The task's own observation.
        assert camera.renderings == opened + 6
    (clip,) = recorder.summary().clips
    check_clip(output_dir, clip)
    assert shown_steps(output_dir / clip.segments[0].file) == list(range(6))


def test_several_sources_are_recorded_side_by_side(filmed: IsaacEnv, output_dir: Path) -> None:
    sources = {"view": "renderer", "front": "sensor:front", "depth": "sensor:front:depth"}
    with attach(filmed, config_of(output_dir, 2, width=None), source=sources) as recorder:
        filmed.step(0)
        filmed.step(0)
    clips = {clip.stream: clip for clip in recorder.summary().clips}
    assert {name: clip.backend for name, clip in clips.items()} == {
        "view": "newton_gl",
        "front": "sensor",
        "depth": "sensor",
    }
    assert {clip.state for clip in clips.values()} == {ClipState.COMPLETE}


def test_a_newton_visualizer_beside_other_physics_draws_itself(output_dir: Path) -> None:
    env = IsaacEnv(physics="kit", resolution=(WIDTH, HEIGHT))
    visualizer = GlVisualizer()
    env.sim.visualizers.append(visualizer)
    picture = np.random.default_rng(3).integers(0, 256, (90, 160, 3), np.uint8)
    visualizer.picture = np.kron(picture[::10, ::10], np.ones((10, 10, 1), np.uint8))
    with attach(env, config_of(output_dir, 2)) as recorder:
        env.step(0)
        env.step(0)
    (clip,) = recorder.summary().clips
    assert (clip.backend, clip.width, clip.height, clip.frames.encoded) == ("visualizer", 160, 90, 2)
    for shown in pictures_of(output_dir, clip):
        blocks = shown.reshape(9, 10, 16, 10, 3)[:, 3:7, :, 3:7].mean(axis=(1, 3))
        assert np.abs(blocks.mean(axis=2) - picture[::10, ::10].mean(axis=2)).mean() < 12
    assert env.sim.forwards == 2, "poses are brought up to date for it"


def test_physx_is_recorded_through_kit_with_the_tasks_camera(monkeypatch: pytest.MonkeyPatch, output_dir: Path) -> None:
    given: dict[str, Any] = {}

    def kit_backend(**arguments: Any) -> SyntheticBackend:
        given.update(arguments)
        return SyntheticBackend()

    monkeypatch.setattr("stepreel.backends.kit.KitBackend", kit_backend)
    env = IsaacEnv(physics="kit", origin_type="env", env_index=2, cam_prim_path="/Camera", resolution=(WIDTH, HEIGHT))
    with attach(env, config_of(output_dir, 2)) as recorder:
        env.step(0)
        env.step(0)
    assert given == {
        "camera": Camera(eye=(7.5 + 2 * SPACING, 7.5, 7.5), lookat=(2 * SPACING, 0.0, 0.0)),
        "camera_prim_path": "/Camera",
        "sim": env.sim,
        "steps_per_second": pytest.approx(50.0),
    }
    (clip,) = recorder.summary().clips
    assert (clip.width, clip.height, clip.frames.encoded) == (WIDTH, HEIGHT, 2)


def test_kit_draws_each_step_from_beside_the_asset_it_follows(
    monkeypatch: pytest.MonkeyPatch, output_dir: Path
) -> None:
    kit = KitStandIn()
    kit.install(monkeypatch)
    env = IsaacEnv(
        physics="kit",
        origin_type="asset_root",
        asset_name="robot",
        env_index=1,
        eye=(2.0, 0.0, 1.0),
        resolution=(WIDTH, HEIGHT),
    )

    def pose() -> None:
        kit.posed_step = env.common_step_counter - 1

    env.sim.update = pose
    with attach(env, config_of(output_dir, 4)) as recorder:
        opened = len(kit.drawn)
        for _ in range(4):
            env.step(0)
    (clip,) = recorder.summary().clips
    assert clip.backend == "kit"
    check_clip(output_dir, clip)
    assert [drawn.step for drawn in kit.drawn[opened:]] == [0, 1, 2, 3]
    eyes = [drawn.eye for drawn in kit.drawn[opened:]]
    assert eyes == [pytest.approx((SPACING + 2.0, 0.1 * (step + 1), 1.5)) for step in range(4)]
    assert kit.leftovers == []


def test_a_running_environment_is_described(env: IsaacEnv) -> None:
    env.scene.sensors["front"] = CameraSensor(env, renderer="isaac_rtx")
    kit = Visualizer("kit", origin_type="asset", origin_env_index=1, origin_track_path="robot/ball")
    closed = GlVisualizer()
    closed.is_closed = True
    gl = GlVisualizer(streaming_view=True)
    gl.shown = [1, 2]
    env.sim.visualizers += [kit, closed, gl]
    fov: Any = pytest.approx(65.0, abs=0.05)
    assert describe(env) == SceneDescription(
        visualizers=(
            VisualizerDescription(
                type="kit",
                viewpoint=Viewpoint(
                    eye=(4.0, -4.0, 3.0),
                    lookat=(0.0, 0.0, 0.0),
                    fov=fov,
                    origin_type=OriginType.ASSET_BODY,
                    env_index=1,
                    asset_name="robot",
                    body_name="ball",
                ),
            ),
            VisualizerDescription(
                type="newton_gl",
                viewpoint=Viewpoint(eye=(4.0, -4.0, 3.0), lookat=(0.0, 0.0, 0.0), fov=fov),
                streaming_view=True,
                visible_worlds=(1, 2),
            ),
        ),
        physics=Physics.NEWTON,
        renderers=frozenset({"isaac_rtx"}),
        sensors=(SensorDescription(name="front", outputs=("rgb", "depth")),),
        viewer=Viewpoint(),
        resolution=(WIDTH, HEIGHT),
        env_origins=((0.0, 0.0, 0.0), (SPACING, 0.0, 0.0), (2 * SPACING, 0.0, 0.0)),
        assets={"robot": ("ball",)},
    )


def test_describing_an_environment_renders_none_of_its_cameras(env: IsaacEnv) -> None:
    camera = env.scene.sensors["front"] = CameraSensor(env)
    describe(env)
    assert camera.renderings == 0


def test_an_environment_without_an_own_view_is_described(env: IsaacEnv) -> None:
    del env.cfg.viewer
    scene = describe(env)
    assert (scene.viewer, scene.resolution) == (None, (1280, 720))


def test_the_camera_of_a_visualizer_is_followed_until_it_is_closed() -> None:
    visualizer = GlVisualizer()
    follow = VisualizerCamera(visualizer, Camera(eye=(0.0, 0.0, 3.0), lookat=(4.0, 0.0, 0.0)))
    assert follow().eye == (4.0, -4.0, 3.0)
    assert follow().fov == 65.0
    visualizer.camera.pos, visualizer.camera.pitch, visualizer.camera.yaw = (1.0, 2.0, 3.0), 0.0, 90.0
    moved = follow()
    assert moved.eye == (1.0, 2.0, 3.0)
    assert moved.lookat == pytest.approx((1.0, 7.0, 3.0)), "as far away as it was at first"
    visualizer.is_closed = True
    visualizer.camera.pos = (9.0, 9.0, 9.0)
    assert follow() == moved


def test_a_visualizer_without_a_viewer_is_followed_by_where_its_camera_was_put() -> None:
    visualizer = Visualizer("newton_rtx")
    follow = VisualizerCamera(visualizer, Camera())
    visualizer.cfg.eye, visualizer.cfg.lookat = (5.0, 5.0, 5.0), (0.0, 1.0, 0.0)
    assert (follow().eye, follow().lookat) == ((5.0, 5.0, 5.0), (0.0, 1.0, 0.0))


@pytest.mark.parametrize("origin_type", [OriginType.ASSET_ROOT, OriginType.ASSET_BODY])
def test_a_camera_goes_with_the_asset_in_the_very_step(env: IsaacEnv, origin_type: OriginType) -> None:
    viewpoint = Viewpoint(origin_type=origin_type, asset_name="robot", body_name="ball", env_index=1)
    follow = AssetCamera(env, viewpoint, Camera(eye=(1.0, 0.0, 1.0), lookat=(0.0, 0.0, 0.0)))
    for _ in range(3):
        env.step(0)
        x, y, z = env.positions[1].tolist()
        camera = follow()
        assert camera.eye == pytest.approx((x + 1.0, y, z + 1.0))
        assert camera.lookat == pytest.approx((x, y, z))


class Device:
    """A CUDA device as torch shows it: what was asked of it is done once it has got there."""

    def __init__(self) -> None:
        self.queue: list[Any] = []
        self.waits = 0

    def run(self) -> None:
        for work in self.queue:
            work()
        self.queue.clear()

    def torch(self) -> ModuleType:
        device = self

        class Event:
            def __init__(self) -> None:
                self.pending = 0

            def record(self, stream: object) -> None:
                self.pending += 1

                def done() -> None:
                    self.pending -= 1

                device.queue.append(done)

            def query(self) -> bool:
                return self.pending == 0

            def synchronize(self) -> None:
                if self.pending:
                    device.waits += 1
                    device.run()

        module = ModuleType("torch")
        module.empty = lambda size, dtype, pin_memory: DeviceArray(self, np.zeros(size))  # type: ignore[attr-defined]
        module.cuda = SimpleNamespace(Event=Event, current_stream=lambda device: None)  # type: ignore[attr-defined]
        return module


class DeviceArray:
    is_cuda = True
    dtype = "float32"
    device = "cuda:0"

    def __init__(self, device: Device, array: NDArray[Any]) -> None:
        self._device = device
        self.array = array

    def __getitem__(self, key: Any) -> DeviceArray:
        return DeviceArray(self._device, self.array[key])

    def copy_(self, other: DeviceArray, *, non_blocking: bool) -> None:
        assert non_blocking
        sent = other.array.copy()  # The copy lies behind the steps already launched, and before the next.
        self._device.queue.append(lambda: np.copyto(self.array, sent))

    def tolist(self) -> Any:
        return self.array.tolist()


def test_on_a_device_the_position_of_the_capture_before_is_used_and_nobody_waits(
    env: IsaacEnv, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = Device()
    monkeypatch.setitem(sys.modules, "torch", device.torch())
    env.scene.articulations["robot"].data.root_pos_w = SimpleNamespace(torch=DeviceArray(device, env.positions))
    viewpoint = Viewpoint(origin_type=OriginType.ASSET_ROOT, asset_name="robot", env_index=1)
    follow = AssetCamera(env, viewpoint, Camera())
    assert follow().lookat[1] == pytest.approx(0.0)
    assert device.waits == 1, "the first is waited for"
    env.step(0)
    assert follow().lookat[1] == pytest.approx(0.0)
    device.run()
    env.step(0)
    assert follow().lookat[1] == pytest.approx(0.1)
    env.step(0)
    assert follow().lookat[1] == pytest.approx(0.1), "the device has not got there, and nobody waits for it"
    device.run()
    env.step(0)
    assert follow().lookat[1] == pytest.approx(0.2)
    assert device.waits == 1
    for _ in range(20):
        env.step(0)
    assert follow().lookat[1] == pytest.approx(2.4), "after a pause the position is waited for"
    assert device.waits > 1


def test_a_position_that_is_none_costs_the_frame(env: IsaacEnv) -> None:
    follow = AssetCamera(env, Viewpoint(origin_type=OriginType.ASSET_ROOT, asset_name="robot"), Camera())
    env.positions[0] = math.nan
    with pytest.raises(CaptureError, match="has diverged"):
        follow()


def test_a_model_built_without_visual_shapes_is_refused_with_the_setting_that_helps(
    env: IsaacEnv, output_dir: Path
) -> None:
    flags = env.model.shape_flags.numpy()
    flags[env.model.shape_world.numpy() >= 0] &= ~int(newton.ShapeFlags.VISIBLE)
    with pytest.raises(BackendError, match=r"none among the 3 .*load_visual_shapes = True"):
        attach(env, config_of(output_dir))
    assert not {"step", "reset", "close"} & set(vars(env)), "nothing is hooked"


def test_a_model_that_a_hard_reset_made_is_the_one_that_is_recorded(env: IsaacEnv) -> None:
    simulation = find_newton(env)
    assert simulation.get_model() is env.model
    env.model = IsaacEnv(2).model
    assert simulation.get_model() is env.model


def test_a_simulation_without_a_model_yet_is_refused(env: IsaacEnv) -> None:
    env.model = None
    with pytest.raises(BackendError, match="reset the environment before recording"):
        find_newton(env)


@pytest.mark.parametrize(
    ("viewer", "told"),
    [
        ({"eye": (math.nan, 0.0, 0.0)}, r"eye: got \(nan, 0\.0, 0\.0\)"),
        ({"eye": (0.0, 0.0, 0.0)}, r"the same point as eye"),
        ({"origin_type": "asset_root", "asset_name": "robo"}, r"asset_name: got 'robo'; allowed: robot"),
        ({"origin_type": "env", "env_index": 3}, r"env_index: got 3; allowed: 0 to 2"),
        ({"origin_type": "asset"}, r"origin_type: got 'asset'; allowed: one of world, env, asset_root, asset_body"),
    ],
)
def test_a_view_that_can_not_work_is_refused_before_anything_is_opened(
    monkeypatch: pytest.MonkeyPatch, output_dir: Path, viewer: dict[str, Any], told: str
) -> None:
    env = IsaacEnv(**viewer)
    install_newton_manager(monkeypatch, env)
    with pytest.raises(ConfigurationError, match=told):
        attach(env, config_of(output_dir))
    assert not output_dir.exists()


@pytest.mark.parametrize(
    ("physics", "renderer", "told"),
    [
        (None, None, r"found the viser visualizer"),
        (None, "newton_warp", r"Newton does not simulate here"),
    ],
)
def test_what_can_not_be_recorded_is_told(
    output_dir: Path, physics: str | None, renderer: str | None, told: str
) -> None:
    env = IsaacEnv(physics=physics)
    env.sim.visualizers.append(Visualizer("viser"))
    env.sim.render_context.renderer_types = (renderer,) if renderer else ()
    with pytest.raises(SourceUnavailableError, match=told):
        attach(env, config_of(output_dir))


def test_an_environment_of_another_kind_is_refused() -> None:
    env = gymnasium.make("CartPole-v1")
    with pytest.raises(BackendError, match=r"found CartPoleEnv without sim, scene, cfg"):
        base_env(env)
    env.close()


def test_the_choice_of_a_followed_visualizer_is_kept(env: IsaacEnv, output_dir: Path) -> None:
    env.sim.visualizers.append(GlVisualizer())
    attachment = attach(env, config_of(output_dir))
    camera = attachment.choices["default"].camera
    attachment.close()
    assert camera is not None
    assert camera.kind is CameraKind.VISUALIZER


def test_importing_it_loads_neither_isaac_lab_nor_a_simulator() -> None:
    heavy = ("isaaclab", "isaaclab_newton", "newton", "torch", "warp")
    code = f"import sys, stepreel.isaaclab; print([name for name in {heavy} if name in sys.modules])"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"
