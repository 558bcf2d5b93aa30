"""Cameras that a task renders itself: what the tensor held at a step is what the video shows of that step."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from stepreel import Recorder, RecorderConfig
from stepreel.backends.archives import make_renderer
from stepreel.backends.camera import Camera
from stepreel.backends.colour import depth_to_rgb, labels_to_rgb, normals_to_rgb
from stepreel.backends.isaaclab.sensor import SensorBackend, SensorRenderer
from stepreel.backends.synthetic import SyntheticRenderer, read_step
from stepreel.capture.frame_pool import PoolSlot
from stepreel.clip import CaptureRequest, ClipRequest, ClipState, Frame, Snapshot
from stepreel.errors import BackendError, CaptureError, ConfigurationError, SourceUnavailableError

from ...memory import make_pool
from ...recordings import check_clip

WIDTH, HEIGHT, ENVS = 160, 90, 4
REQUEST = CaptureRequest(
    clip=ClipRequest(name="clip", stream="default", start_step=0, frame_stride=1, clip_index=0), step=0, pts=0
)
Pixels = NDArray[np.uint8]


class CameraData:
    def __init__(self, output: dict[str, Any]) -> None:
        self.output = output


class CameraSensor:
    """A camera of the documented shape: `data` is read lazily, `rgb` is a view into `rgba`."""

    def __init__(self, **output: Any) -> None:
        self.rgba = np.zeros((ENVS, HEIGHT, WIDTH, 4), np.uint8)
        self.output = {"rgb": self.rgba[..., :3], "rgba": self.rgba, **output}
        self.reads = 0
        self._scenery = SyntheticRenderer(width=WIDTH, height=HEIGHT)
        self._scenery.open()

    @property
    def data(self) -> CameraData:
        self.reads += 1
        return CameraData(self.output)

    def render(self, step: int) -> None:
        """Write a step into each environment's picture: environment 1 shows 1000 more than environment 0."""
        picture = np.empty((HEIGHT, WIDTH, 3), np.uint8)
        for env in range(ENVS):
            self._scenery.draw(step + 1000 * env, picture)
            self.rgba[env, ..., :3] = picture


class ContactSensor:
    """What else is among the sensors."""

    class data:
        net_forces = np.zeros((ENVS, 3))


@pytest.fixture
def slot() -> Iterator[PoolSlot]:
    with make_pool(4 * 2**20) as pool:
        yield pool.lease()


def with_output(name: str, array: Any) -> dict[str, Any]:
    return {"camera": CameraSensor(**{name: array}), "contacts": ContactSensor()}


def drawn(backend: SensorBackend, slot: PoolSlot) -> Pixels:
    """The picture of what the sensor holds, as it comes out of the worker."""
    described = backend.open(width=None, height=None, worker_device="auto")
    capture = backend.capture(REQUEST, slot)
    if isinstance(capture, Frame):
        assert described.renderer is None
        assert capture.nbytes == described.nbytes
        return slot.array(capture.nbytes).reshape(capture.height, capture.width, 3).copy()
    assert isinstance(capture, Snapshot)
    assert isinstance(described.renderer, SensorRenderer)
    assert capture.nbytes == described.nbytes
    described.renderer.open()
    try:
        return described.renderer.render(slot.array(capture.nbytes)).copy()
    finally:
        described.renderer.close()


def config_of(output_dir: Path, length: int = 12, **settings: Any) -> RecorderConfig:
    return RecorderConfig(output_dir=output_dir, video_length=length, video_interval=0, codec="libx264", **settings)


def test_each_frame_of_the_video_shows_what_the_tensor_held_at_that_step(output_dir: Path) -> None:
    camera = CameraSensor()
    camera.render(-1)
    with Recorder(config_of(output_dir), SensorBackend({"camera": camera}, "camera")) as recorder:
        recorder.reset()
        for step in range(12):
            camera.render(step)
            recorder.step()
        camera.render(999)
    (clip,) = recorder.summary().clips
    assert clip.state is ClipState.COMPLETE
    assert clip.backend == "sensor"
    check_clip(output_dir, clip)


def test_a_captured_step_reads_the_sensor_once_and_another_one_not_at_all(output_dir: Path) -> None:
    camera = CameraSensor()
    backend = SensorBackend({"camera": camera}, "camera")
    with Recorder(config_of(output_dir, 5, step_offset=3), backend) as recorder:
        opened = camera.reads
        for step in range(10):
            camera.render(step)
            recorder.step()
        assert camera.reads == opened + 5


