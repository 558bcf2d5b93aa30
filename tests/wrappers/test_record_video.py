"""`stepreel.wrappers.RecordVideo` beside Gymnasium's own: the same files, frames, attributes, warnings and errors."""

from __future__ import annotations

import argparse
import copy
import json
import pickle
import signal
import subprocess
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium
import gymnasium.wrappers
import numpy as np
import psutil
import pytest
from gymnasium.utils.save_video import capped_cubic_video_schedule
from gymnasium.vector import AsyncVectorEnv
from gymnasium.wrappers import RenderCollection
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from stepreel import Clip, ClipState, ConfigurationError, RecorderConfig, RecordingError, add_video_arguments
from stepreel.backends.synthetic import SyntheticBackend
from stepreel.keep import BestReturn
from stepreel.storage.manifest import read_manifest
from stepreel.wrappers import RecordVideo, base

from ..recordings import poll_until, shown_steps
from .film import SIDE, Film, numbers_in, picture_of

Seen = tuple[Any, ...]


def play(env: Any, calls: Sequence[str]) -> list[Seen]:
    """Make the calls, and return after each of them what can be seen from outside."""
    seen: list[Seen] = []
    is_over = False
    for call in ("reset", *calls, "close"):
        given: object = None
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            if call == "reset" or (call == "step" and is_over):
                env.reset()
                is_over = False
            elif call == "step":
                *_, terminated, truncated, _ = env.step(0)
                is_over = terminated or truncated
            elif call == "render":
                given = np.array(env.render()).tolist()
            elif call == "close":
                env.close()
            elif call == "start":
                env.start_recording(f"{env.name_prefix}-by-hand-{len(seen)}")
            elif env.recording:
                env.stop_recording()
        warned = [str(warning.message) for warning in caught]
        seen.append((call, env.recording, env.step_id, env.episode_id, env._video_name, warned, given))
    return seen


def films_in(folder: Path) -> dict[str, list[int]]:
    return {path.name: numbers_in(path) for path in folder.glob("*.mp4")}


calls = st.lists(st.sampled_from(["step"] * 12 + ["reset", "render", "start", "stop"]), min_size=8, max_size=40)
few_numbers = st.frozensets(st.integers(0, 20), max_size=4)


@given(
    calls=calls,
    lengths=st.lists(st.integers(1, 6), min_size=1, max_size=4),
    episodes=st.none() | few_numbers,
    steps=st.none() | few_numbers,
    video_length=st.integers(0, 7),
    collection=st.sampled_from([None, {"pop_frames": True}, {"pop_frames": False, "reset_clean": True}]),
)
@settings(max_examples=6, phases=[Phase.explicit, Phase.generate])  # Each example costs processes.
def test_files_frames_attributes_and_warnings_are_gymnasiums(
    tmp_path_factory: pytest.TempPathFactory,
    calls: list[str],
    lengths: list[int],
    episodes: frozenset[int] | None,
    steps: frozenset[int] | None,
    video_length: int,
    collection: dict[str, bool] | None,
) -> None:
    folder = tmp_path_factory.mktemp("films")
    found = []
    for kind in (gymnasium.wrappers.RecordVideo, RecordVideo):
        env: Any = Film(lengths)
        env = kind(
            env if collection is None else RenderCollection(env, **collection),
            str(folder / kind.__module__),
            episode_trigger=None if episodes is None else episodes.__contains__,
            step_trigger=None if steps is None else steps.__contains__,
            video_length=video_length,
        )
        found.append((play(env, calls), films_in(folder / kind.__module__)))
    theirs, ours = found
    assert ours == theirs


def test_the_attributes_are_gymnasiums(tmp_path: Path) -> None:
    names = []
    for kind in (gymnasium.wrappers.RecordVideo, RecordVideo):
        env: Any = kind(Film(), str(tmp_path / kind.__module__))
        env.reset()
        names.append({name for name in dir(env) if not name.startswith("_")})
        env.close()
    assert names[0] - names[1] == {"recorded_frames"}


