"""Newton models to record, and what is expected of their pictures."""

from __future__ import annotations

import math
import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("newton")
pytest.importorskip("warp")

import newton
import warp as wp

from stepreel.backends.newton import NewtonBackend
from stepreel.backends.render_device import choose_render_device
from stepreel.capture.frame_pool import PoolSlot
from stepreel.clip import CaptureRequest, ClipRequest, Snapshot
from stepreel.interfaces import CaptureFormat

Pixels = NDArray[np.uint8]
Vector = tuple[float, float, float]

WIDTH, HEIGHT = 192, 128
REQUEST = CaptureRequest(
    clip=ClipRequest(name="clip", stream="default", start_step=0, frame_stride=1, clip_index=0), step=0, pts=0
)

gl = pytest.mark.gl
needs_gl = pytest.mark.skipif(
    choose_render_device("cpu", None).opengl_problem is not None, reason="no EGL that draws on the CPU here"
)
needs_cuda = pytest.mark.skipif(wp.get_cuda_device_count() == 0, reason="no CUDA device here")
both_renderers = pytest.mark.parametrize("renderer", [pytest.param("gl", marks=[gl, needs_gl]), pytest.param("warp")])

WORKER = """
import pickle, sys
import numpy as np
folder = sys.argv[1]
with open(folder + "/renderer.pickle", "rb") as file:
    renderer = pickle.load(file)
renderer.open()
pictures = [renderer.render(snapshot).copy() for snapshot in np.load(folder + "/snapshots.npy")]
renderer.close()
np.save(folder + "/pictures.npy", np.stack(pictures))
with open(folder + "/name", "w") as file:
    file.write(renderer.name)
"""


def zoo(up_axis: str = "Z") -> newton.ModelBuilder:
    """Every kind of shape once, each on a body of its own, turned and in a ring around the origin."""
    builder = newton.ModelBuilder(up_axis=newton.Axis.from_any(up_axis))
    knot = newton.Mesh.create_torus(0.3, 0.12, compute_inertia=False) if hasattr(newton.Mesh, "create_torus") else None
    mesh = knot or newton.Mesh.create_sphere(0.35, num_latitudes=5, num_longitudes=7, compute_inertia=False)
    kinds: list[Callable[[int], int]] = [
        lambda body: builder.add_shape_box(body, hx=0.2, hy=0.3, hz=0.4),
        lambda body: builder.add_shape_sphere(body, radius=0.3),
        lambda body: builder.add_shape_capsule(body, radius=0.15, half_height=0.3),
        lambda body: builder.add_shape_cylinder(body, radius=0.25, half_height=0.3),
        lambda body: builder.add_shape_cone(body, radius=0.3, half_height=0.35),
        lambda body: builder.add_shape_ellipsoid(body, rx=0.2, ry=0.3, rz=0.4),
        lambda body: builder.add_shape_mesh(body, mesh=mesh, scale=(1.0, 1.3, 0.8)),
        lambda body: builder.add_shape_mesh(body, mesh=mesh, scale=(-1.0, 1.0, 1.0)),
    ]
    up = newton.Axis.from_any(up_axis).value
    for index, add in enumerate(kinds):
        angle = 2 * math.pi * index / len(kinds)
        place = [1.5 * math.cos(angle), 1.5 * math.sin(angle)]
        place.insert(up, 0.6)
        turn = wp.quat_rpy(0.4 * index, 0.3, 0.2)
        body = builder.add_body(
            xform=wp.transform(place, turn), mass=1.0, inertia=wp.mat33(np.eye(3)), lock_inertia=True
        )
        shape = add(body)
        builder.shape_color[shape] = wp.vec3(0.9 - 0.1 * index, 0.2 + 0.1 * index, 0.5)
    builder.add_shape_box(-1, xform=wp.transform((0.0, 0.0, 0.1), wp.quat_identity()), hx=0.1, hy=0.1, hz=0.1)
    hidden = newton.ModelBuilder.ShapeConfig(is_visible=False)
    builder.add_shape_sphere(0, radius=1.2, cfg=hidden)
    return builder


def sphere(radius: float = 0.1, up_axis: str = "Z") -> newton.ModelBuilder:
    builder = newton.ModelBuilder(up_axis=newton.Axis.from_any(up_axis))
    builder.add_shape_sphere(builder.add_body(), radius=radius)
    return builder


def cloth() -> newton.ModelBuilder:
    builder = newton.ModelBuilder()
    builder.add_cloth_grid(
        pos=wp.vec3(-0.6, -0.6, 0.5),
        rot=wp.quat_rpy(0.3, 0.2, 0.0),
        vel=wp.vec3(0.0),
        dim_x=6,
        dim_y=6,
        cell_x=0.2,
        cell_y=0.2,
        mass=0.1,
    )
    return builder


def worlds_of(builder: newton.ModelBuilder, count: int, *, ground: bool = True) -> newton.Model:
    scene = newton.ModelBuilder(up_axis=builder.up_axis)
    scene.replicate(builder, count)
    if ground:
        scene.add_ground_plane()
    return scene.finalize(device="cpu")


