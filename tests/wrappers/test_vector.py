"""`stepreel.wrappers.vector.RecordVideo` beside Gymnasium's own, and what it adds."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium
import gymnasium.wrappers.vector
import numpy as np
import pytest
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from stepreel import Clip, ClipState, ConfigurationError, RecorderConfig
from stepreel.keep import failed
from stepreel.storage.manifest import read_manifest
from stepreel.wrappers.vector import LastPicture, RecordVideo

from .film import Film, numbers_in

Seen = tuple[Any, ...]
SHIFT = 1000
"""Environment i counts its pictures from i * SHIFT."""


def films(lengths: Sequence[Sequence[int]]) -> list[Callable[[], Film]]:
    return [partial(Film, own, index * SHIFT) for index, own in enumerate(lengths)]


def play(envs: Any, calls: Sequence[str]) -> list[Seen]:
    """Make the calls, and return after each of them what can be seen from outside."""
    seen: list[Seen] = []
    over = np.zeros(envs.num_envs, dtype=bool)
    for call in ("reset", *calls, "close"):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            if call == "reset":
                envs.reset()
                over[:] = False
            elif call == "step":
                if envs.autoreset_mode is AutoresetMode.DISABLED and over.any():
                    envs.reset(options={"reset_mask": over})
                *_, terminated, truncated, _ = envs.step(np.zeros(envs.num_envs, dtype=int))
                over = np.logical_or(terminated, truncated)
            elif call == "close":
                envs.close()
            elif call == "start":
                envs.start_recording(f"{envs.name_prefix}-by-hand-{len(seen)}")
            elif envs.recording:
                envs.stop_recording()
        warned = [str(warning.message) for warning in caught]
        seen.append((call, envs.recording, envs.step_id, envs.episode_id, envs.frame_rows, envs.frame_cols, warned))
    return seen


def clips_in(folder: Path, rows: int, columns: int) -> dict[str, list[list[int]]]:
    """Return the numbers in each place of each file."""
    places = [(row, column) for row in range(rows) for column in range(columns)]
    return {path.name: [numbers_in(path, place) for place in places] for path in folder.glob("*.mp4")}


few_numbers = st.frozensets(st.integers(0, 12), max_size=4)


@given(
    calls=st.lists(st.sampled_from(["step"] * 15 + ["reset", "start", "stop"]), min_size=8, max_size=30),
    lengths=st.lists(st.lists(st.integers(2, 6), min_size=1, max_size=3), min_size=1, max_size=4),
    mode=st.sampled_from([AutoresetMode.NEXT_STEP, AutoresetMode.DISABLED]),
    episodes=st.none() | few_numbers,
    steps=st.none() | few_numbers,
    video_length=st.integers(0, 7),
    record_first_only=st.booleans(),
    ratio=st.sampled_from([(1, 1), (16, 9), (1, 4)]),
)
@settings(max_examples=6, phases=[Phase.explicit, Phase.generate])  # Each example costs processes.
def test_files_frames_attributes_and_warnings_are_gymnasiums(
    tmp_path_factory: pytest.TempPathFactory,
    calls: list[str],
    lengths: list[list[int]],
    mode: AutoresetMode,
    episodes: frozenset[int] | None,
    steps: frozenset[int] | None,
    video_length: int,
    record_first_only: bool,
    ratio: tuple[int, int],
) -> None:
    folder = tmp_path_factory.mktemp("films")
    found = []
    for kind in (gymnasium.wrappers.vector.RecordVideo, RecordVideo):
        envs: Any = kind(
            SyncVectorEnv(films(lengths), autoreset_mode=mode),
            str(folder / kind.__module__),
            video_aspect_ratio=ratio,
            record_first_only=record_first_only,
            episode_trigger=None if episodes is None else episodes.__contains__,
            step_trigger=None if steps is None else steps.__contains__,
            video_length=video_length,
        )
        seen = play(envs, calls)
        found.append((seen, clips_in(folder / kind.__module__, max(envs.frame_rows, 1), max(envs.frame_cols, 1))))
    theirs, ours = found
    assert ours == theirs


def test_the_attributes_are_gymnasiums(tmp_path: Path) -> None:
    names = []
    for kind in (gymnasium.wrappers.vector.RecordVideo, RecordVideo):
        envs: Any = kind(SyncVectorEnv(films([[3]])), str(tmp_path / kind.__module__))
        envs.reset()
        names.append({name for name in dir(envs) if not name.startswith("_")})
        envs.close()
    assert names[0] - names[1] == {"recorded_frames"}


def play_same_step(envs: Any, steps: int) -> list[bool]:
    envs.reset()
    recording = [envs.recording]
    for _ in range(steps):
        envs.step(np.zeros(envs.num_envs, dtype=int))
        recording.append(envs.recording)
    envs.close()
    return recording


def test_same_step_autoreset_loses_no_last_picture(output_dir: Path) -> None:
    """Episodes of 3 and 5 steps: the pictures are 0 to 3, 4 to 7, ..., and 1000 to 1005, 1006 to 1011, ..."""
    envs = SyncVectorEnv(films([[3], [5]]), autoreset_mode=AutoresetMode.SAME_STEP)
    play_same_step(RecordVideo(envs, str(output_dir), episode_trigger=lambda _: True), 9)
    clips = clips_in(output_dir, 1, 2)
    assert {name: first for name, (first, _) in clips.items()} == {
        "rl-video-episode-0.mp4": [0, 1, 2, 3],
        "rl-video-episode-1.mp4": [4, 5, 6, 7],
        "rl-video-episode-2.mp4": [8, 9, 10, 11],
        "rl-video-episode-3.mp4": [12],
    }
    # The other environment ends within a clip: its last picture is shown, and its reset's is not.
    assert clips["rl-video-episode-0.mp4"][1] == [1000, 1001, 1002, 1003]
    assert clips["rl-video-episode-1.mp4"][1] == [1003, 1004, 1005, 1007]
    assert all(type(env) is Film for env in envs.envs)


def test_same_step_clips_of_fixed_length_are_as_long_as_gymnasiums(output_dir: Path, tmp_path: Path) -> None:
    found = []
    for kind, folder in ((gymnasium.wrappers.vector.RecordVideo, tmp_path / "theirs"), (RecordVideo, output_dir)):
        envs = SyncVectorEnv(films([[3], [5]]), autoreset_mode=AutoresetMode.SAME_STEP)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            wrapped = kind(envs, str(folder), step_trigger=lambda step: step in (0, 7), video_length=4)
        found.append((play_same_step(wrapped, 14), clips_in(folder, 1, 2)))
    (their_recording, theirs), (our_recording, ours) = found
    assert our_recording == their_recording
    assert {name: len(first) for name, (first, _) in ours.items()} == {
        name: len(first) for name, (first, _) in theirs.items()
    }
    assert theirs["rl-video-step-0.mp4"][0] == [1, 2, 4, 5, 6]
    assert ours["rl-video-step-0.mp4"][0] == [1, 2, 3, 5, 6]


def test_sub_environments_in_other_processes_give_their_last_picture_when_they_are_told_to(output_dir: Path) -> None:
    told = AsyncVectorEnv(films([[3]]), autoreset_mode=AutoresetMode.SAME_STEP)
    with pytest.warns(UserWarning, match=r"will not contain the last frame of the episode.*LastPicture"):
        RecordVideo(told, str(output_dir / "without"))
    told.close()
    make = [lambda: LastPicture(Film([3])), lambda: LastPicture(Film([5], SHIFT))]
    envs = AsyncVectorEnv(make, autoreset_mode=AutoresetMode.SAME_STEP)
    play_same_step(RecordVideo(envs, str(output_dir / "with"), episode_trigger=lambda _: True), 5)
    assert clips_in(output_dir / "with", 1, 2) == {
        "rl-video-episode-0.mp4": [[0, 1, 2, 3], [1000, 1001, 1002, 1003]],
        "rl-video-episode-1.mp4": [[4, 5, 6], [1003, 1004, 1005]],
    }


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
def test_chosen_sub_environments_have_files_of_their_own(output_dir: Path, mode: AutoresetMode) -> None:
    """Clips follow the episodes of the first that was chosen: 4 steps here, whatever the others do."""
    closed: list[Clip] = []
    envs = RecordVideo(
        SyncVectorEnv(films([[2], [6], [4]]), autoreset_mode=mode),
        str(output_dir),
        episode_trigger=lambda episode: episode == 1,
        env_indices=[2, 1],
        on_clip_closed=closed.append,
    )
    play_same_step(envs, 10)
    assert {path.name: numbers_in(path) for path in output_dir.glob("*.mp4")} == {
        "rl-video-env-2-episode-1.mp4": [2005, 2006, 2007, 2008, 2009],
        "rl-video-env-1-episode-1.mp4": {
            AutoresetMode.NEXT_STEP: [1005, 1006, 1007, 1008, 1009],
            AutoresetMode.SAME_STEP: [1004, 1005, 1006, 1008, 1009],
        }[mode],
    }
    assert sorted(clip.stream for clip in closed) == ["env-1", "env-2"]
    assert {clip.state for clip in closed} == {ClipState.COMPLETE}


def test_only_what_is_recorded_is_rendered(output_dir: Path) -> None:
    class Counting(Film):
        rendered = 0

        def render(self) -> Any:
            self.rendered += 1
            return super().render()

    base = SyncVectorEnv([Counting] * 3)
    sub_envs: list[Any] = list(base.envs)
    envs = RecordVideo(base, str(output_dir), step_trigger=lambda step: step == 2, video_length=2, env_indices=[1])
    play_same_step(envs, 9)
    assert [env.rendered for env in sub_envs] == [0, 3, 0]
    assert numbers_in(output_dir / "rl-video-env-1-step-2.mp4") == [3, 4, 5]


def test_a_vector_environment_without_sub_environments_is_recorded(output_dir: Path) -> None:
    envs = gymnasium.make_vec(
        "CartPole-v1", num_envs=2, render_mode="rgb_array", vectorization_mode="vector_entry_point"
    )
    play_same_step(RecordVideo(envs, str(output_dir), env_indices=[1]), 3)
    clip = read_manifest(output_dir / "rl-video-env-1-episode-0.json")
    assert (clip.state, clip.frames.encoded, clip.width, clip.height) == (ClipState.COMPLETE, 4, 600, 400)


def test_pictures_of_different_sizes_side_by_side_are_dropped_by_name(output_dir: Path) -> None:
    class Wide(Film):
        def render(self) -> Any:
            return np.zeros((32, 64, 3), dtype=np.uint8)

    envs = RecordVideo(SyncVectorEnv([Film, Wide]), str(output_dir))
    play_same_step(envs, 2)
    clip = read_manifest(output_dir / "rl-video-episode-0.json")
    assert (clip.state, clip.frames.requested, clip.frames.dropped) == (ClipState.FAILED, 3, {"capture_failed": 3})
    assert "pictures side by side must be of one size; got 32x32, 64x32" in (output_dir / "session.jsonl").read_text()


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({"env_indices": [2]}, "env_indices: got [2]; allowed: different whole numbers from 0 to 1"),
        ({"env_indices": [0, 0]}, "env_indices: got [0, 0]"),
        ({"env_indices": []}, "env_indices: got []"),
        ({"env_indices": [0], "record_first_only": True}, "env_indices: got it and record_first_only"),
        ({"video_aspect_ratio": (1, 0)}, "video_aspect_ratio: got (1, 0); allowed: two numbers above 0"),
        ({"video_length": -1}, "video_length: got -1"),
        ({"config": RecorderConfig(output_dir="videos", keep=failed)}, "config.keep: got <function failed"),
        ({"backend": "camera", "env_indices": [0]}, "backend: got 'camera'; allowed: one of auto"),
        ({"backend": "mujoco"}, "backend: got 'mujoco'; allowed: 'auto' or 'render', since only the env_indices"),
    ],
)
def test_arguments_that_can_not_work_are_refused(tmp_path: Path, arguments: dict[str, Any], problem: str) -> None:
    envs = SyncVectorEnv([Film, Film])
    with pytest.raises(ConfigurationError) as refused:
        RecordVideo(envs, str(tmp_path / "videos"), **arguments)
    assert str(refused.value).startswith(problem)
    assert not (tmp_path / "videos").exists()


def test_a_render_mode_without_pictures_is_refused_as_gymnasium_does(tmp_path: Path) -> None:
    messages = []
    for kind in (gymnasium.wrappers.vector.RecordVideo, RecordVideo):
        envs = SyncVectorEnv([partial(Film, render_mode=None)])
        with pytest.raises(ValueError, match="Render mode is None") as refused:
            kind(envs, str(tmp_path / "videos"))
        messages.append(str(refused.value))
    assert messages[0] == messages[1]
