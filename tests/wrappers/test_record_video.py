"""`stepreel.wrappers.RecordVideo` beside Gymnasium's own: the same files, frames, attributes, warnings and errors."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium
import gymnasium.wrappers
import numpy as np
import pytest
from gymnasium.wrappers import RenderCollection
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from stepreel.wrappers import RecordVideo

from .film import Film, numbers_in

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