class Torn(Film):
    """Its picture number 3 is something else."""

    torn: Any = None

    def render(self) -> Any:
        return self.torn if self.number == 3 else super().render()


def test_what_is_no_picture_ends_the_clip_as_gymnasiums(tmp_path: Path) -> None:
    found = []
    for kind in (gymnasium.wrappers.RecordVideo, RecordVideo):
        folder = tmp_path / kind.__module__
        seen = play(kind(Torn((8,)), str(folder), video_length=20), ["step"] * 6)
        found.append((seen, films_in(folder)))
    theirs, ours = found
    assert ours == theirs
    assert ours[1] == {"rl-video-episode-0.mp4": [0, 1, 2]}
    assert any(
        "expected type of frame returned by render to be a numpy array" in str(warned) for *_, warned, _ in ours[0]
    )


def test_floats_cost_the_frame_and_are_named(output_dir: Path) -> None:
    env = Torn((8,))
    env.torn = picture_of(3) / 255
    play(RecordVideo(env, str(output_dir)), ["step"] * 6)
    clip = read_manifest(output_dir / "rl-video-episode-0.json")
    assert (clip.state, clip.frames.requested, clip.frames.dropped) == (ClipState.INCOMPLETE, 7, {"capture_failed": 1})
    assert numbers_in(output_dir / "rl-video-episode-0.mp4") == [0, 1, 2, 4, 5, 6]
    assert "got an array of float64, shape [32, 32, 3]" in (output_dir / "session.jsonl").read_text()


def test_a_picture_of_another_size_goes_on_in_another_file(output_dir: Path) -> None:
    env = Torn((8,))
    env.torn = np.zeros((2 * SIDE, 2 * SIDE, 3), dtype=np.uint8)
    play(RecordVideo(env, str(output_dir)), ["step"] * 6)
    clip = read_manifest(output_dir / "rl-video-episode-0.json")
    assert clip.state is ClipState.COMPLETE
    assert [segment.frames for segment in clip.segments] == [3, 1, 3]


def test_a_render_that_raises_costs_the_frame_and_not_the_training(output_dir: Path) -> None:
    class Broken(Film):
        def render(self) -> Any:
            if self.number == 2:
                raise RuntimeError("no light")
            return super().render()

    play(RecordVideo(Broken(), str(output_dir)), ["step"] * 4)
    assert films_in(output_dir) == {"rl-video-episode-0.mp4": [0, 1, 3, 4]}
    assert "env.render() failed: RuntimeError: no light" in (output_dir / "session.jsonl").read_text()


def test_a_trigger_that_raises_opens_no_clip_unless_the_recorder_is_strict(output_dir: Path) -> None:
    def trigger(step: int) -> bool:
        return 1 // (step - 1) == 1  # Fails at step 1, fires at step 2.

    env = RecordVideo(Film(), str(output_dir), step_trigger=trigger)
    seen = play(env, ["step"] * 4)
    assert [recording for _, recording, *_ in seen] == [False, False, False, True, True, False]
    assert "raised ZeroDivisionError" in str(seen[2])
    with pytest.warns(UserWarning, match="There is a folder"):
        strict = RecordVideo(
            Film(), str(output_dir), step_trigger=trigger, config=RecorderConfig(output_dir=output_dir, strict=True)
        )
    strict.reset()
    strict.step(0)
    with pytest.raises(ZeroDivisionError):
        strict.step(0)
    strict.close()


def test_a_strict_recorder_raises_once_frames_were_lost(output_dir: Path) -> None:
    env = Torn((8,))
    env.torn = picture_of(3) / 255
    strict = RecordVideo(env, str(output_dir), config=RecorderConfig(output_dir=output_dir, strict=True))
    with pytest.raises(RecordingError):
        play(strict, ["step"] * 6)
    strict.close()
    assert env.is_closed