def moved(model: newton.Model, step: int = 1) -> newton.State:
    """A state in which every body and particle is elsewhere than at the start."""
    state = model.state()
    rng = np.random.default_rng(step)
    if model.body_count:
        bodies = state.body_q.numpy()
        bodies[:, :3] += rng.uniform(-0.3, 0.3, size=(len(bodies), 3)).astype(np.float32)
    if model.particle_count:
        particles = state.particle_q.numpy()
        particles += rng.uniform(-0.05, 0.05, size=particles.shape).astype(np.float32)
    return state


def backend_of(model: newton.Model, state: newton.State | None = None, **settings: Any) -> NewtonBackend:
    settings = {"eye": (4.0, 4.0, 3.0), **settings}
    current = state if state is not None else model.state()
    return NewtonBackend(model, lambda: current, **settings)


def opened(backend: NewtonBackend) -> CaptureFormat:
    return backend.open(width=WIDTH, height=HEIGHT, worker_device="auto")


def captured(backend: NewtonBackend, slot: PoolSlot) -> Pixels:
    capture = backend.capture(REQUEST, slot)
    snapshot = capture if isinstance(capture, Snapshot) else capture.wait()
    return slot.array(snapshot.nbytes).copy()


def draw_in_worker(
    capture_format: CaptureFormat,
    snapshots: Sequence[Pixels],
    folder: Path,
    environment: Mapping[str, str] | None = None,
) -> tuple[Pixels, str]:
    """Draw as a worker does, in a new process that gets only the pickled renderer and the snapshots."""
    (folder / "renderer.pickle").write_bytes(pickle.dumps(capture_format.renderer))
    np.save(folder / "snapshots.npy", np.stack(snapshots))
    subprocess.run(
        [sys.executable, "-W", "error::DeprecationWarning", "-c", WORKER, str(folder)],
        env={
            **os.environ,
            **capture_format.worker_environment,
            **(environment or {}),
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        },
        check=True,
    )
    return np.load(folder / "pictures.npy"), (folder / "name").read_text()


def draw_here(capture_format: CaptureFormat, *snapshots: Pixels) -> list[Pixels]:
    renderer = capture_format.renderer
    assert renderer is not None
    renderer.open()
    try:
        return [renderer.render(snapshot).copy() for snapshot in snapshots]
    finally:
        renderer.close()


def viewers_picture(
    model: newton.Model,
    state: newton.State,
    *,
    eye: Vector = (4.0, 4.0, 3.0),
    worlds: Sequence[int] | None = None,
    world_spacing: Vector | None = None,
) -> Pixels:
    """What Newton's own viewer draws of the whole model on this thread."""
    import pyglet

    pyglet.options["headless"] = True
    pyglet.app.event_loop.has_exit = False
    viewer = newton.viewer.ViewerGL(width=WIDTH, height=HEIGHT, headless=True)
    viewer.set_model(model)
    viewer.set_visible_worlds(worlds)
    if world_spacing is not None:
        viewer.set_world_offsets(world_spacing)
    x, y, z = -np.array(eye) / np.linalg.norm(eye)
    pitch, yaw = math.degrees(math.asin(z)), math.degrees(math.atan2(y, x))
    if int(model.up_axis) == 1:
        pitch, yaw = math.degrees(math.asin(y)), math.degrees(math.atan2(z, x))
    viewer.set_camera(pos=wp.vec3(*eye), pitch=pitch, yaw=yaw)
    viewer.begin_frame(0.0)
    viewer.log_state(state)
    viewer.end_frame()
    pixels: Pixels = viewer.get_frame().numpy().copy()
    viewer.close()
    return pixels


def assert_same_picture(picture: Pixels, expected: Pixels) -> None:
    assert expected.std() > 10, "there is something to see"
    difference = np.abs(picture.astype(int) - expected.astype(int))
    assert difference.mean() < 0.05
    # The order in which triangles are drawn may differ, and decides pixels on edges.
    assert (difference.max(axis=2) > 8).mean() < 0.002


def center_of_change(picture: Pixels, background: Pixels) -> tuple[float, float]:
    """The middle of what differs, as pixel coordinates x, y of pixel centers."""
    changed = np.abs(picture.astype(int) - background.astype(int)).max(axis=2) > 25
    assert changed.sum() > 10
    y, x = np.nonzero(changed)
    return float(x.mean()) + 0.5, float(y.mean()) + 0.5


def pixel_of(
    point: Vector, eye: Vector, lookat: Vector, fov: float, up_axis: int, size: tuple[int, int] = (WIDTH, HEIGHT)
) -> tuple[float, float]:
    """Where a pinhole camera sees a point: the textbook's formula."""
    forward = (np.array(lookat) - eye) / math.dist(eye, lookat)
    right = np.cross(forward, np.eye(3)[up_axis])
    right /= np.linalg.norm(right)
    up = np.cross(right, forward)
    offset = np.array(point) - eye
    width, height = size
    focal = height / 2 / math.tan(math.radians(fov) / 2)
    depth = float(offset @ forward)
    return width / 2 + focal * float(offset @ right) / depth, height / 2 - focal * float(offset @ up) / depth
