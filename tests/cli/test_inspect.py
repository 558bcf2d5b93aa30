"""`stepreel inspect`: silent about good clips, one line for each difference, and an exit status to go by."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stepreel import Recorder, RecorderConfig
from stepreel.backends.synthetic import SyntheticBackend

from .conftest import Command


@pytest.fixture
def recorded(output_dir: Path) -> Path:
    """A folder with two clips of ten frames."""
    config = RecorderConfig(output_dir=output_dir, video_length=10, video_interval=20)
    with Recorder(config, SyntheticBackend(width=64, height=64)) as recorder:
        recorder.reset()
        for _ in range(40):
            recorder.step()
    return output_dir


def _change_manifest(path: Path, change: Callable[[Any], None]) -> None:
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))


def test_clips_as_they_were_recorded_are_without_difference(stepreel: Command, recorded: Path) -> None:
    result = stepreel("inspect", recorded)
    assert (result.exit_code, result.stdout) == (0, "2 clips, all as their manifests say\n")


def test_a_single_clip_can_be_inspected(stepreel: Command, recorded: Path) -> None:
    result = stepreel("inspect", recorded / "rl-video-step-20.json")
    assert (result.exit_code, result.stdout) == (0, "1 clip, as its manifest says\n")


def test_a_manifest_that_counts_otherwise_is_a_line_with_the_clip_in_it(stepreel: Command, recorded: Path) -> None:
    def add_a_frame(manifest: Any) -> None:
        manifest["segments"][0]["frames"] += 1

    _change_manifest(recorded / "rl-video-step-20.json", add_a_frame)
    result = stepreel("inspect", recorded)
    assert result.exit_code == 1
    lines = result.stdout.splitlines()
    assert lines
    assert all("rl-video-step-20" in line for line in lines)


def test_how_a_run_ended_that_did_not_close_a_clip_is_noted(stepreel: Command, recorded: Path) -> None:
    _change_manifest(recorded / "rl-video-step-20.json", lambda manifest: manifest.update(ended="killed at step 31"))
    result = stepreel("inspect", recorded)
    assert result.exit_code == 0
    assert result.stderr == "note: rl-video-step-20: its run did not close it: killed at step 31\n"


def test_a_damaged_segment_is_a_difference(stepreel: Command, recorded: Path) -> None:
    (recorded / "rl-video-step-0.mp4").write_bytes(b"\0" * 100)
    result = stepreel("inspect", recorded)
    assert result.exit_code == 1
    assert "rl-video-step-0" in result.stdout


@pytest.mark.parametrize("name", ["", "nothing", "notes.txt"])
def test_a_path_without_clips_is_refused(stepreel: Command, tmp_path: Path, name: str) -> None:
    (tmp_path / "notes.txt").write_text("")
    result = stepreel("inspect", tmp_path / name)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert str(tmp_path / name) in result.stderr.replace("\n", "")