def test_no_name_is_taken_twice_and_the_warning_says_so(output_dir: Path) -> None:
    play(RecordVideo(Film(), str(output_dir)), ["step"])
    with pytest.warns(UserWarning, match=f"There is a folder {output_dir} already. Its videos stay"):
        again = RecordVideo(Film(first=100), str(output_dir))
    play(again, ["step"])
    assert films_in(output_dir) == {"rl-video-episode-0.mp4": [0, 1], "rl-video-episode-0-2.mp4": [100, 101]}


def events_in(folder: Path) -> list[str]:
    return [json.loads(line)["event"] for line in (folder / "session.jsonl").read_text().splitlines()]


def test_the_second_of_two_recorders_on_one_folder_is_told_so(output_dir: Path) -> None:
    first = RecordVideo(Film(), str(output_dir))
    first.reset()
    assert "session.folder_shared" not in events_in(output_dir)
    with pytest.warns(UserWarning, match="There is a folder"):
        second = RecordVideo(Film(first=100), str(output_dir))
    second.reset()
    assert events_in(output_dir).count("session.folder_shared") == 1
    first.close()
    second.close()
    assert sorted(films_in(output_dir).values()) == [[0], [100]]


@pytest.mark.parametrize("render_mode", [None, "human", "ansi"])
def test_a_render_mode_without_pictures_is_refused_as_gymnasium_does(tmp_path: Path, render_mode: str | None) -> None:
    messages = []
    for kind in (gymnasium.wrappers.RecordVideo, RecordVideo):
        with pytest.raises(ValueError, match="Render mode is") as refused:
            kind(Film(render_mode=render_mode), str(tmp_path / "videos"))
        messages.append(str(refused.value))
    assert messages[0] == messages[1]
    assert not (tmp_path / "videos").exists()


def test_a_backend_of_ones_own_needs_no_render_mode(output_dir: Path) -> None:
    env = RecordVideo(Film((3,), render_mode=None), str(output_dir), backend=SyntheticBackend(snapshot=True))
    play(env, ["step"] * 4)
    assert {path.name: shown_steps(path) for path in output_dir.glob("*.mp4")} == {
        "rl-video-episode-0.mp4": [0, 1, 2, 3],
        "rl-video-episode-1.mp4": [4],
    }


@pytest.mark.parametrize(
    ("arguments", "settings", "problem"),
    [
        ({}, {"output_dir": "elsewhere"}, "config.output_dir: got "),
        ({}, {"video_length": 7}, "config.video_length: got 7; allowed: what video_length of the wrapper is"),
        ({}, {"video_interval": 900}, "config.video_interval: got 900; allowed: its default, or a trigger of the"),
        ({}, {"step_offset": 5}, "config.step_offset: got 5; allowed: its default"),
        ({}, {"episode_trigger": bool}, "config.episode_trigger: got <class 'bool'>; allowed: its default"),
        ({}, {"step_trigger": bool}, "config.step_trigger: got <class 'bool'>; allowed: its default"),
        ({}, {"name_prefix": "run"}, "config.name_prefix: got 'run'; allowed: what name_prefix of the wrapper is"),
        ({"fps": 10}, {"fps": 20}, "config.fps: got 20; allowed: what fps of the wrapper is"),
        ({"video_length": 2}, {"frame_stride": 3}, "frame_stride: got 3; allowed: at most video_length (2)"),
        ({"video_length": -1}, {}, "video_length: got -1"),
        ({"name_prefix": "a/b"}, {}, "name_prefix: got 'a/b'"),
        ({"fps": 0}, {}, "fps: got 0.0; allowed: a number above 0"),
        ({"fps": 0.5, "backend": "camera"}, {}, "backend: got 'camera'; allowed: one of auto"),
    ],
)
def test_arguments_that_can_not_work_or_contradict_one_another_are_refused_by_name(
    output_dir: Path, arguments: dict[str, Any], settings: dict[str, Any], problem: str
) -> None:
    config = RecorderConfig(**{"output_dir": output_dir, **settings})
    with pytest.raises(ConfigurationError) as refused:
        RecordVideo(Film(), str(output_dir), config=config, **arguments)
    assert str(refused.value).startswith(problem)
    assert not output_dir.exists()


