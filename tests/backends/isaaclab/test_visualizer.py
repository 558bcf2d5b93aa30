"""Pictures that a visualizer draws itself, and what is refused of them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from stepreel.backends.isaaclab.visualizer import VisualizerBackend
from stepreel.capture.frame_pool import PoolSlot
from stepreel.clip import CaptureRequest, ClipRequest
from stepreel.errors import BackendError, CaptureError

from ...memory import make_pool

REQUEST = CaptureRequest(
    clip=ClipRequest(name="clip", stream="default", start_step=0, frame_stride=1, clip_index=0), step=0, pts=0
)
PICTURE = np.random.default_rng(3).integers(0, 256, (90, 160, 3), np.uint8)


class Visualizer:
    def __init__(self, picture: Any = PICTURE) -> None:
        self.picture = picture

    def render_rgb_array(self) -> Any:
        return self.picture

    def render_tiled_rgb_array(self) -> Any:
        return self.picture[::-1]


@pytest.fixture
def slot() -> Iterator[PoolSlot]:
    with make_pool(2**20) as pool:
        yield pool.lease()


def opened(visualizer: Any, *, width: int | None = None, **arguments: Any) -> VisualizerBackend:
    backend = VisualizerBackend(visualizer, **arguments)
    backend.open(width=width, height=None, worker_device="auto")
    return backend


@pytest.mark.parametrize(("is_streaming_view", "expected"), [(False, PICTURE), (True, PICTURE[::-1])])
def test_a_capture_is_the_picture_that_was_asked_for(slot: PoolSlot, is_streaming_view: bool, expected: Any) -> None:
    frame = opened(Visualizer(), is_streaming_view=is_streaming_view).capture(REQUEST, slot)
    np.testing.assert_array_equal(slot.array(frame.nbytes).reshape(90, 160, 3), expected)


@pytest.mark.parametrize(("is_rendering", "forwards"), [(False, 2), (True, 0)])
def test_poses_are_brought_up_to_date_before_each_picture_where_nothing_renders(
    slot: PoolSlot, is_rendering: bool, forwards: int
) -> None:
    called: list[str] = []

    def draw() -> Any:
        called.append("draw")
        return PICTURE

    sim = SimpleNamespace(is_rendering=is_rendering, forward=lambda: called.append("forward"))
    visualizer = Visualizer()
    visualizer.render_rgb_array = draw  # type: ignore[method-assign]
    backend = opened(visualizer, sim=sim)
    backend.capture(REQUEST, slot)
    backend.capture(REQUEST, slot)
    assert called == (["forward", "draw"] * 2 if forwards else ["draw"] * 2)


def test_a_visualizer_that_makes_no_pictures_is_refused() -> None:
    with pytest.raises(BackendError, match=r"looked for render_rgb_array\(\) of SimpleNamespace, which has none"):
        VisualizerBackend(SimpleNamespace())
    with pytest.raises(BackendError, match=r"looked for render_tiled_rgb_array\(\)"):
        VisualizerBackend(SimpleNamespace(render_rgb_array=lambda: None), is_streaming_view=True)


@pytest.mark.parametrize(
    ("picture", "width", "told"),
    [
        (None, None, r"returned None: the visualizer has drawn nothing"),
        (PICTURE, 320, r"draws 160x90 pixels where width=320, height=None was asked for"),
        (PICTURE.astype(np.float32), None, r"not a picture"),
    ],
)
def test_what_is_no_picture_costs_the_frame(slot: PoolSlot, picture: Any, width: int | None, told: str) -> None:
    backend = opened(Visualizer(picture), width=width)
    with pytest.raises(CaptureError, match=told):
        backend.capture(REQUEST, slot)


def test_what_the_visualizer_raises_costs_the_frame_and_is_its_cause(slot: PoolSlot) -> None:
    visualizer = Visualizer()
    visualizer.render_rgb_array = lambda: 1 // 0  # type: ignore[method-assign]
    with pytest.raises(CaptureError, match=r"render_rgb_array\(\) failed: ZeroDivisionError") as caught:
        opened(visualizer).capture(REQUEST, slot)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_another_thread_gets_no_stale_picture(slot: PoolSlot) -> None:
    backend = opened(Visualizer())
    caught: list[BaseException] = []

    def capture() -> None:
        try:
            backend.capture(REQUEST, slot)
        except CaptureError as exc:
            caught.append(exc)

    thread = threading.Thread(target=capture)
    thread.start()
    thread.join()
    assert "on the thread that opened the recorder" in str(caught[0])
