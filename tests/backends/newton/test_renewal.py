"""A model that becomes another one while it is recorded."""

from __future__ import annotations

import gc
import json
import weakref
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import pytest

pytest.importorskip("newton")
pytest.importorskip("warp")

import newton

from stepreel import Recorder, RecorderConfig
from stepreel.backends.newton import NewtonBackend
from stepreel.backends.newton.renderer import WarpRenderer
from stepreel.capture.frame_pool import PoolSlot
from stepreel.clip import ClipState, DropCause
from stepreel.errors import BackendError, CaptureError, ConfigurationError, SourceChangedError
from stepreel.interfaces import RenewableBackend

from ...memory import make_pool
from .scenes import HEIGHT, REQUEST, WIDTH, captured, draw_here, opened, sphere, worlds_of

pytestmark = [
    pytest.mark.newton,
    pytest.mark.timeout(300),  # Kernels compile in the first test that draws.
]


@pytest.fixture
def slot() -> Iterator[PoolSlot]:
    with make_pool(2**20) as pool:
        yield pool.lease()


class Simulation:
    """A model that can be built anew."""

    def __init__(self, world_count: int, radius: float = 0.3) -> None:
        self.build(world_count, radius)

    def build(self, world_count: int, radius: float = 0.3) -> None:
        self.model = worlds_of(sphere(radius), world_count, ground=False)
        self.state = self.model.state()

    def backend(self) -> NewtonBackend:
        return NewtonBackend(lambda: self.model, lambda: self.state, renderer="warp", eye=(6.0, 0.0, 0.0))


def test_the_same_model_is_announced_once() -> None:
    backend = Simulation(2).backend()
    assert isinstance(backend, RenewableBackend)
    assert backend.renewed() is None, "it is not open"
    opened(backend)
    assert backend.renewed() is None


def test_another_model_is_announced_in_the_size_that_was_asked_for(slot: PoolSlot) -> None:
    simulation = Simulation(2)
    backend = simulation.backend()
    first = opened(backend)
    simulation.build(3)
    with pytest.raises(SourceChangedError, match=r"state\.body_q has 3 rows, the model 2"):
        backend.capture(REQUEST, slot)
    renewed = backend.renewed()
    assert renewed is not None
    assert (renewed.width, renewed.height, renewed.nbytes) == (WIDTH, HEIGHT, 84)
    assert (first.nbytes, len(captured(backend, slot))) == (56, 84)
    assert backend.renewed() is None


def test_another_model_of_the_same_size_is_announced_too(slot: PoolSlot) -> None:
    simulation = Simulation(2, radius=0.2)
    backend = simulation.backend()
    first = opened(backend)
    before = captured(backend, slot)
    simulation.build(2, radius=0.6)
    renewed = backend.renewed()
    assert renewed is not None
    balls = [
        int((picture != picture[0, 0]).any(axis=2).sum())
        for picture in (*draw_here(first, before), *draw_here(renewed, captured(backend, slot)))
    ]
    assert balls[1] > 4 * balls[0]


def test_a_model_that_was_changed_in_place_is_announced() -> None:
    simulation = Simulation(2)
    backend = simulation.backend()
    opened(backend)
    other = worlds_of(sphere(), 4, ground=False)
    vars(simulation.model).update(vars(other))
    simulation.state = other.state()
    renewed = backend.renewed()
    assert renewed is not None
    assert renewed.nbytes == 112


def test_a_model_that_can_not_be_recorded_costs_captures_until_there_is_one_that_can(slot: PoolSlot) -> None:
    simulation = Simulation(2)
    backend = simulation.backend()
    opened(backend)
    hidden = newton.ModelBuilder.ShapeConfig(is_visible=False)
    builder = newton.ModelBuilder()
    builder.add_shape_sphere(builder.add_body(), radius=1.0, cfg=hidden)
    simulation.model = builder.finalize(device="cpu")
    for _ in range(2):
        with pytest.raises(BackendError, match="none of 1 shapes visible"):
            backend.renewed()
        with pytest.raises(CaptureError, match=r"what is simulated now can't be recorded: .*none of 1 shapes"):
            backend.capture(REQUEST, slot)
    simulation.build(1)
    assert backend.renewed() is not None
    assert len(captured(backend, slot)) == 28


