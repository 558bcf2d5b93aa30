"""What a captured picture of 1280x720 pixels costs the training thread, against one copy of it into warm memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from numpy.typing import NDArray
from shared_memory import frame_pool

from stepreel import Recorder, RecorderConfig
from stepreel.backends.gymnasium import GymnasiumBackend
from stepreel.backends.synthetic import SyntheticBackend
from stepreel.capture.frame_pool import PoolSlot
from stepreel.clip import CaptureRequest, ClipRequest
from stepreel.interfaces import Backend

WIDTH, HEIGHT = 1280, 720
NBYTES = WIDTH * HEIGHT * 3
REQUEST = CaptureRequest(
    clip=ClipRequest(name="clip", stream="default", start_step=0, frame_stride=1, clip_index=0), step=7, pts=7
)
COPY = "one copy of the picture"


class PreparedEnv(gymnasium.Env[NDArray[np.float32], int]):
    """Its `render()` costs nothing."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 30}  # noqa: RUF012 - as Gymnasium has it.
    render_mode = "rgb_array"

    def __init__(self) -> None:
        rows, columns = np.indices((HEIGHT, WIDTH))
        self.picture = np.stack((rows, columns, rows + columns), axis=2).astype(np.uint8)

    def render(self) -> Any:
        return self.picture


@pytest.fixture
def copy() -> Callable[[], None]:
    """One copy of a picture into memory that was written before."""
    source = PreparedEnv().picture
    target = source.copy()
    return lambda: np.copyto(target, source)


@pytest.fixture
def slot() -> Iterator[PoolSlot]:
    with frame_pool(NBYTES) as pool:
        yield pool.lease()


def opened(backend: Backend) -> Backend:
    backend.open(width=WIDTH, height=HEIGHT, worker_device="auto")
    return backend


def test_capture_of_a_rendered_picture(
    hold_against: Callable[..., None], copy: Callable[[], None], slot: PoolSlot
) -> None:
    backend = opened(GymnasiumBackend(PreparedEnv()))
    hold_against(
        lambda: backend.capture(REQUEST, slot),
        copy,
        title="capture of 1280x720 pixels that `env.render()` returns",
        against=COPY,
        rounds=200,
        count=5,
    )


def test_capture_of_a_picture_drawn_in_place(
    hold_against: Callable[..., None], copy: Callable[[], None], slot: PoolSlot
) -> None:
    backend = opened(SyntheticBackend())
    hold_against(
        lambda: backend.capture(REQUEST, slot),
        copy,
        title="a synthetic picture of 1280x720, drawn into the slot",
        against=COPY,
        rounds=200,
        count=5,
    )


def test_step_inside_a_clip(hold_against: Callable[..., None], copy: Callable[[], None], tmp_path: Path) -> None:
    """The whole way into the queue, while a worker encodes; the queue is emptied between rounds."""
    config = RecorderConfig(output_dir=tmp_path, video_length=0, video_interval=0, width=WIDTH, height=HEIGHT)
    with Recorder(config, GymnasiumBackend(PreparedEnv())) as recorder:
        recorder.reset()
        hold_against(
            recorder.step,
            copy,
            title="`recorder.step()` in a clip of 1280x720 pixels",
            against=COPY,
            rounds=30,
            count=4,
            between=recorder.flush,
        )
