"""Augmented random search on a Newton simulation: arms of two links learn to reach up, 32 at a time.

    python examples/newton_ars.py --video

Every world tries one policy, a random step to either side of the current one; the steps that paid off most are taken.
(Mania, Guy and Recht, "Simple random search of static linear policies is competitive for reinforcement learning",
2018: ARS V1-t.) Every tenth iteration, and the last, become a clip that shows six of the worlds in tiles of their own.
"""

from __future__ import annotations

import argparse
from contextlib import ExitStack
from dataclasses import replace

import newton
import numpy as np
import warp as wp
from numpy.typing import NDArray

from stepreel import Recorder, RecorderConfig, add_video_arguments
from stepreel.backends.newton import NewtonBackend

STEPS_PER_SECOND = 30
SUBSTEPS = 8
EPISODE_STEPS = 120
DIRECTIONS = 16
BEST_DIRECTIONS = 8
STEP_SIZE = 0.15
NOISE = 0.25

LINK_LENGTH = 0.6
SHOULDER_HEIGHT = 1.4
TORQUES = np.array([14.0, 6.0])
"""At an action of 1: shoulder, elbow [N m]."""
DAMPING = np.array([0.6, 0.3])
"""Of the joints [N m s/rad]."""
OBSERVATIONS = 7
ACTIONS = 2

Floats = NDArray[np.float64]


def build_arm() -> newton.ModelBuilder:
    """A post, and on it an arm of two links that turns about y; it points up at angles of 0."""
    looks = newton.ModelBuilder.ShapeConfig(density=0.0, has_shape_collision=False, has_particle_collision=False)
    shoulder = wp.transform((0.0, 0.0, SHOULDER_HEIGHT), wp.quat_identity())
    middle, end = wp.vec3(0.0, 0.0, LINK_LENGTH / 2), wp.vec3(0.0, 0.0, LINK_LENGTH)
    elbow = wp.transform(end, wp.quat_identity())
    builder = newton.ModelBuilder()
    inertia = wp.mat33(np.diag((0.04, 0.04, 0.002)))
    links = [builder.add_link(xform=shoulder, mass=1.0, com=middle, inertia=inertia, label=f"link {n}") for n in (0, 1)]
    builder.add_articulation(
        [
            builder.add_joint_revolute(parent=-1, child=links[0], axis=(0.0, 1.0, 0.0), parent_xform=shoulder),
            builder.add_joint_revolute(parent=links[0], child=links[1], axis=(0.0, 1.0, 0.0), parent_xform=elbow),
        ]
    )
    post = wp.transform((0.0, 0.25, SHOULDER_HEIGHT / 2), wp.quat_identity())
    builder.add_shape_box(-1, xform=post, hx=0.08, hy=0.08, hz=SHOULDER_HEIGHT / 2, cfg=looks, color=(0.45, 0.48, 0.53))
    for link, color in zip(links, ((0.15, 0.45, 0.85), (0.95, 0.6, 0.12)), strict=True):
        along = wp.transform(middle, wp.quat_identity())
        builder.add_shape_capsule(link, xform=along, radius=0.07, half_height=LINK_LENGTH / 2, cfg=looks, color=color)
    tip = wp.transform(end, wp.quat_identity())
    builder.add_shape_sphere(links[1], xform=tip, radius=0.13, cfg=looks, color=(0.9, 0.22, 0.2))
    return builder


