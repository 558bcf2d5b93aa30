"""`stepreel record`: real environments in, MP4 files and a table out."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import av
import gymnasium
import numpy as np
import pytest
from click.testing import Result
from numpy.typing import NDArray

from stepreel.backends.render_device import choose_render_device

from .conftest import Command
from .probe_env import ProbeEnv

PROBE = "StepreelProbe-v0"


@pytest.fixture(autouse=True)
def _probe() -> Iterator[None]:
    ProbeEnv.made.clear()
    gymnasium.register(PROBE, entry_point=ProbeEnv, disable_env_checker=True)
    yield
    del gymnasium.registry[PROBE]


def _pictures(path: Path) -> list[NDArray[np.uint8]]:
    with av.open(path, "r") as container:
        return [np.asarray(frame.to_ndarray(format="rgb24"), np.uint8) for frame in container.decode(video=0)]


def _refused(result: Result) -> str:
    """Return the one line that says why."""
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    return line


def test_a_clip_of_an_environment_has_a_frame_for_each_step(stepreel: Command, output_dir: Path) -> None:
    result = stepreel("record", "CartPole-v1", "--steps", 40, "--video-length", 30, "--output-dir", output_dir)
    assert result.exit_code == 0, result.output
    pictures = _pictures(output_dir / "rl-video-step-0.mp4")
    assert len(pictures) == 30
    assert {picture.shape for picture in pictures} == {(400, 600, 3)}


def test_the_table_names_every_clip_with_its_frames_and_duration(stepreel: Command, output_dir: Path) -> None:
    result = stepreel(
        "record", PROBE, "--steps", 50, "--video-length", 10, "--video-interval", 20, "--output-dir", output_dir
    )
    rows = [line.split() for line in result.stdout.splitlines()]
    for step in (0, 20, 40):
        assert [str(output_dir / f"rl-video-step-{step}.mp4"), "10", "0.50", "s", "0"] in rows
    assert result.stdout.splitlines()[-1] == "30 frames asked for, 30 encoded, 0 dropped"


def test_the_same_seed_records_the_same_run(stepreel: Command, tmp_path: Path) -> None:
    for folder in ("first", "second"):
        stepreel("record", "CartPole-v1", "--steps", 20, "--seed", 5, "--output-dir", tmp_path / folder)
    first, second = (_pictures(tmp_path / folder / "rl-video-step-0.mp4") for folder in ("first", "second"))
    np.testing.assert_array_equal(first, second)


def test_zero_actions_are_zero_or_the_nearest_allowed(stepreel: Command, output_dir: Path) -> None:
    stepreel("record", PROBE, "--steps", 5, "--actions", "zero", "--output-dir", output_dir)
    (env,) = ProbeEnv.made
    np.testing.assert_array_equal(env.actions, [[0.0, 0.5]] * 5)


def test_random_actions_differ(stepreel: Command, output_dir: Path) -> None:
    stepreel("record", PROBE, "--steps", 5, "--output-dir", output_dir)
    (env,) = ProbeEnv.made
    assert len(np.unique(env.actions, axis=0)) == 5


def test_the_environment_is_reset_at_the_end_of_each_episode_and_closed(stepreel: Command, output_dir: Path) -> None:
    stepreel("record", PROBE, "--steps", 40, "--output-dir", output_dir)
    (env,) = ProbeEnv.made
    assert len(env.actions) == 40
    assert env.reset_count == 3
    assert env.closed


def test_arguments_of_the_environment_are_literals_or_strings(stepreel: Command, output_dir: Path) -> None:
    stepreel(
        *("record", PROBE, "--steps", 1, "--output-dir", output_dir),
        *("--env-arg", "mass=1.5", "--env-arg", "name=walker", "--env-arg", "path=a=b", "--env-arg", "size=(3, 4)"),
    )
    (env,) = ProbeEnv.made
    assert env.arguments == {"mass": 1.5, "name": "walker", "path": "a=b", "size": (3, 4)}


def test_an_argument_that_is_no_pair_is_refused(stepreel: Command, output_dir: Path) -> None:
    result = stepreel("record", PROBE, "--env-arg", "mass", "--output-dir", output_dir)
    assert result.exit_code == 2
    assert "'mass' is not of the form key=value" in result.stderr


def test_settings_reach_the_recorder(stepreel: Command, output_dir: Path) -> None:
    result = stepreel(
        *("record", PROBE, "--steps", 30, "--video-length", 20, "--frame-stride", 2, "--name-prefix", "probe"),
        *("--crf", 30, "--output-dir", output_dir),
    )
    assert result.exit_code == 0, result.output
    manifest = json.loads((output_dir / "probe-step-0.json").read_text())
    assert manifest["frame_stride"] == 2
    assert manifest["frames"]["encoded"] == 10
    assert manifest["fps"] == 10.0


@pytest.mark.mujoco
@pytest.mark.gl
@pytest.mark.skipif(
    choose_render_device("cpu", None).opengl_problem is not None, reason="no EGL that draws on the CPU here"
)
@pytest.mark.parametrize(("arguments", "backend"), [((), "mujoco"), (("--backend", "render"), "gymnasium")])
def test_a_mujoco_environment_is_recorded_by_snapshots_unless_told_otherwise(
    stepreel: Command, output_dir: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], backend: str
) -> None:
    pytest.importorskip("mujoco")
    monkeypatch.setenv("MUJOCO_GL", "egl")
    result = stepreel(
        *("record", "InvertedPendulum-v5", "--steps", 4, "--output-dir", output_dir, *arguments),
        *("--env-arg", "width=160", "--env-arg", "height=120"),
    )
    assert result.exit_code == 0, result.output
    manifest = json.loads((output_dir / "rl-video-step-0.json").read_text())
    assert (manifest["backend"], manifest["frames"]["encoded"]) == (backend, 4)
    assert [picture.shape for picture in _pictures(output_dir / "rl-video-step-0.mp4")] == [(120, 160, 3)] * 4


def test_an_interrupt_finishes_what_was_captured(stepreel: Command, output_dir: Path) -> None:
    result = stepreel("record", PROBE, "--steps", 100, "--env-arg", "interrupt_at=13", "--output-dir", output_dir)
    assert result.exit_code == 130
    assert len(_pictures(output_dir / "rl-video-step-0.mp4")) == 12
    assert "12 frames asked for, 12 encoded, 0 dropped" in result.stdout


def test_a_run_without_a_clip_says_so(stepreel: Command, output_dir: Path) -> None:
    result = stepreel("record", PROBE, "--steps", 5, "--step-offset", 100, "--output-dir", output_dir)
    assert result.exit_code == 0
    assert result.stdout.startswith("No clip was due")


def test_an_unknown_environment_is_refused(stepreel: Command, output_dir: Path) -> None:
    assert "NoSuchEnv" in _refused(stepreel("record", "NoSuchEnv-v0", "--output-dir", output_dir))
    assert not output_dir.exists()


def test_an_environment_that_makes_no_pictures_is_refused(stepreel: Command, output_dir: Path) -> None:
    result = stepreel("record", PROBE, "--env-arg", "render_mode=None", "--output-dir", output_dir)
    assert "Render mode is None" in _refused(result)


def test_a_wrong_setting_is_refused_with_its_name_and_what_is_allowed(stepreel: Command, output_dir: Path) -> None:
    line = _refused(stepreel("record", PROBE, "--crf", 99, "--output-dir", output_dir))
    assert line == "Error: crf: got 99; allowed: a whole number from 0 to 51"


def test_an_output_folder_that_is_a_file_is_refused(stepreel: Command, output_dir: Path) -> None:
    output_dir.write_text("")
    assert str(output_dir) in _refused(stepreel("record", PROBE, "--output-dir", output_dir))
