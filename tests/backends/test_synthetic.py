"""The synthetic simulator: its step number outlives lossy compression, and it plays slow and broken ones."""

from __future__ import annotations

import io
import pickle
from collections.abc import Iterator, Sequence
from itertools import pairwise

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from stepreel.backends.synthetic import SyntheticBackend, read_step
from stepreel.capture.frame_pool import PoolSlot
from stepreel.clip import CaptureRequest, ClipRequest, Frame, Snapshot
from stepreel.errors import BackendError, CaptureError
from stepreel.interfaces import Renderer

from ..memory import make_pool

Picture = NDArray[np.uint8]
STEPS = st.integers(-(2**31), 2**31 - 1)


@pytest.fixture
def slot() -> Iterator[PoolSlot]:
    with make_pool(16 * 2**20) as pool:
        slot = pool.lease()
        yield slot
        slot.release()


def _request(step: int) -> CaptureRequest:
    clip = ClipRequest(name="clip", stream="default", start_step=0, frame_stride=1, clip_index=0)
    return CaptureRequest(clip=clip, step=step, pts=step)


class _Memory:
    """A slot outside any frame pool."""

    def __init__(self) -> None:
        self.bytes = np.zeros(0, np.uint8)

    def array(self, nbytes: int) -> NDArray[np.uint8]:
        if self.bytes.size < nbytes:
            self.bytes = np.full(nbytes, 0xA5, np.uint8)
        return self.bytes[:nbytes]


def _picture(backend: SyntheticBackend, step: int) -> Picture:
    memory = _Memory()
    frame = backend.capture(_request(step), memory)
    assert isinstance(frame, Frame)
    return memory.array(frame.nbytes).reshape(frame.height, frame.width, 3)


def _opened(width: int = 320, height: int = 180) -> SyntheticBackend:
    backend = SyntheticBackend(width=width, height=height)
    backend.open(width=None, height=None, worker_device="auto")
    return backend


def _renderer(backend: SyntheticBackend) -> Renderer:
    renderer = backend.open(width=None, height=None, worker_device="auto").renderer
    assert renderer is not None
    travelled: Renderer = pickle.loads(pickle.dumps(renderer))
    travelled.open()
    return travelled


def _snapshot(backend: SyntheticBackend, step: int) -> Picture:
    memory = _Memory()
    snapshot = backend.capture(_request(step), memory)
    assert isinstance(snapshot, Snapshot)
    assert snapshot.nbytes == 8
    return memory.array(snapshot.nbytes)