class Arms:
    """As many arms as there are policies to try."""

    def __init__(self, count: int, rng: np.random.Generator) -> None:
        builder = newton.ModelBuilder()
        builder.replicate(build_arm(), count)
        builder.add_ground_plane()
        self.model = builder.finalize()
        self.state, self._next_state = self.model.state(), self.model.state()
        self._control = self.model.control()
        self._solver = newton.solvers.SolverFeatherstone(self.model)
        self._rng = rng
        self._count = count

    def reset(self) -> Floats:
        """Let every arm hang, nearly."""
        angles = np.array([np.pi, 0.0]) + self._rng.uniform(-0.3, 0.3, (self._count, 2))
        self.state.joint_q.assign(angles.astype(np.float32).reshape(-1))
        self.state.joint_qd.zero_()
        newton.eval_fk(self.model, self.state.joint_q, self.state.joint_qd, self.state)
        return self._observe()[0]

    def step(self, actions: Floats) -> tuple[Floats, Floats]:
        """Turn the joints; return observations and rewards: the height of each tip, 0 hanging and 1 upright."""
        speeds = self.state.joint_qd.numpy().reshape(-1, 2)
        torques = np.clip(actions, -1.0, 1.0) * TORQUES - DAMPING * speeds
        self._control.joint_f.assign(torques.astype(np.float32).reshape(-1))
        for _ in range(SUBSTEPS):
            self.state.clear_forces()
            self._solver.step(self.state, self._next_state, self._control, None, 1 / (STEPS_PER_SECOND * SUBSTEPS))
            self.state, self._next_state = self._next_state, self.state
        return self._observe()

    def _observe(self) -> tuple[Floats, Floats]:
        angles = self.state.joint_q.numpy().reshape(-1, 2).astype(np.float64)
        speeds = self.state.joint_qd.numpy().reshape(-1, 2)
        upper, lower = angles[:, 0], angles.sum(axis=1)
        height = (np.cos(upper) + np.cos(lower) + 2.0) / 4.0
        parts = (np.sin(upper), np.cos(upper), np.sin(lower), np.cos(lower), *(0.1 * speeds.T), np.ones(self._count))
        return np.stack(parts, axis=1), height


def is_shown(iteration: int, iterations: int) -> bool:
    return iteration % 10 == 0 or iteration == iterations - 1


def search(arms: Arms, recorder: Recorder | None, iterations: int, rng: np.random.Generator) -> None:
    policy = np.zeros((ACTIONS, OBSERVATIONS))
    for iteration in range(iterations):
        directions = rng.normal(size=(DIRECTIONS, *policy.shape))
        policies = policy + NOISE * np.concatenate((directions, -directions))
        observations = arms.reset()
        if recorder:
            recorder.reset()
        returns = np.zeros(len(policies))
        for _ in range(EPISODE_STEPS):
            observations, rewards = arms.step(np.einsum("wao,wo->wa", policies, observations))
            returns += rewards / EPISODE_STEPS
            if recorder:
                recorder.step()
        plus, minus = returns[:DIRECTIONS], returns[DIRECTIONS:]
        best = np.argsort(-np.maximum(plus, minus))[:BEST_DIRECTIONS]
        spread = np.concatenate((plus[best], minus[best])).std() + 1e-6
        gains = (plus - minus)[best, None, None] * directions[best]
        policy += STEP_SIZE / (BEST_DIRECTIONS * spread) * gains.sum(axis=0)
        if is_shown(iteration, iterations):
            print(f"iteration {iteration}: mean height {returns.mean():.2f}, best {returns.max():.2f}")


def main(args: argparse.Namespace) -> None:
    rng = np.random.default_rng(args.seed)
    arms = Arms(2 * DIRECTIONS, rng)
    with ExitStack() as stack:
        recorder = None
        if args.video:
            backend = NewtonBackend(
                arms.model,
                lambda: arms.state,
                eye=(0.6, -4.6, 1.9),
                lookat=(0.0, 0.0, 1.35),
                tiles=(2, 3),
                steps_per_second=STEPS_PER_SECOND,
            )
            config = replace(
                RecorderConfig.from_arguments(args, log_dir=args.log_dir),
                width=960,
                height=540,
                video_length=0,  # A clip lasts as long as its episode, which is an iteration.
                episode_trigger=lambda episode: is_shown(episode, args.iterations),
            )
            recorder = stack.enter_context(Recorder(config, backend))
        search(arms, recorder, args.iterations, rng)
    if recorder:
        print(recorder.summary())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--iterations", type=int, default=31)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--log_dir", default="logs/newton_ars")
    add_video_arguments(parser)
    main(parser.parse_args())
