"""What `recorder.step()` costs the training thread where nothing is captured."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from stepreel import Recorder, RecorderConfig
from stepreel.backends.synthetic import SyntheticBackend


class Empty:
    def step(self) -> None:
        pass


@pytest.fixture
def idle_recorder(tmp_path: Path) -> Iterator[Recorder]:
    """A recorder that is open, and whose first clip is far off."""
    config = RecorderConfig(output_dir=tmp_path, step_offset=10**12, video_interval=0)
    with Recorder(config, SyntheticBackend()) as recorder:
        recorder.reset()
        recorder.step()
        yield recorder


def test_step_outside_a_clip(hold_against: Callable[..., None], idle_recorder: Recorder) -> None:
    hold_against(
        idle_recorder.step,
        Empty().step,
        title="`recorder.step()` outside a clip",
        against="an empty method",
        rounds=100,
        count=1000,
    )
