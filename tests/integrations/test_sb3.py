"""`VecVideoRecorder`, side by side with Stable-Baselines3's own: the same attributes at each step, the same files."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from stepreel import ConfigurationError, RecorderConfig
from stepreel.storage.manifest import read_manifest

from ..wrappers.film import Film, numbers_in

pytestmark = [pytest.mark.integrations, pytest.mark.filterwarnings("default")]

Trigger = Callable[[int], bool]


def vec_env(count: int = 1, **settings: Any) -> Any:
    from stable_baselines3.common.vec_env import DummyVecEnv

    return DummyVecEnv([lambda first=first: Film(lengths=(5, 3), first=first, **settings) for first in _firsts(count)])


def _firsts(count: int) -> range:
    return range(0, 1000 * count, 1000)


def ours(venv: Any, folder: Path, trigger: Trigger, **arguments: Any) -> Any:
    from stepreel.wrappers.sb3 import VecVideoRecorder

    return VecVideoRecorder(venv, str(folder), trigger, **arguments)


def theirs(venv: Any, folder: Path, trigger: Trigger, **arguments: Any) -> Any:
    from stable_baselines3.common.vec_env import VecVideoRecorder

    return VecVideoRecorder(venv, str(folder), trigger, **arguments)


def shown(venv: Any) -> tuple[object, ...]:
    """Return what both have for everybody to see."""
    names = ("recording", "step_id", "video_length", "name_prefix", "frames_per_sec", "render_mode")
    newest = getattr(venv, "video_name", None), Path(getattr(venv, "video_path", "none")).name
    return *(getattr(venv, name) for name in names), venv.env.metadata, newest


def act(venv: Any, calls: str) -> list[tuple[object, ...]]:
    """Call `reset` for each "r" and `step` for each "s"; return what is shown after each."""
    states = [shown(venv)]
    for call in calls:
        if call == "r":
            venv.reset()
        else:
            venv.step(np.zeros(venv.num_envs, dtype=np.int64))
        states.append(shown(venv))
    venv.close()
    return states


@pytest.mark.parametrize("seed", range(8))
def test_the_files_and_the_attributes_are_the_same_whatever_is_called(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    begins = {step for step in range(100) if chance.random() < 0.2}
    calls = "r"
    for _ in range(25):
        calls += chance.choice(["s", "ss", "sssss", "sr"])
        if calls[-1] == "r":
            begins.discard(calls.count("s"))  # What begins in the same step twice is tested below.
    length = chance.randrange(7)
    arguments = {"video_length": length, "name_prefix": chance.choice(["rl-video", "ant"])}
    mine = act(ours(vec_env(), tmp_path / "ours", begins.__contains__, **arguments), calls)
    real = act(theirs(vec_env(), tmp_path / "theirs", begins.__contains__, **arguments), calls)
    assert mine == real
    files = sorted(path.name for path in (tmp_path / "theirs").glob("*.mp4"))
    assert files
    for name in files:
        assert numbers_in(tmp_path / "ours" / name) == numbers_in(tmp_path / "theirs" / name)
    for path in (tmp_path / "ours").glob("*.json"):
        if not path.name.startswith("session"):
            assert read_manifest(path).fps == 32.0


def test_a_clip_that_a_reset_cuts_off_is_kept_in_its_own_file(tmp_path: Path) -> None:
    act(ours(vec_env(), tmp_path / "ours", lambda step: True, video_length=10), "rsssrsssss")
    act(theirs(vec_env(), tmp_path / "theirs", lambda step: True, video_length=10), "rsssrsssss")
    assert sorted(path.name for path in (tmp_path / "theirs").glob("*.mp4")) == ["rl-video-step-3-to-step-13.mp4"]
    second = numbers_in(tmp_path / "theirs" / "rl-video-step-3-to-step-13.mp4")
    assert numbers_in(tmp_path / "ours" / "rl-video-step-3-to-step-13.mp4") == second
    assert numbers_in(tmp_path / "ours" / "rl-video-step-0-to-step-10.mp4") == list(range(second[0]))


def test_a_clip_that_is_begun_twice_in_a_step_is_one_whose_first_picture_is_the_earlier(tmp_path: Path) -> None:
    for folder, make in (("ours", ours), ("theirs", theirs)):
        act(make(vec_env(), tmp_path / folder, [0, 7].__contains__, video_length=3), "rrsssssssrssss")
    # At step 5 the episode ended, and the environment was reset: one number more.
    for name, first in (("rl-video-step-0-to-step-3.mp4", 0), ("rl-video-step-7-to-step-10.mp4", 9)):
        mine, real = (numbers_in(tmp_path / folder / name) for folder in ("ours", "theirs"))
        assert mine == [first, *real[1:]]
        assert real[0] == first + 1


def test_environments_are_side_by_side_as_they_are_there(tmp_path: Path) -> None:
    calls, trigger = "rssssss", [0].__contains__
    act(ours(vec_env(3), tmp_path / "ours", trigger, video_length=4), calls)
    act(theirs(vec_env(3), tmp_path / "theirs", trigger, video_length=4), calls)
    (mine,), (real,) = ((tmp_path / whose).glob("*.mp4") for whose in ("ours", "theirs"))
    for tile in ((0, 0), (0, 1), (1, 0)):
        assert numbers_in(mine, tile) == numbers_in(real, tile)
    assert numbers_in(mine, (1, 0))[0] == 2000


@pytest.mark.parametrize("kind", ["DummyVecEnv", "SubprocVecEnv"])
def test_chosen_environments_have_clips_of_their_own(tmp_path: Path, kind: str) -> None:
    import stable_baselines3.common.vec_env as vec_envs

    make = [lambda first=first: Film(first=first) for first in _firsts(3)]
    venv = vec_envs.VecMonitor(getattr(vec_envs, kind)(make))
    act(ours(venv, tmp_path, [0].__contains__, video_length=4, env_indices=[0, 2]), "rssss")
    assert sorted(path.name for path in tmp_path.glob("*.mp4")) == [
        "rl-video-env-0-step-0-to-step-4.mp4",
        "rl-video-env-2-step-0-to-step-4.mp4",
    ]
    for index in (0, 2):
        found = numbers_in(tmp_path / f"rl-video-env-{index}-step-0-to-step-4.mp4")
        assert found == [index * 1000 + number for number in range(5)]


def test_environments_without_pictures_are_refused_as_they_are_there(tmp_path: Path) -> None:
    with pytest.raises(AssertionError) as real:
        theirs(vec_env(render_mode=None), tmp_path, bool)
    with pytest.raises(AssertionError) as mine:
        ours(vec_env(render_mode=None), tmp_path, bool)
    assert str(mine.value) == str(real.value)
    assert isinstance(mine.value, ConfigurationError)


def test_a_render_that_is_no_picture_ends_the_clip_as_it_does_there(tmp_path: Path) -> None:
    def lose_picture(venv: Any) -> Any:
        env, render = venv.envs[0], venv.envs[0].render
        venv.render = lambda mode=None: None if env.number == 2 else render()
        return venv

    calls, trigger = "rssss", [0].__contains__
    with pytest.warns(UserWarning, match="expected type of frame returned by render to be a numpy array, got instead"):
        mine = act(ours(lose_picture(vec_env()), tmp_path / "ours", trigger), calls)
    with pytest.warns(UserWarning, match="expected type of frame returned by render to be a numpy array, got instead"):
        real = act(theirs(lose_picture(vec_env()), tmp_path / "theirs", trigger), calls)
    assert mine == real
    name = "rl-video-step-0-to-step-200.mp4"
    assert numbers_in(tmp_path / "ours" / name) == numbers_in(tmp_path / "theirs" / name) == [0, 1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"env_indices": [3]}, r"env_indices: got \[3\]; allowed: different whole numbers from 0 to 0"),
        ({"video_length": -1}, "video_length: got -1; allowed: a whole number, at least 0"),
        ({"config": RecorderConfig(output_dir="elsewhere")}, r"config.output_dir: got .*elsewhere"),
    ],
)
def test_arguments_that_can_not_work_are_refused_by_name(
    tmp_path: Path, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        ours(vec_env(), tmp_path, bool, **arguments)


def test_a_trigger_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="record_video_trigger: got 5; allowed: a function"):
        ours(vec_env(), tmp_path, 5)  # type: ignore[arg-type]


def test_settings_of_the_recorder_are_taken_and_its_summary_is_there(tmp_path: Path) -> None:
    config = RecorderConfig(output_dir=tmp_path, frame_stride=2, crf=12)
    heard: list[str] = []
    venv = ours(
        vec_env(),
        tmp_path,
        [0].__contains__,
        video_length=6,
        config=config,
        on_clip_closed=lambda clip: heard.append(clip.name),
    )
    act(venv, "rssssssss")
    assert heard == ["rl-video-step-0-to-step-6"]
    clip = read_manifest(tmp_path / "rl-video-step-0-to-step-6.json")
    assert (clip.frame_stride, clip.fps, clip.frames.encoded) == (2, 16.0, 4)


def mujoco(kind: str = "DummyVecEnv", count: int = 1, **settings: Any) -> Any:
    import gymnasium
    import stable_baselines3.common.vec_env as vec_envs
    from stable_baselines3.common.monitor import Monitor

    def make() -> Any:
        return Monitor(gymnasium.make("InvertedPendulum-v5", width=160, height=120, **settings))

    return vec_envs.VecMonitor(getattr(vec_envs, kind)([make] * count))


@pytest.mark.mujoco
@pytest.mark.gl
def test_a_mujoco_environment_is_recorded_by_snapshots_that_show_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MUJOCO_GL", "egl")
    calls, trigger = "r" + "s" * 20, [0].__contains__
    pictures = {}
    for folder, make in (("ours", ours), ("theirs", theirs)):
        venv = mujoco(render_mode="rgb_array")
        venv.seed(3)
        recorded = make(venv, tmp_path / folder, trigger, video_length=19)
        recorded.reset()
        for _ in calls[1:]:
            recorded.step(np.ones((1, 1), np.float32))
        recorded.close()
        pictures[folder] = decoded(tmp_path / folder / "rl-video-step-0-to-step-19.mp4")
    assert read_manifest(tmp_path / "ours" / "rl-video-step-0-to-step-19.json").backend.startswith("mujoco")
    assert len(pictures["ours"]) == len(pictures["theirs"]) == 20
    differences = [float(np.abs(a - b).mean()) for a, b in zip(pictures["ours"], pictures["theirs"], strict=True)]
    assert max(differences) < 6
    assert float(np.abs(pictures["ours"][0] - pictures["ours"][-1]).max()) > 60  # It moved.


@pytest.mark.mujoco
@pytest.mark.gl
def test_snapshots_of_chosen_environments_need_no_render_mode(tmp_path: Path) -> None:
    venv = ours(mujoco(count=3), tmp_path, [0].__contains__, video_length=4, env_indices=[1])
    venv.reset()
    for _ in range(6):
        venv.step(np.ones((3, 1), np.float32))
    venv.close()
    (path,) = tmp_path.glob("*.mp4")
    assert path.name == "rl-video-env-1-step-0-to-step-4.mp4"
    assert len(decoded(path)) == 5


@pytest.mark.mujoco
def test_snapshots_that_can_not_be_taken_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="backend: got 'mujoco'; allowed: 'auto' or 'render', since only"):
        ours(mujoco(count=2, render_mode="rgb_array"), tmp_path, bool, backend="mujoco")
    with pytest.raises(AssertionError, match="The render_mode must be 'rgb_array', not None"):
        ours(mujoco(count=2), tmp_path, bool)


def decoded(path: Path) -> list[Any]:
    """Return the pictures of a file, shape [height, width, 3], as numbers that may be subtracted."""
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24").astype(float) for frame in container.decode(video=0)]
