"""Cart-poles on a Newton simulation: every world is one cart-pole, all of them in one model."""

from __future__ import annotations

import math
from typing import Any

import newton
import numpy as np
import warp as wp
from numpy.typing import NDArray

STEPS_PER_SECOND = 30
SUBSTEP_COUNT = 4
"""Even, so that a step ends in the state that it began with."""

MAX_FORCE = 12.0
"""Push on the cart at action 1 [N]."""
RAIL_REACH = 1.1
"""Distance from the middle of the rail to its end stops [m]."""
FALLEN_ANGLE = 1.0
"""Tilt from which on a pole counts as fallen [rad]."""

OBSERVATION_SIZE = 4

_CART_MASS = 1.0
_POLE_MASS = 0.2
_POLE_LENGTH = 1.0
_RAIL_HEIGHT = 1.3

_GROUND_COLOR = (0.20, 0.25, 0.30)
_RAIL_COLOR = (0.42, 0.46, 0.52)
_CART_COLOR = (0.10, 0.45, 0.85)
_POLE_COLOR = (0.95, 0.60, 0.12)
_TIP_COLOR = (0.90, 0.22, 0.20)


class CartPoleTask:
    """Balance a pole on a cart, in `world_count` worlds at once.

    A world's episode lasts until its pole has fallen; from then on its cart is left alone and earns nothing.

    Attributes:
        model: The Newton model of all worlds.
        state: The current state of all worlds; the same object for the life of the task.
        standing: Which poles have not fallen since the last reset, shape `[world_count]`, bool.
    """

    def __init__(self, world_count: int, *, device: str | None = None) -> None:
        self.world_count = world_count
        with wp.ScopedDevice(device):
            self.model: Any = _build_model(world_count)
        self.state: Any = self.model.state()
        self.standing = np.ones(world_count, dtype=np.bool_)
        self._next_state = self.model.state()
        self._control = self.model.control()
        self._solver = newton.solvers.SolverFeatherstone(self.model)
        self._substeps()
        self._graph = self._capture_graph()
        self._place(np.zeros(world_count), np.zeros(world_count))

    def reset(self, rng: np.random.Generator) -> NDArray[np.float32]:
        """Put every cart near the middle of its rail with its pole tilted, at rest; return the observations."""
        side = rng.choice((-1.0, 1.0), self.world_count)
        self._place(
            rng.uniform(-0.4, 0.4, self.world_count),
            side * rng.uniform(0.15, 0.3, self.world_count),
        )
        return self.observe()

    def observe(self) -> NDArray[np.float32]:
        """Return cart position [m] and velocity [m/s], sine of the pole's angle, its angular velocity [rad/s].

        Returns:
            Shape `[world_count, 4]`, float32, the caller's own. Upright is angle 0.
        """
        position = self.state.joint_q.numpy().reshape(-1, 2)
        velocity = self.state.joint_qd.numpy().reshape(-1, 2)
        return np.stack((position[:, 0], velocity[:, 0], np.sin(position[:, 1]), velocity[:, 1]), axis=1)

    def step(self, actions: NDArray[np.floating[Any]]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Push the carts for one step of `1 / STEPS_PER_SECOND` seconds.

        Args:
            actions: Shape `[world_count]`, clipped to -1 to 1 and scaled by `MAX_FORCE`.

        Returns:
            Observations, as of `observe`, and rewards, shape `[world_count]`, float32: up to 1 for a pole that
            stands upright in the middle of its rail, 0 for one that has fallen.
        """
        forces = np.zeros((self.world_count, 2), dtype=np.float32)
        forces[:, 0] = MAX_FORCE * self.standing * np.clip(actions, -1.0, 1.0)
        self._control.joint_f.assign(forces.reshape(-1))
        if self._graph is None:
            self._substeps()
        else:
            wp.capture_launch(self._graph)
        return self.observe(), self._rewards()

    def _rewards(self) -> NDArray[np.float32]:
        position = self.state.joint_q.numpy().reshape(-1, 2)
        angle = position[:, 1]
        self.standing &= np.abs(angle) < FALLEN_ANGLE
        off_middle = np.minimum(np.abs(position[:, 0]) / RAIL_REACH, 1.0)
        return np.asarray(self.standing * np.cos(angle) * (1.0 - 0.5 * off_middle), dtype=np.float32)

    def _place(self, cart: NDArray[np.float64], angle: NDArray[np.float64]) -> None:
        self.state.joint_q.assign(np.stack((cart, angle), axis=1).astype(np.float32).reshape(-1))
        self.state.joint_qd.zero_()
        self._control.joint_f.zero_()
        newton.eval_fk(self.model, self.state.joint_q, self.state.joint_qd, self.state)
        self.standing[:] = True

    def _substeps(self) -> None:
        current, following = self.state, self._next_state
        for _ in range(SUBSTEP_COUNT):
            current.clear_forces()
            self._solver.step(current, following, self._control, None, 1.0 / (STEPS_PER_SECOND * SUBSTEP_COUNT))
            current, following = following, current

    def _capture_graph(self) -> Any:
        """Return one step as a CUDA graph; None on a CPU, where launching kernels costs little."""
        if not self.model.device.is_cuda:
            return None
        with wp.ScopedCapture(self.model.device) as capture:
            self._substeps()
        return capture.graph


def _build_model(world_count: int) -> Any:
    builder = newton.ModelBuilder()
    builder.replicate(_build_world(), world_count)
    builder.add_ground_plane(color=_GROUND_COLOR)
    return builder.finalize()


def _build_world() -> Any:
    """Return a builder with a rail, a cart that slides on it along x, and a pole that turns about y."""
    looks = newton.ModelBuilder.ShapeConfig(density=0.0, has_shape_collision=False, has_particle_collision=False)
    on_rail = wp.transform((0.0, 0.0, _RAIL_HEIGHT), wp.quat_identity())
    along_x = wp.quat_from_axis_angle(wp.vec3(0.0, 1.0, 0.0), math.pi / 2)
    middle_of_pole = wp.vec3(0.0, 0.0, _POLE_LENGTH / 2)
    builder = newton.ModelBuilder()
    cart = builder.add_link(xform=on_rail, mass=_CART_MASS, inertia=wp.mat33(np.eye(3) * 0.02), label="cart")
    pole = builder.add_link(
        xform=on_rail, mass=_POLE_MASS, com=middle_of_pole, inertia=_rod_inertia(_POLE_MASS, _POLE_LENGTH), label="pole"
    )
    builder.add_articulation(
        [
            builder.add_joint_prismatic(
                parent=-1,
                child=cart,
                axis=(1.0, 0.0, 0.0),
                parent_xform=on_rail,
                limit_lower=-RAIL_REACH,
                limit_upper=RAIL_REACH,
                limit_ke=2000.0,
                limit_kd=50.0,
                armature=0.0,
            ),
            builder.add_joint_revolute(parent=cart, child=pole, axis=(0.0, 1.0, 0.0), armature=0.0),
        ],
        label="cart_pole",
    )
    rail = wp.transform(on_rail.p, along_x)
    builder.add_shape_capsule(-1, xform=rail, radius=0.04, half_height=RAIL_REACH + 0.14, cfg=looks, color=_RAIL_COLOR)
    foot = wp.transform((0.0, 0.0, _RAIL_HEIGHT / 2), wp.quat_identity())
    builder.add_shape_box(-1, xform=foot, hx=0.06, hy=0.03, hz=_RAIL_HEIGHT / 2, cfg=looks, color=_RAIL_COLOR)
    builder.add_shape_box(cart, hx=0.23, hy=0.13, hz=0.12, cfg=looks, color=_CART_COLOR)
    # The pole swings past the side of the cart that faces the camera, so that one that hangs is seen whole.
    beside_cart = wp.vec3(0.0, -0.2, 0.0)
    builder.add_shape_capsule(
        pole,
        xform=wp.transform(middle_of_pole + beside_cart, wp.quat_identity()),
        radius=0.055,
        half_height=_POLE_LENGTH / 2,
        cfg=looks,
        color=_POLE_COLOR,
    )
    tip = wp.transform(2.0 * middle_of_pole + beside_cart, wp.quat_identity())
    builder.add_shape_sphere(pole, xform=tip, radius=0.12, cfg=looks, color=_TIP_COLOR)
    return builder


def _rod_inertia(mass: float, length: float) -> Any:
    """Return the inertia of a thin rod along z about its middle, slightly thick so that none is zero [kg m^2]."""
    across = mass * length**2 / 12.0
    return wp.mat33(np.diag((across, across, across / 100.0)))