def test_environments_side_by_side_are_each_in_their_place(output_dir: Path) -> None:
    camera = CameraSensor()
    backend = SensorBackend({"camera": camera}, "camera", env_indices=[3, 0, 2])
    with Recorder(config_of(output_dir, 4), backend) as recorder:
        for step in range(4):
            camera.render(step)
            recorder.step()
    (clip,) = recorder.summary().clips
    assert (clip.width, clip.height) == (2 * WIDTH, 2 * HEIGHT)
    with av.open(str(output_dir / clip.segments[0].file)) as container:
        pictures = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    for step, picture in enumerate(pictures):
        top, bottom = picture[:HEIGHT], picture[HEIGHT:]
        assert read_step(top[:, :WIDTH]) == 3000 + step
        assert read_step(top[:, WIDTH:]) == step
        assert read_step(bottom[:, :WIDTH]) == 2000 + step
        assert bottom[:, WIDTH:].max() < 20, "what is left over is black"


@pytest.mark.parametrize(
    ("settings", "shape", "envs"),
    [
        ({}, (1, 1), [0]),
        ({"tiles": (2, 2)}, (2, 2), [0, 1, 2, 3]),
        ({"tiles": (1, 3)}, (1, 3), [0, 1, 2]),
        ({"env_indices": [2]}, (1, 1), [2]),
        ({"env_indices": [0, 1]}, (1, 2), [0, 1]),
        ({"env_indices": [1, 3], "tiles": (2, 1)}, (2, 1), [1, 3]),
    ],
)
def test_the_picture_has_the_environments_and_tiles_asked_for(
    settings: dict[str, Any], shape: tuple[int, int], envs: list[int]
) -> None:
    described = SensorBackend({"c": CameraSensor()}, "c", **settings).open(
        width=None, height=None, worker_device="auto"
    )
    assert (described.height, described.width) == (shape[0] * HEIGHT, shape[1] * WIDTH)
    assert described.details["env_indices"] == envs
    assert described.details["tiles"] == list(shape)


def test_colours_are_copied_through_the_view_of_them(slot: PoolSlot) -> None:
    camera = CameraSensor()
    camera.rgba[:] = np.random.default_rng(3).integers(0, 256, camera.rgba.shape, np.uint8)
    assert not camera.output["rgb"].flags.c_contiguous
    picture = drawn(SensorBackend({"c": camera}, "c", env_indices=[2]), slot)
    np.testing.assert_array_equal(picture, camera.rgba[2, ..., :3])


@pytest.mark.parametrize("name", ["depth", "distance_to_image_plane", "distance_to_camera"])
def test_depth_is_coloured_over_its_range_from_whatever_output_holds_it(slot: PoolSlot, name: str) -> None:
    depth = np.linspace(0.0, 9.0, ENVS * HEIGHT * WIDTH, dtype=np.float32).reshape(ENVS, HEIGHT, WIDTH, 1)
    depth[1, 5, 7] = math.inf
    backend = SensorBackend(
        with_output(name, depth), "camera", channel="depth", env_indices=[1], depth_range=(2.0, 4.0)
    )
    picture = drawn(backend, slot)
    np.testing.assert_array_equal(picture, depth_to_rgb(depth[1, ..., 0], near=2.0, far=4.0))
    assert picture[5, 7].tolist() == [0, 0, 0]
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 100


def test_depth_without_an_axis_of_channels_and_of_half_precision_is_taken(slot: PoolSlot) -> None:
    depth = np.full((ENVS, HEIGHT, WIDTH), 3.0, np.float16)
    picture = drawn(SensorBackend(with_output("depth", depth), "camera", channel="depth"), slot)
    np.testing.assert_array_equal(picture, depth_to_rgb(depth[0], near=0.1, far=10.0))


def test_normals_are_coloured(slot: PoolSlot) -> None:
    normals = np.random.default_rng(3).normal(size=(ENVS, HEIGHT, WIDTH, 3)).astype(np.float32)
    picture = drawn(SensorBackend(with_output("normals", normals), "camera", channel="normals", tiles=(2, 2)), slot)
    np.testing.assert_array_equal(picture[HEIGHT:, WIDTH:], normals_to_rgb(normals[3]))


def test_labels_are_coloured(slot: PoolSlot) -> None:
    labels = np.random.default_rng(3).integers(0, 9, (ENVS, HEIGHT, WIDTH, 1), np.int32)
    sensors = with_output("semantic_segmentation", labels)
    picture = drawn(SensorBackend(sensors, "camera", channel="segmentation"), slot)
    np.testing.assert_array_equal(picture, labels_to_rgb(labels[0, ..., 0], background=0))


