"""`stepreel demo` as a user runs it, only shorter."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray

ITERATIONS = 3
STEPS = 12
RECORDED = (0, 2)

pytestmark = [pytest.mark.newton, pytest.mark.timeout(300)]  # The first use compiles kernels.


def run(*arguments: object, program: Iterable[str] = ("-m", "stepreel.cli")) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *program, *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("demo") / "videos"


@pytest.fixture(scope="module")
def finished(folder: Path) -> subprocess.CompletedProcess[str]:
    """A demo of three short iterations, of which the first and the last are recorded, and what it wrote."""
    done = run(
        *("demo", "--output-dir", folder, "--device", "cpu", "--iterations", ITERATIONS, "--steps", STEPS),
        *("--width", 160, "--height", 90),
    )
    assert done.returncode == 0, done.stderr
    return done


def frames(path: Path) -> Iterator[NDArray[np.uint8]]:
    with av.open(path) as container:
        for frame in container.decode(video=0):
            yield frame.to_ndarray(format="rgb24").astype(np.uint8, copy=False)


def test_every_clip_is_as_its_manifest_says(finished: subprocess.CompletedProcess[str], folder: Path) -> None:
    inspected = run("inspect", folder)
    assert inspected.returncode == 0, inspected.stdout
    assert {path.name for path in folder.glob("*.mp4")} == {f"cart-pole-episode-{n}.mp4" for n in RECORDED}


@pytest.mark.parametrize("episode", RECORDED)
def test_a_clip_shows_the_reset_and_every_step_and_things_move(
    finished: subprocess.CompletedProcess[str], folder: Path, episode: int
) -> None:
    clip = list(frames(folder / f"cart-pole-episode-{episode}.mp4"))

    assert len(clip) == STEPS + 1
    assert all(frame.mean() > 20 for frame in clip)
    assert all((before != after).any() for before, after in pairwise(clip))


def test_the_table_tells_of_clips_frames_step_times_and_returns(
    finished: subprocess.CompletedProcess[str], folder: Path
) -> None:
    requested = len(RECORDED) * (STEPS + 1)
    for episode in RECORDED:
        assert re.search(rf"cart-pole-episode-{episode}.mp4 +{STEPS + 1} +0.43 s +0", finished.stdout)
    assert f"{requested} requested, {requested} encoded, dropped: 0" in finished.stdout
    assert re.search(
        rf"while a clip is recorded +\S+ ms +\S+ ms +\S+ ms +{len(RECORDED) * STEPS - 10}\n", finished.stdout
    )
    assert re.search(rf"without +\S+ ms +\S+ ms +\S+ ms +{STEPS}\n", finished.stdout)
    assert re.search(r"Return: \d+\.\d in the first iteration, \d+\.\d in the last", finished.stdout)


def test_the_last_line_names_a_page_that_shows_every_clip(
    finished: subprocess.CompletedProcess[str], folder: Path
) -> None:
    page = folder.resolve() / "index.html"
    assert finished.stdout.splitlines()[-1] == f"To look at them: {page}"
    assert page.read_text().count("<article") == len(list(folder.glob("cart-pole-*.json")))


def test_the_compilation_is_announced_before_it_begins(finished: subprocess.CompletedProcess[str]) -> None:
    first_line = finished.stderr.splitlines()[0]
    assert "compiled" in first_line
    assert "minute" in first_line


def test_without_a_terminal_there_are_lines_and_no_control_codes(finished: subprocess.CompletedProcess[str]) -> None:
    text = finished.stdout + finished.stderr
    assert "\x1b" not in text
    assert "\r" not in text
    assert "Warp" not in text
    assert len(re.findall(r"^iteration +\d of 3, return", finished.stderr, flags=re.MULTILINE)) == ITERATIONS


def test_a_device_that_is_not_there_is_refused_in_one_line_that_names_those_that_are(tmp_path: Path) -> None:
    refused = run("demo", "--output-dir", tmp_path, "--device", "cuda:99")
    assert refused.returncode == 2
    assert "device: got 'cuda:99'; allowed: auto, cpu" in refused.stderr.splitlines()[-1]


def test_without_newton_one_line_says_what_to_install(tmp_path: Path) -> None:
    program = "import sys; sys.modules['warp'] = sys.modules['newton'] = None; from stepreel.cli import main; main()"
    refused = run("demo", "--output-dir", tmp_path / "videos", program=("-c", program))
    assert refused.returncode == 2
    assert "pip install 'stepreel[newton]'" in refused.stderr.splitlines()[-1]
    assert "Traceback" not in refused.stderr
    assert not (tmp_path / "videos").exists()
