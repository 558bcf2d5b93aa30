from __future__ import annotations

import re
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from stepreel import Recorder, RecorderConfig
from stepreel.backends.synthetic import SyntheticBackend

from .conftest import Command


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    config = RecorderConfig(output_dir=tmp_path, video_length=5, video_interval=10)
    with Recorder(config, SyntheticBackend(width=64, height=48)) as recorder:
        for _ in range(20):
            recorder.step()
    return tmp_path


def test_gallery_names_the_page_that_it_wrote(stepreel: Command, videos: Path) -> None:
    result = stepreel("gallery", videos)
    assert (result.exit_code, result.stdout) == (0, f"{videos.resolve() / 'index.html'}: 2 clips\n")
    assert (videos / "index.html").read_text().count("<article") == 2


def test_gallery_tells_what_it_could_not_read(stepreel: Command, videos: Path) -> None:
    (videos / "bad\x1b.json").write_text("{")
    (videos / "rl-video-step-0.mp4").write_bytes(b"no video")
    result = stepreel("gallery", videos)
    assert result.exit_code == 0
    assert "2 clips, 1 without pictures" in result.stdout
    assert "note: bad\\x1b.json is not the manifest of a clip" in result.stderr


def test_gallery_leaves_a_page_of_somebody_else_alone(stepreel: Command, videos: Path) -> None:
    (videos / "index.html").write_text("mine")
    result = stepreel("gallery", videos)
    assert result.exit_code == 2
    assert "was not written by stepreel" in result.stderr
    assert (videos / "index.html").read_text() == "mine"


@pytest.mark.parametrize("command", ["gallery", "view"])
def test_a_folder_above_those_with_clips_is_refused_and_they_are_named(
    stepreel: Command, tmp_path: Path, command: str
) -> None:
    inside = [tmp_path / "run1" / "videos" / "train", tmp_path / "run2"]
    for folder in inside:
        folder.mkdir(parents=True)
        (folder / "session.json").write_text("{}")
    (tmp_path / "params.json").write_text("{}")
    result = stepreel(command, tmp_path)
    assert result.exit_code == 2
    assert f"{tmp_path}: no clip there; there are some in {inside[0]}, {inside[1]}" in result.stderr
    assert not (tmp_path / "index.html").exists()


def test_a_folder_into_which_nothing_was_recorded_yet_has_a_page(stepreel: Command, tmp_path: Path) -> None:
    assert "0 clips" in stepreel("gallery", tmp_path).stdout


def test_view_serves_until_it_is_interrupted(videos: Path) -> None:
    command = [sys.executable, "-m", "stepreel.cli", "view", str(videos), "--no-open"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            found = re.search(r"http://127\.0\.0\.1:\d+/", line)
            assert found, line
            with urllib.request.urlopen(found[0], timeout=20) as page:
                assert b"rl-video-step-10" in page.read()
        finally:
            process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=20)
    assert (process.returncode, errors) == (0, "")


@pytest.mark.parametrize("port", ["-1", "65536", "x"])
def test_view_refuses_what_is_no_port(stepreel: Command, videos: Path, port: str) -> None:
    result = stepreel("view", videos, "--port", port)
    assert result.exit_code == 2
    assert "--port" in result.stderr