def test_a_segmentation_that_is_coloured_already_stays_as_it_is(slot: PoolSlot) -> None:
    colours = np.random.default_rng(3).integers(0, 256, (ENVS, HEIGHT, WIDTH, 4), np.uint8)
    sensors = with_output("semantic_segmentation", colours)
    picture = drawn(SensorBackend(sensors, "camera", channel="segmentation"), slot)
    np.testing.assert_array_equal(picture, colours[0, ..., :3])


class Tensor:
    """A tensor in host memory, as torch has it: numpy gets at it once it is detached."""

    is_cuda = False

    def __init__(self, array: NDArray[Any], *, is_detached: bool = False) -> None:
        self._array = array
        self._is_detached = is_detached
        self.shape, self.dtype, self.device = array.shape, f"torch.{array.dtype}", "cpu"

    def __getitem__(self, key: Any) -> Tensor:
        return Tensor(self._array[key], is_detached=self._is_detached)

    def detach(self) -> Tensor:
        return Tensor(self._array, is_detached=True)

    def cpu(self) -> Tensor:
        return self

    def numpy(self) -> NDArray[Any]:
        assert self._is_detached, "a tensor that requires grad has no numpy()"
        return self._array


class Proxy:
    """What Isaac Lab 3.0 puts around its arrays."""

    def __init__(self, tensor: Tensor) -> None:
        self.torch = tensor


@pytest.mark.parametrize("wrap", [Tensor, lambda array: Proxy(Tensor(array))], ids=["tensor", "proxy"])
@pytest.mark.parametrize("channel", ["rgb", "depth"])
def test_a_tensor_is_read_where_it_lies(slot: PoolSlot, wrap: Any, channel: str) -> None:
    camera = CameraSensor()
    camera.render(77)
    depth = np.full((ENVS, HEIGHT, WIDTH, 1), 5.0, np.float32)
    camera.output = {"rgb": wrap(camera.rgba[..., :3]), "depth": wrap(depth)}
    picture = drawn(SensorBackend({"c": camera}, "c", channel=channel), slot)
    if channel == "rgb":
        assert read_step(picture) == 77
    else:
        assert (picture == depth_to_rgb(depth[0, ..., 0], near=0.1, far=10.0)).all()


@pytest.mark.integrations
def test_a_tensor_of_torch_is_recorded(slot: PoolSlot) -> None:
    import torch

    camera = CameraSensor()
    camera.render(5)
    camera.output = {"rgb": torch.from_numpy(camera.rgba)[..., :3]}
    assert read_step(drawn(SensorBackend({"c": camera}, "c"), slot)) == 5


def test_a_renderer_made_of_its_archive_makes_the_same_picture(slot: PoolSlot) -> None:
    depth = np.random.default_rng(3).uniform(0, 12, (ENVS, HEIGHT, WIDTH, 1)).astype(np.float32)
    backend = SensorBackend(with_output("depth", depth), "camera", channel="depth", tiles=(1, 3))
    picture = drawn(backend, slot)
    described = backend.open(width=None, height=None, worker_device="auto")
    assert isinstance(described.renderer, SensorRenderer)
    archive = described.renderer.to_archive()
    again = make_renderer(archive)
    again.open()
    capture = backend.capture(REQUEST, slot)
    assert isinstance(capture, Snapshot)
    np.testing.assert_array_equal(again.render(slot.array(capture.nbytes)), picture)
    with pytest.raises(BackendError, match="taken by a sensor"):
        make_renderer(archive, camera=Camera())
    with pytest.raises(BackendError, match="480x90 pixels, which can't be changed"):
        make_renderer(archive, width=7)


@pytest.mark.parametrize("tiles", [{"count": 3}, {"rows": 0}, {"width": 10**9}, {"columns": -1}])
def test_an_archive_of_pictures_that_can_not_be_is_refused(tiles: dict[str, int]) -> None:
    backend = SensorBackend(
        with_output("depth", np.ones((ENVS, HEIGHT, WIDTH, 1), np.float32)), "camera", channel="depth"
    )
    described = backend.open(width=None, height=None, worker_device="auto")
    assert isinstance(described.renderer, SensorRenderer)
    archive = described.renderer.to_archive()
    settings = {**archive.settings, "tiles": {**archive.settings["tiles"], **tiles}}
    with pytest.raises(BackendError, match="damaged"):
        make_renderer(replace(archive, settings=settings))