def test_flags_of_a_command_line_go_together_with_triggers(output_dir: Path) -> None:
    parser = argparse.ArgumentParser()
    add_video_arguments(parser)
    args = parser.parse_args(["--video_length", "2", "--video_interval", "4", "--step_offset", "1"])
    config = RecorderConfig.from_arguments(args, log_dir=output_dir)
    env = RecordVideo(
        Film((30,)),
        config.output_dir,
        step_trigger=lambda step: step % args.video_interval == args.step_offset,
        video_length=args.video_length,
        config=config,
    )
    play(env, ["step"] * 8)
    assert films_in(output_dir / "videos" / "train") == {
        "rl-video-step-1.mp4": [2, 3, 4],
        "rl-video-step-5.mp4": [6, 7, 8],
    }


def test_all_other_settings_come_from_the_configuration(output_dir: Path) -> None:
    closed: list[Clip] = []
    config = RecorderConfig(output_dir=output_dir, frame_stride=2, video_length=6, keep_last_n_clips=1)
    env = RecordVideo(Film((9,)), str(output_dir), video_length=6, fps=20, config=config, on_clip_closed=closed.append)
    play(env, ["step"] * 9 + ["reset"])
    assert [(clip.name, clip.fps, clip.frame_stride) for clip in closed] == [
        ("rl-video-episode-0", 10.0, 2),
        ("rl-video-episode-1", 10.0, 2),
    ]
    assert [clip.frames.encoded for clip in closed] == [4, 1]
    assert films_in(output_dir) == {"rl-video-episode-1.mp4": [10]}


def test_a_folder_stays_where_it_was_when_the_program_changes_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    env = RecordVideo(Film(), "videos")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    play(env, ["step"])
    assert films_in(tmp_path / "videos") == {"rl-video-episode-0.mp4": [0, 1]}
    assert list((tmp_path / "elsewhere").iterdir()) == []


@pytest.mark.filterwarnings("ignore:.*There is a folder")  # It is made twice: to look at its spaces, and to be used.
def test_an_environment_in_a_process_of_a_vector_environment_is_recorded_there(output_dir: Path) -> None:
    envs = AsyncVectorEnv([lambda: RecordVideo(Film((3,)), str(output_dir), episode_trigger=lambda _: True)])
    envs.reset()
    for _ in range(5):
        envs.step(np.zeros(1, dtype=int))
    envs.close()
    assert films_in(output_dir) == {"rl-video-episode-0.mp4": [0, 1, 2, 3], "rl-video-episode-1.mp4": [4, 5]}


def test_an_environment_that_was_closed_before_leaves_its_clip_whole(output_dir: Path) -> None:
    env = RecordVideo(Film(), str(output_dir))
    env.reset()
    env.step(0)
    env.unwrapped.close()
    env.close()
    assert films_in(output_dir) == {"rl-video-episode-0.mp4": [0, 1]}


def test_closing_finishes_the_clips_although_the_environment_can_not_be_closed(output_dir: Path) -> None:
    class Stuck(Film):
        def close(self) -> None:
            raise RuntimeError("stuck")

    env = RecordVideo(Stuck(), str(output_dir))
    env.reset()
    with pytest.raises(RuntimeError, match="stuck"):
        env.close()
    assert films_in(output_dir) == {"rl-video-episode-0.mp4": [0]}


def test_an_environment_that_is_used_again_after_closing_records_again(output_dir: Path) -> None:
    class Lasting(Film):
        def close(self) -> None:
            pass

    env = RecordVideo(Lasting(), str(output_dir), episode_trigger=lambda _: True)
    for _ in range(2):
        env.reset()
        env.step(0)
        env.close()
        assert env.recorder is None
    assert films_in(output_dir) == {"rl-video-episode-0.mp4": [0, 1], "rl-video-episode-1.mp4": [2, 3]}


