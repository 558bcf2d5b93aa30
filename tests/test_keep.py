"""Clips that stay, or go, by how their episodes went."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from stepreel import AsyncRecorder, Clip, ClipState, DropCause, Episode, Recorder, RecorderConfig
from stepreel.backends.synthetic import SyntheticBackend
from stepreel.keep import BestReturn

from .recordings import check_clip, is_balanced


def config_at(output_dir: Path, keep: Callable[[Episode], bool], *, video_length: int = 0) -> RecorderConfig:
    trigger = None if video_length else lambda episode: True
    return RecorderConfig(
        output_dir=output_dir, video_length=video_length, video_interval=20, episode_trigger=trigger, keep=keep
    )


def run_episodes(recorder: Recorder, returns: list[float], steps: int = 10) -> None:
    for episode_return in returns:
        recorder.reset()
        for _ in range(steps):
            recorder.step()
            assert is_balanced(recorder.statistics().frames)
        recorder.end_episode(episode_return=episode_return, terminated=True)


@pytest.mark.parametrize("snapshot", [False, True])
def test_only_the_clips_of_the_best_episodes_stay(output_dir: Path, snapshot: bool) -> None:
    heard: list[str] = []
    config = config_at(output_dir, BestReturn())
    with Recorder(
        config, SyntheticBackend(snapshot=snapshot), on_clip_closed=lambda one: heard.append(one.name)
    ) as recorder:
        run_episodes(recorder, [1.0, 0.5, 2.0, 2.0])
    names = ["rl-video-episode-0", "rl-video-episode-2"]
    assert [clip.name for clip in recorder.summary().clips] == names
    assert sorted(heard) == names
    assert sorted(path.name for path in output_dir.glob("rl-video*")) == [
        f"{name}{suffix}" for name in names for suffix in (".json", ".mp4")
    ]
    for clip in recorder.summary().clips:
        check_clip(output_dir, clip)
    statistics = recorder.statistics()
    assert (statistics.clips_closed, statistics.clips_discarded) == (2, 2)
    assert statistics.frames.dropped == {DropCause.DISCARDED: 22}
    assert is_balanced(statistics.frames)
    assert (output_dir / "session.jsonl").read_text().count("clip.discarded") == 2


def test_a_clip_that_is_whole_waits_for_the_end_of_its_episode(output_dir: Path) -> None:
    heard: list[Clip] = []
    config = config_at(output_dir, lambda episode: bool(episode.info["fell"]), video_length=5)
    with Recorder(config, SyntheticBackend(), on_clip_closed=heard.append) as recorder:
        for fell in (True, False):
            recorder.reset()
            for _ in range(20):
                recorder.step()
            assert recorder.flush(timeout_s=20)
            assert [clip.name for clip in heard] == ([] if fell else ["rl-video-step-0"])
            assert (output_dir / f"rl-video-step-{0 if fell else 20}.mp4").exists()
            recorder.end_episode(info={"fell": fell})
            assert recorder.flush(timeout_s=20)
        assert [clip.name for clip in heard] == ["rl-video-step-0"]
        assert not list(output_dir.glob("rl-video-step-20*"))


def test_what_is_not_drawn_yet_is_not_drawn_any_more(output_dir: Path) -> None:
    config = config_at(output_dir, lambda episode: False)
    with Recorder(config, SyntheticBackend(snapshot=True, render_delay_s=0.2)) as recorder:
        run_episodes(recorder, [0.0, 0.0], steps=50)
        recorder.reset()
        assert recorder.flush(timeout_s=10)
    assert recorder.statistics().encode.count < 50
    assert recorder.summary().clips[:-1] == ()


def test_a_clip_whose_episode_never_ended_stays(output_dir: Path) -> None:
    with Recorder(config_at(output_dir, lambda episode: False), SyntheticBackend()) as recorder:
        recorder.reset()
        for _ in range(10):
            recorder.step()
    (clip,) = recorder.summary().clips
    assert clip.state is ClipState.COMPLETE
    check_clip(output_dir, clip)


def test_a_rule_that_raises_keeps_the_clip_and_is_logged(output_dir: Path) -> None:
    def rule(episode: Episode) -> bool:
        raise KeyError("no such number")

    with Recorder(config_at(output_dir, rule), SyntheticBackend()) as recorder:
        run_episodes(recorder, [0.0])
    assert [clip.frames.encoded for clip in recorder.summary().clips] == [11]
    assert "keep.failed" in (output_dir / "session.jsonl").read_text()


def test_without_a_rule_the_end_of_an_episode_changes_nothing(output_dir: Path) -> None:
    config = RecorderConfig(output_dir=output_dir, video_length=10, video_interval=0)
    with Recorder(config, SyntheticBackend()) as recorder:
        run_episodes(recorder, [0.0])
    assert [clip.state for clip in recorder.summary().clips] == [ClipState.COMPLETE]


async def test_episodes_end_in_async_code_too(output_dir: Path) -> None:
    seen: list[Episode] = []

    def rule(episode: Episode) -> bool:
        seen.append(episode)
        return False

    async with AsyncRecorder(config_at(output_dir, rule), SyntheticBackend()) as recorder:
        for number in range(2):
            await recorder.reset()
            for _ in range(5 + number):
                await recorder.step()
            recorder.end_episode(episode_return=3, truncated=True)
        await recorder.reset()
    assert [(one.number, one.step_count, one.episode_return) for one in seen] == [(0, 5, 3.0), (1, 6, 3.0)]
    assert [clip.name for clip in recorder.summary().clips] == ["rl-video-episode-2"]
