"""Environments that keep the documented shape of Isaac Lab 3.0's, over a real Newton model.

Each environment has a ball. Its poses are stale until `sim.forward()`, and the two states swap, as Isaac Lab's do.
"""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import gymnasium
import newton
import numpy as np
import pytest
import warp as wp
from numpy.typing import NDArray

from stepreel.backends.synthetic import SyntheticRenderer

SPACING = 3.0
CAMERA_SIZE = (160, 90)


class Proxy:
    """Isaac Lab 3.0's wrapper of arrays: indexing it is deprecated, `torch` is what is there."""

    def __init__(self, array: NDArray[Any]) -> None:
        self.torch = array

    def __getitem__(self, key: object) -> None:
        raise AssertionError("deprecated")


class PhysicsManager(str):
    """A string that proxies attributes of the class it names."""

    backend: str | None

    def __new__(cls, name: str, backend: str | None) -> PhysicsManager:
        manager = super().__new__(cls, name)
        manager.backend = backend
        return manager

    def video_capture_backend(self) -> str | None:
        return self.backend


class Simulation:
    def __init__(self, physics: str | None) -> None:
        self.visualizers: list[Visualizer] = []
        self.is_rendering = False
        self.physics_manager = PhysicsManager("isaaclab_newton.physics:NewtonManager", physics)
        self.render_context = SimpleNamespace(renderer_types=())
        self.forwards = 0
        self.is_stopped = False
        self.update: Any = None

    def forward(self) -> None:
        self.forwards += 1
        if self.update is not None:
            self.update()


class Visualizer:
    """`kind` is Isaac Lab's `visualizer_type`."""

    def __init__(self, kind: str, **cfg: Any) -> None:
        self.cfg = SimpleNamespace(
            visualizer_type=kind, eye=(4.0, -4.0, 3.0), lookat=(0.0, 0.0, 0.0), focal_length=12.0, **cfg
        )
        self.is_closed = False
        self.shown: list[int] | None = None
        self.picture: NDArray[np.uint8] | None = np.zeros((90, 160, 3), np.uint8)

    def get_visualized_env_ids(self) -> list[int] | None:
        return self.shown


class GlVisualizer(Visualizer):
    """Has a viewer whose camera its user moves."""

    def __init__(self, **cfg: Any) -> None:
        super().__init__("newton_gl", **cfg)
        camera = SimpleNamespace(pos=(4.0, -4.0, 3.0), pitch=-27.9, yaw=135.0, fov=65.0, up_axis=2)
        self._viewer = SimpleNamespace(camera=camera)

    @property
    def camera(self) -> SimpleNamespace:
        found: SimpleNamespace = self._viewer.camera
        return found

    def render_rgb_array(self) -> NDArray[np.uint8] | None:
        return self.picture


class CameraSensor:
    """Rendered lazily, when its data are read; shows the number of the step."""

    def __init__(self, env: IsaacEnv, renderer: str = "newton_warp") -> None:
        self.cfg = SimpleNamespace(data_types=["rgb", "depth"], renderer_cfg=SimpleNamespace(renderer_type=renderer))
        self._env = env
        self._rgba = np.zeros((env.num_envs, CAMERA_SIZE[1], CAMERA_SIZE[0], 4), np.uint8)
        self._scenery = SyntheticRenderer(width=CAMERA_SIZE[0], height=CAMERA_SIZE[1])
        self._scenery.open()
        self.renderings = 0
        self._rendered = -1

    @property
    def data(self) -> SimpleNamespace:
        if self._rendered != self._env.common_step_counter:
            self._rendered = self._env.common_step_counter
            self.renderings += 1
            picture = np.empty((CAMERA_SIZE[1], CAMERA_SIZE[0], 3), np.uint8)
            self._scenery.draw(self._rendered - 1, picture)
            self._rgba[..., :3] = picture
        depth = np.full((*self._rgba.shape[:3], 1), 2.0, np.float32)
        return SimpleNamespace(output={"rgb": Proxy(self._rgba[..., :3]), "depth": Proxy(depth)})


class ContactSensor:
    """What else is among the sensors."""

    def __init__(self) -> None:
        self.cfg = SimpleNamespace(history_length=3)

    @property
    def data(self) -> SimpleNamespace:
        raise AssertionError("nobody needs it")


def viewer_cfg(**parts: Any) -> SimpleNamespace:
    defaults = {
        "eye": (7.5, 7.5, 7.5),
        "lookat": (0.0, 0.0, 0.0),
        "cam_prim_path": "/OmniverseKit_Persp",
        "resolution": (1280, 720),
        "origin_type": "world",
        "env_index": 0,
        "asset_name": None,
        "body_name": None,
    }
    return SimpleNamespace(**{**defaults, **parts})


class IsaacEnv(gymnasium.Env[Any, Any]):
    """Balls, of which every second one, from the second on, moves by 0.1 m along y with every step."""

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 7.0}  # noqa: RUF012 - as Isaac Lab has it.

    def __init__(self, num_envs: int = 3, *, physics: str | None = "newton_gl", **viewer: Any) -> None:
        self.num_envs = num_envs
        self.step_dt = 0.02
        self.common_step_counter = 0
        self.action_space = gymnasium.spaces.Discrete(2)
        self.observation_space = gymnasium.spaces.Discrete(2)
        self.sim = Simulation(physics)
        self.cfg = SimpleNamespace(viewer=viewer_cfg(**viewer))
        origins = np.array([[SPACING * env, 0.0, 0.0] for env in range(num_envs)], np.float32)
        self.positions = origins + np.array([0.0, 0.0, 0.5], np.float32)
        self.model = _model_of(self.positions)
        self.states = [self.model.state(), self.model.state()]
        bodies = self.positions[:, None, :]
        ball = SimpleNamespace(
            body_names=["ball"],
            data=SimpleNamespace(root_pos_w=Proxy(self.positions), body_pos_w=Proxy(bodies)),
        )
        self.scene = SimpleNamespace(
            env_origins=origins, articulations={"robot": ball}, rigid_objects={}, sensors={"contacts": ContactSensor()}
        )
        self.sim.update = self._forward

    def step(self, action: Any) -> Any:
        self.positions[1::2, 1] += 0.1
        self.common_step_counter += 1
        self.states.reverse()
        return 0, 0.0, False, False, {}

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        self.positions[:, 1] = 0.0
        return 0, {}

    def close(self) -> None:
        self.sim.is_stopped = True

    def _forward(self) -> None:
        self.states[0].body_q.numpy()[:, :3] = self.positions


def install_newton_manager(monkeypatch: pytest.MonkeyPatch, env: IsaacEnv) -> None:
    """Put `isaaclab_newton.physics` in place, as it is while `env` runs."""
    physics = ModuleType("isaaclab_newton.physics")
    physics.NewtonManager = SimpleNamespace(  # type: ignore[attr-defined]
        get_model=lambda: env.model, get_state_0=lambda: env.states[0]
    )
    monkeypatch.setitem(sys.modules, "isaaclab_newton", ModuleType("isaaclab_newton"))
    monkeypatch.setitem(sys.modules, "isaaclab_newton.physics", physics)


def _model_of(positions: NDArray[np.float32]) -> newton.Model:
    scene = newton.ModelBuilder()
    for x, y, z in positions.tolist():
        world = newton.ModelBuilder()
        body = world.add_body(xform=wp.transform((x, y, z), wp.quat_identity()))
        world.add_shape_sphere(body, radius=0.3)
        scene.add_world(world)
    scene.add_ground_plane()
    return scene.finalize(device="cpu")