QUIET = """
import sys, threading
import psutil
from tests.wrappers.film import Film
before = set(sys.modules)
from stepreel.wrappers import RecordVideo
import stepreel.wrappers.vector
env = RecordVideo(Film(), sys.argv[1])
heavy = {"anyio", "moviepy", "mujoco", "newton", "OpenGL", "pyglet", "stepreel.blocking", "structlog", "warp"}
print(len(threading.enumerate()), len(psutil.Process().children()), *sorted(heavy & (set(sys.modules) - before)))
"""


def run_script(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=50)


def test_wrapping_starts_nothing_and_loads_nothing_heavy(output_dir: Path) -> None:
    done = run_script(QUIET, output_dir)
    assert (done.stdout.split(), done.stderr) == (["1", "0"], "")


def test_the_worker_is_warm_before_a_clip_opens(output_dir: Path) -> None:
    env = RecordVideo(Film((20,)), str(output_dir), step_trigger=lambda step: step == 5)
    env.reset()
    before, workers = env.recording, psutil.Process().children()
    assert len(workers) == 1
    for _ in range(6):
        env.step(0)
    assert (before, env.recording) == (False, True)
    assert psutil.Process().children() == workers
    env.close()


FORGETFUL = """
import sys
from tests.wrappers.film import Film
from stepreel.wrappers import RecordVideo
env = RecordVideo(Film(), sys.argv[1])
env.reset()
env.step(0)
if sys.argv[2] == "deleted":
    del env
    print("went on")
"""


@pytest.mark.parametrize("end", ["ended", "deleted"])
def test_a_program_that_forgets_to_close_ends_with_its_last_clip_whole(output_dir: Path, end: str) -> None:
    done = run_script(FORGETFUL, output_dir, end)
    assert done.returncode == 0
    assert films_in(output_dir) == {"rl-video-episode-0.mp4": [0, 1]}
    assert "The environment was never closed, so its last video ends here" in done.stderr
    assert ("went on" in done.stdout) == (end == "deleted")


IMPATIENT = """
import sys
from stepreel.backends.synthetic import SyntheticBackend
from stepreel.wrappers import RecordVideo
from tests.wrappers.film import Film
env = RecordVideo(
    Film((500,), render_mode=None), sys.argv[1], backend=SyntheticBackend(snapshot=True, render_delay_s=0.2)
)
env.reset()
for _ in range(200):
    env.step(0)
print("stepped", flush=True)
raise KeyboardInterrupt
"""


def test_a_second_interrupt_at_the_end_of_a_program_ends_it_without_a_traceback_of_ours(output_dir: Path) -> None:
    command = [sys.executable, "-c", IMPATIENT, str(output_dir)]
    folder = Path(__file__).parents[2]
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as program:
        assert program.stdout is not None
        while "stepped" not in program.stdout.readline():
            pass
        poll_until(lambda: "recorder.finishing" in events_in(output_dir))
        program.send_signal(signal.SIGINT)
        _, stderr = program.communicate(timeout=30)
    assert stderr.count("Traceback") == 1
    assert "Exception ignored" not in stderr
    clip = read_manifest(output_dir / "rl-video-episode-0.json")
    assert clip.state is ClipState.INCOMPLETE
    assert 0 < clip.frames.encoded < 201
    assert len(shown_steps(output_dir / clip.segments[0].file)) == clip.frames.encoded


def test_moviepy_is_not_needed(output_dir: Path) -> None:
    done = run_script("import sys; sys.modules['moviepy'] = None" + FORGETFUL, output_dir, "ended")
    assert done.returncode == 0
    assert films_in(output_dir) == {"rl-video-episode-0.mp4": [0, 1]}