def _over_h264(pictures: Sequence[Picture], *, crf: int) -> list[Picture]:
    """Encode as a player would see it, padded to even sides, and decode."""
    height, width = pictures[0].shape[:2]
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=30, options={"crf": str(crf), "preset": "superfast"})
        stream.width, stream.height, stream.pix_fmt = width + width % 2, height + height % 2, "yuv420p"
        for picture in pictures:
            padded = np.pad(picture, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
            container.mux(stream.encode(av.VideoFrame.from_ndarray(padded, format="rgb24")))
        container.mux(stream.encode())
    file.seek(0)
    with av.open(file, "r") as container:
        return [np.asarray(frame.to_ndarray(format="rgb24"), np.uint8) for frame in container.decode(video=0)]


@given(step=STEPS)
def test_the_step_can_be_read_from_the_picture(step: int) -> None:
    assert read_step(_picture(_opened(), step)) == step


@given(width=st.integers(8, 700), step=STEPS)
def test_the_step_can_be_read_at_every_width(width: int, step: int) -> None:
    assert read_step(_picture(_opened(width, 320), step)) == step


@pytest.mark.parametrize(("width", "height"), [(64, 64), (160, 90), (319, 181), (320, 180), (641, 359), (1280, 720)])
@pytest.mark.parametrize("crf", [23, 45])
def test_the_step_survives_lossy_compression(width: int, height: int, crf: int) -> None:
    backend = _opened(width, height)
    steps = [-1, 0, 1, 2, 255, 256, 65_535, 1_000_000, 2**31 - 1, -(2**31)]
    decoded = _over_h264([_picture(backend, step) for step in steps], crf=crf)
    assert [read_step(picture) for picture in decoded] == steps


@pytest.mark.parametrize("value", [0, 255])
def test_a_black_or_white_picture_shows_no_step(value: int) -> None:
    with pytest.raises(ValueError, match="no step to be read"):
        read_step(np.full((180, 320, 3), value, np.uint8))


@given(step=STEPS, block=st.integers(0, 39))
def test_a_damaged_block_is_noticed(step: int, block: int) -> None:
    picture = _picture(_opened(), step)
    picture[:8, 8 * block : 8 * block + 8] ^= 255
    with pytest.raises(ValueError, match="no step to be read"):
        read_step(picture)


def test_the_same_step_is_the_same_picture_in_every_process_and_slot(slot: PoolSlot) -> None:
    frame = _opened().capture(_request(41), slot)
    assert isinstance(frame, Frame)
    in_pool = slot.array(frame.nbytes).reshape(frame.height, frame.width, 3)
    drawing = SyntheticBackend(snapshot=True)
    renderer = _renderer(drawing)
    np.testing.assert_array_equal(in_pool, renderer.render(_snapshot(drawing, 41)))


def test_everything_but_the_strip_moves_from_step_to_step() -> None:
    backend = _opened()
    below = [_picture(backend, step)[8:].astype(np.int16) for step in range(300)]
    changes = [np.abs(after - before).mean() for before, after in pairwise(below)]
    assert min(changes) > 0.5


def test_no_picture_is_dark() -> None:
    backend = _opened()
    assert min(_picture(backend, step).mean() for step in range(0, 1000, 37)) > 60


def test_the_recorder_may_ask_for_another_size() -> None:
    backend = SyntheticBackend(width=320, height=180)
    described = backend.open(width=640, height=None, worker_device="auto")
    assert (described.width, described.height, described.nbytes) == (640, 180, 640 * 180 * 3)
    assert _picture(backend, 3).shape == (180, 640, 3)


def test_a_picture_without_room_for_its_step_is_refused_when_opened() -> None:
    with pytest.raises(BackendError, match=r"16x16 pixels.*larger"):
        SyntheticBackend(width=16, height=16).open(width=None, height=None, worker_device="auto")


def test_a_failing_step_costs_that_picture_only(slot: PoolSlot) -> None:
    backend = SyntheticBackend(failing_steps=[2])
    backend.open(width=None, height=None, worker_device="auto")
    with pytest.raises(CaptureError, match="step 2"):
        backend.capture(_request(2), slot)
    assert read_step(_picture(backend, 3)) == 3


def test_a_failing_step_fails_in_the_renderer_where_that_draws() -> None:
    backend = SyntheticBackend(snapshot=True, failing_steps=[2])
    renderer = _renderer(backend)
    snapshots = {step: _snapshot(backend, step).copy() for step in (1, 2, 3)}
    with pytest.raises(CaptureError, match="step 2"):
        renderer.render(snapshots[2])
    assert [read_step(renderer.render(snapshots[step])) for step in (1, 3)] == [1, 3]


def test_a_slow_snapshot_is_whole_after_its_polls(slot: PoolSlot) -> None:
    backend = SyntheticBackend(snapshot=True, snapshot_polls=2)
    backend.open(width=None, height=None, worker_device="auto")
    pending = backend.capture(_request(5), slot)
    assert not isinstance(pending, Frame | Snapshot)
    assert [pending.poll(), pending.poll()] == [None, None]
    assert pending.poll() == Snapshot(nbytes=8)


def test_a_slow_snapshot_can_be_waited_for(slot: PoolSlot) -> None:
    backend = SyntheticBackend(snapshot=True, snapshot_polls=1000)
    backend.open(width=None, height=None, worker_device="auto")
    pending = backend.capture(_request(5), slot)
    assert not isinstance(pending, Frame | Snapshot)
    assert pending.wait() == pending.poll() == Snapshot(nbytes=8)


def test_a_capture_before_it_was_opened_is_refused(slot: PoolSlot) -> None:
    with pytest.raises(CaptureError, match="not open"):
        SyntheticBackend().capture(_request(0), slot)


def test_a_step_of_more_than_32_bits_is_refused(slot: PoolSlot) -> None:
    with pytest.raises(CaptureError, match="32 bits"):
        _opened().capture(_request(2**31), slot)