def test_a_model_with_too_few_worlds_for_the_tiles_costs_captures(slot: PoolSlot) -> None:
    simulation = Simulation(4)
    backend = NewtonBackend(lambda: simulation.model, lambda: simulation.state, renderer="warp", tiles=(2, 2))
    opened(backend)
    simulation.build(3)
    with pytest.raises(ConfigurationError, match=r"tiles: got \(2, 2\); allowed: at most as many as worlds, 3"):
        backend.renewed()
    with pytest.raises(CaptureError, match="at most as many as worlds, 3"):
        backend.capture(REQUEST, slot)


def test_a_model_that_was_replaced_is_let_go() -> None:
    simulation = Simulation(2)
    backend = simulation.backend()
    opened(backend)
    old = weakref.ref(simulation.model)
    simulation.build(3)
    backend.renewed()
    gc.collect()
    assert old() is None


def test_a_clip_whose_model_changes_fails_and_the_next_one_shows_the_new_model(output_dir: Path) -> None:
    simulation = Simulation(1, radius=0.2)
    config = RecorderConfig(output_dir=output_dir, video_length=10, video_interval=10, width=160, height=90)
    with Recorder(config, simulation.backend()) as recorder:
        for step in range(20):
            if step == 4:
                simulation.build(2, radius=0.6)
            recorder.step()
    first, second = sorted(recorder.summary().clips, key=lambda clip: clip.start_step)
    assert first.state is ClipState.FAILED
    assert first.frames.encoded == 4
    assert set(first.frames.dropped) == {DropCause.CAPTURE_FAILED}
    assert second.state is ClipState.COMPLETE
    assert second.frames.encoded == 10
    balls = []
    for clip in (first, second):
        with av.open(str(output_dir / clip.segments[0].file)) as container:
            picture = next(container.decode(video=0)).to_ndarray(format="rgb24").astype(int)
        balls.append(int((np.abs(picture - picture[0, 0]).max(axis=2) > 40).sum()))
    assert balls[1] > 6 * balls[0] > 0
    manifest = json.loads((output_dir / f"{first.name}.json").read_text())
    assert manifest["state"] == "failed"
    log = (output_dir / "session.jsonl").read_text()
    assert "state.body_q has 2 rows, the model 1" in log


def test_a_body_that_is_nowhere_costs_its_frame_and_is_named_in_the_log(output_dir: Path) -> None:
    simulation = Simulation(2)
    config = RecorderConfig(output_dir=output_dir, video_length=10, video_interval=0, width=160, height=90)
    with Recorder(config, simulation.backend()) as recorder:
        for step in range(10):
            simulation.state.body_q.numpy()[1, 0] = np.nan if step == 6 else 0.0
            recorder.step()
    (clip,) = recorder.summary().clips
    assert clip.frames.encoded == 9
    assert clip.frames.dropped == {DropCause.RENDER_FAILED: 1}
    assert clip.missing_steps == ((6, 6),)
    log = (output_dir / "session.jsonl").read_text()
    assert "1 of 2 bodies are nowhere, the first body 1 (" in log


def test_a_model_given_as_it_is_stays_the_one_that_is_recorded(slot: PoolSlot) -> None:
    simulation = Simulation(2)
    backend = NewtonBackend(simulation.model, lambda: simulation.state, renderer="warp")
    capture_format = opened(backend)
    assert isinstance(capture_format.renderer, WarpRenderer)
    simulation.build(3)
    assert backend.renewed() is None
    with pytest.raises(SourceChangedError, match="a function that returns the model of now"):
        backend.capture(REQUEST, slot)