def test_without_a_trigger_the_episodes_are_gymnasiums() -> None:
    episodes = range(5001)
    assert list(filter(base.capped_cubic_video_schedule, episodes)) == list(
        filter(capped_cubic_video_schedule, episodes)
    )


def test_garbage_is_collected_after_clips_where_it_is_asked_for(
    output_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    collected: list[int] = []
    env = RecordVideo(
        Film((2,)), str(output_dir), episode_trigger=lambda _: True, gc_trigger=lambda episode: episode == 1
    )
    monkeypatch.setattr("gc.collect", lambda: collected.append(env.episode_id))
    play(env, ["step"] * 7)
    assert collected == [1]  # Gymnasium, too, counts the new episode before it ends the clip of the one before.


def test_the_specification_makes_the_wrapper_again(output_dir: Path) -> None:
    gymnasium.register("Film-v0", f"{Film.__module__}:Film")
    try:
        env = gymnasium.make("Film-v0", render_mode="rgb_array", disable_env_checker=True)
        wrapped = RecordVideo(env, str(output_dir), video_length=3, config=RecorderConfig(output_dir=output_dir))
        with pytest.warns(UserWarning, match="There is a folder"):
            made: Any = gymnasium.make(wrapped.spec)  # type: ignore[arg-type]
    finally:
        del gymnasium.registry["Film-v0"]
    assert isinstance(made, RecordVideo)
    assert (made.video_folder, made.video_length) == (str(output_dir), 3)
    made.reset()
    made.step(0)
    made.close()
    assert films_in(output_dir) == {"rl-video-episode-0.mp4": [0, 1]}


def test_a_copy_records_clips_of_its_own(output_dir: Path) -> None:
    env = RecordVideo(Film((2,)), str(output_dir))
    assert not pickle.loads(pickle.dumps(env)).recording
    env.reset()
    env.step(0)
    twin = copy.deepcopy(env)
    assert twin.recorder is None
    assert (twin.recording, twin.episode_id) == (False, 0)
    twin.reset()
    twin.close()
    env.close()
    assert films_in(output_dir) == {"rl-video-episode-0.mp4": [0, 1], "rl-video-episode-1.mp4": [2]}


@pytest.mark.parametrize("pops", [None, True])
def test_what_happened_before_is_saved_when_it_is_asked_for(output_dir: Path, pops: bool | None) -> None:
    env: Any = Film((30,))
    env = RecordVideo(
        env if pops is None else RenderCollection(env, pop_frames=pops),
        str(output_dir),
        episode_trigger=lambda episode: False,
        config=RecorderConfig(output_dir=output_dir, ring_s=9.0),
    )
    env.reset()
    for _ in range(9):
        env.step(0)
    env.recorder.save_last(name="fall")
    if pops:
        assert len(env.render()) == 10  # What was held was taken out of the collection.
    env.close()
    assert films_in(output_dir) == {"rl-video-fall.mp4": list(range(10))}


def test_only_clips_of_the_best_episodes_are_kept(tmp_path: Path) -> None:
    returns = iter([3, 1, 5, 4])

    class Rewarded(gymnasium.Wrapper[Any, Any, Any, Any]):
        def reset(self, **given: Any) -> tuple[Any, dict[str, Any]]:
            self.left, self.reward = 3, next(returns)
            return super().reset(**given)

        def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
            self.left -= 1
            return np.zeros(1), self.reward / 3, self.left == 0, False, {}

    config = RecorderConfig(output_dir=tmp_path / "videos", keep=BestReturn())
    env = RecordVideo(Rewarded(Film()), str(tmp_path / "videos"), episode_trigger=lambda episode: True, config=config)
    for _ in range(4):
        env.reset()
        for _ in range(3):
            env.step(0)
    env.close()
    assert sorted(path.name for path in tmp_path.glob("videos/*.mp4")) == [
        "rl-video-episode-0.mp4",
        "rl-video-episode-2.mp4",
    ]