def test_a_sensor_that_is_not_there_is_told_with_those_that_are() -> None:
    with pytest.raises(SourceUnavailableError, match=r"the sensor 'front' in the scene, found camera, contacts"):
        SensorBackend({"camera": CameraSensor(), "contacts": ContactSensor()}, "front")


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"channel": "thermal"}, r"channel: got 'thermal'; allowed: one of rgb, depth, segmentation, normals"),
        ({"env_indices": []}, r"env_indices: got \[\]"),
        ({"env_indices": [-1]}, r"env_indices: got \[-1\]"),
        ({"env_indices": [0.5]}, r"env_indices: got \[0\.5\]"),
        ({"tiles": (0, 2)}, r"tiles: got \(0, 2\)"),
        ({"tiles": 4}, r"tiles: got 4"),
        ({"depth_range": (5.0, 1.0)}, r"depth_range: got \(5\.0, 1\.0\)"),
    ],
)
def test_a_setting_that_can_not_work_is_refused_at_construction(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigurationError, match=told):
        SensorBackend({"camera": CameraSensor()}, "camera", **settings)


@pytest.mark.parametrize(
    ("settings", "size", "told"),
    [
        ({"tiles": (3, 2)}, (None, None), r"tiles: got \(3, 2\); allowed: no more than the 4 environments"),
        ({"env_indices": [1, 4]}, (None, None), r"env_indices: got \[4\]; allowed: 0 to 3"),
        ({"env_indices": [0, 1], "tiles": (2, 2)}, (None, None), r"tiles: got \(2, 2\); allowed: room for 2"),
        ({"env_indices": [0, 1, 2], "tiles": (1, 2)}, (None, None), r"tiles: got \(1, 2\); allowed: room for 3"),
        ({}, (640, None), r"width: got 640; allowed for the output 'rgb' of sensor 'camera': 160"),
    ],
)
def test_what_does_not_go_with_the_sensor_is_refused_when_it_is_opened(
    settings: dict[str, Any], size: tuple[int | None, int | None], told: str
) -> None:
    backend = SensorBackend({"camera": CameraSensor()}, "camera", **settings)
    with pytest.raises(ConfigurationError, match=told):
        backend.open(width=size[0], height=size[1], worker_device="auto")


def test_a_channel_that_the_sensor_does_not_render_is_told_with_its_outputs() -> None:
    backend = SensorBackend({"camera": CameraSensor()}, "camera", channel="normals")
    with pytest.raises(SourceUnavailableError, match=r"looked for normals, found rgb, rgba; add one of those"):
        backend.open(width=None, height=None, worker_device="auto")


def test_a_sensor_that_is_no_camera_is_refused() -> None:
    backend = SensorBackend({"contacts": ContactSensor()}, "contacts")
    with pytest.raises(BackendError, match="'contacts' holds no pictures"):
        backend.open(width=None, height=None, worker_device="auto")


@pytest.mark.parametrize(
    ("name", "channel", "array", "told"),
    [
        ("rgb", "rgb", np.zeros((ENVS, HEIGHT, WIDTH, 3), np.float32), "float32, 3 for each pixel"),
        ("depth", "depth", np.zeros((ENVS, HEIGHT, WIDTH, 1), np.int32), "int32, 1 for each pixel"),
        ("normals", "normals", np.zeros((ENVS, HEIGHT, WIDTH, 2), np.float32), "float32, 2 for each pixel"),
        ("rgb", "rgb", np.zeros((0, HEIGHT, WIDTH, 3), np.uint8), r"the shape \[0, 90, 160, 3\]"),
        ("rgb", "rgb", np.zeros((HEIGHT, 3), np.uint8), r"the shape \[90, 3\]"),
        ("rgb", "rgb", [1, 2], "the shape \\[\\]"),
    ],
)
def test_an_output_that_is_no_picture_is_refused(name: str, channel: str, array: Any, told: str) -> None:
    backend = SensorBackend(with_output(name, array), "camera", channel=channel)
    with pytest.raises(BackendError, match=told):
        backend.open(width=None, height=None, worker_device="auto")


@pytest.mark.parametrize(
    "output",
    [
        {},
        {"rgb": np.zeros((ENVS, HEIGHT, WIDTH + 2, 3), np.uint8)},
        {"rgb": np.zeros((1, HEIGHT, WIDTH, 3), np.uint8)},
        {"rgb": np.zeros((ENVS, HEIGHT, WIDTH, 3), np.float32)},
    ],
)
def test_a_sensor_that_holds_something_else_meanwhile_costs_the_frame(slot: PoolSlot, output: dict[str, Any]) -> None:
    camera = CameraSensor()
    backend = SensorBackend({"c": camera}, "c", env_indices=[1])
    backend.open(width=None, height=None, worker_device="auto")
    camera.output = output
    with pytest.raises(CaptureError, match=r"is gone|the sensor holds .*, where it held"):
        backend.capture(REQUEST, slot)
    backend.close()
    with pytest.raises(CaptureError, match="not open"):
        backend.capture(REQUEST, slot)
