"""Folders of clips for the gallery: real ones, and such as somebody hostile would leave."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog

from stepreel import Recorder, RecorderConfig
from stepreel.backends.synthetic import SyntheticBackend


@pytest.fixture(scope="session")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three clips of one run, one of them in several segments and lacking frames; not to be changed."""
    folder = tmp_path_factory.mktemp("gallery") / "run one"
    config = RecorderConfig(output_dir=folder, video_length=45, video_interval=100, segment_s=1.0, gop_s=0.5)
    with Recorder(config, SyntheticBackend(width=320, height=180)) as recorder:
        recorder.reset()
        for _ in range(250):
            recorder.step()
    structlog.reset_defaults()
    drop_frames(folder / "rl-video-step-100.json", [[110, 119], [130, 131]])
    return folder


def drop_frames(path: Path, missing: list[list[int]]) -> None:
    """Have a manifest say that frames were dropped."""
    found = json.loads(path.read_text())
    count = sum(last - first + 1 for first, last in missing)
    found["state"] = "incomplete"
    found["frames"] |= {"encoded": 45 - count, "dropped": {"queue_full": count}, "missing_steps": missing}
    path.write_text(json.dumps(found))


def manifest_of(name: str, **changes: Any) -> str:
    """Return the text of a manifest of a clip with one segment."""
    return json.dumps(
        {
            "schema": 1,
            "clip": name,
            "stream": "default",
            "backend": "synthetic",
            "state": "complete",
            "start_step": 0,
            "end_step": 9,
            "frame_stride": 1,
            "fps": 30.0,
            "width": 320,
            "height": 180,
            "codec": "libx264",
            "frames": {"requested": 10, "encoded": 10, "dropped": {}, "missing_steps": []},
            "segments": [
                {"file": f"{name}.mp4", "first_step": 0, "last_step": 9, "frames": 10, "bytes": 9, "duration_s": 0.3}
            ],
            **changes,
        }
    )


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    yield
    structlog.reset_defaults()
